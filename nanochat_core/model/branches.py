"""Rows that hold a prefix once and several continuations of it, and the stream at a few wanted places only.

Scoring the choices of a question needs the loss of a few tokens after a long common prompt. A row here is the prompt
and then its branches, one behind the other: each token sees the prompt and what precedes it in its own branch, at the
position that it would have alone, so the numbers are those of separate sequences while the prompt is computed once.
Two more savings change no number either. The last layer's queries, MLP and the head run at the wanted places alone.
And where windows end, so does what a place can depend on: columns that no wanted place can see any more are dropped,
layer by layer. For inference only: nothing here records a gradient.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_core.model.attention import Attention, causal_attention, masked_attention
from nanochat_core.model.gpt import GPT, Block
from nanochat_core.model.rotary import split_heads
from nanochat_core.model.shape import SMEAR_CHANNELS, window_sizes
from nanochat_core.model.stream import mix, rms_norm

# B rows, P prefix columns, S branch columns, T = P + S, Q wanted places, L visible columns, C model width, D head size
PREFIX, PADDING = 0, -1


@dataclass(frozen=True)
class BranchRows:
    """A batch: P columns of prefixes, padded behind, then S columns of branches, padded behind."""

    ids: Tensor
    """(B, T)"""
    positions: Tensor
    """(B, T): how many tokens precede each one in its own sequence; 0 in padding."""
    branches: Tensor
    """(B, T): 0 in the prefix, 1 and up in the branches, -1 in padding."""
    num_prefix: int
    """P."""
    starts: Tensor
    """(3, number of branches): row, column of a branch's first token, column of its prefix's last token."""
    wanted: Tensor
    """(B, Q): columns whose output is wanted; shorter rows repeat one of theirs."""
    first_wanted: int
    """The first column that is wanted, or that ends the prefix of a row with branches."""
    max_position: int

    def to(self, device: torch.device) -> "BranchRows":
        """The same batch on a device."""
        return replace(
            self,
            ids=self.ids.to(device),
            positions=self.positions.to(device),
            branches=self.branches.to(device),
            starts=self.starts.to(device),
            wanted=self.wanted.to(device),
        )


def visible_tokens(model: GPT) -> int:
    """How many tokens before a place its output can depend on: all windows, and one for the smear."""
    return sum(window_sizes(model.config)) + 1


@torch.no_grad()
def branch_hidden(model: GPT, rows: BranchRows) -> Tensor:
    """The normalised stream (B, Q, C) before the head at the wanted places."""
    state = _State(model, rows)
    *layers, last = model.layers
    for layer, block in enumerate(layers):
        state.run(layer, block)
    return state.finish(len(layers), last)


class _State:
    """The stream between two layers, without the columns that nothing wanted depends on any more."""

    def __init__(self, model: GPT, rows: BranchRows) -> None:
        self.model, self.rows = model, rows
        self.begin = 0  # columns dropped so far
        self.windows = window_sizes(model.config)
        self.first_keys = _first_keys(rows.first_wanted, self.windows)
        embedding = rms_norm(model.embed(rows.ids, dtype=model.compute_dtype))
        self.x = self.x0 = _smear(model, embedding, rows)
        self.middle: Tensor | None = None
        cos, sin = model.rotary(rows.max_position + 1, dtype=model.compute_dtype)
        self.rotation = (cos[rows.positions].unsqueeze(1), sin[rows.positions].unsqueeze(1))  # (B, 1, T, D)
        self._masks: dict[tuple[int, int, bool], Tensor] = {}
        self._drop(self.first_keys[0])

    def run(self, layer: int, block: Block) -> None:
        """One layer at all columns that later layers look at."""
        x = self._mixed(layer)
        q, k, v = self._qkv(layer, block.attn, rms_norm(x))
        prefix = self.rows.num_prefix - self.begin
        keep = self.first_keys[layer + 1] - self.begin
        window = self.windows[layer]
        parts = [causal_attention(q[:, :, :prefix], k[:, :, :prefix], v[:, :, :prefix], window=window)[:, keep:]]
        if q.size(2) > prefix:
            columns = torch.arange(self.rows.num_prefix, self.rows.ids.size(1), device=x.device)
            parts.append(self._attend(q[:, :, prefix:], k, v, columns.expand(len(x), -1), window=window))
        mixed = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]  # (B, T - keep, H, D)
        self._drop(self.begin + keep)
        x = x[:, keep:] + block.attn.proj(mixed.flatten(2))
        self.x = x + block.mlp(rms_norm(x))
        if layer == self.model.config.n_layer // 2:
            self.middle = self._at_wanted(self.x)

    def finish(self, layer: int, block: Block) -> Tensor:
        """The last layer at the wanted places, and what comes before the head."""
        x = self._mixed(layer)
        q, k, v = self._qkv(layer, block.attn, rms_norm(x))
        index = (self.rows.wanted - self.begin)[:, None, :, None].expand(-1, q.size(1), -1, q.size(3))
        mixed = self._attend(q.gather(2, index), k, v, self.rows.wanted, window=self.windows[layer])  # (B, Q, H, D)
        x = self._at_wanted(x) + block.attn.proj(mixed.flatten(2))
        x = x + block.mlp(rms_norm(x))
        middle = x if self.middle is None else self.middle  # a model of one layer: its last is its middle
        return rms_norm(x - self.model.backout_weight.to(x.dtype) * middle)

    def _mixed(self, layer: int) -> Tensor:
        model = self.model
        return mix(self.x, self.x0, x_weight=model.residual_weights[layer], x0_weight=model.skip_weights[layer])

    def _qkv(self, layer: int, attn: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, T, D), k and v (B, K, T, D) of the normalised stream."""
        rows, tokens, _ = x.shape
        qkv = attn.joined_product.product(x, (attn.q.weight, attn.k.weight, attn.v.weight))
        qkv = qkv.view(rows, tokens, attn.n_head + 2 * attn.n_kv_head, attn.head_dim)
        value_embed = None
        if attn.value_gate is not None:
            ids = self.rows.ids[:, self.begin :]
            value_embed = self.model.value_embeds[str(layer)](ids, dtype=x.dtype)  # (B, T, K D)
        added = attn.added_values(x, value_embed)
        return split_heads(qkv, n_head=attn.n_head, gain=attn.gain, rotation=self.rotation, added_values=added)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, columns: Tensor, *, window: int) -> Tensor:
        """Queries q (B, H, Q, D) of the tokens at `columns` (B, Q) against the keys they see; to (B, Q, H, D)."""
        first = max(self.begin, self.rows.first_wanted - window)  # nothing in front of it is in any window
        key = (window, first, columns is self.rows.wanted)
        if key not in self._masks:
            self._masks[key] = self._mask(columns, first, window=window)
        visible = slice(first - self.begin, None)
        return masked_attention(q, k[:, :, visible], v[:, :, visible], mask=self._masks[key])

    def _mask(self, columns: Tensor, first: int, *, window: int) -> Tensor:
        """(B, 1, Q, L): True where a query may look. Padding sees padding, so that no row of the softmax is empty."""
        rows = self.rows
        position, branch = (values.gather(1, columns).unsqueeze(2) for values in (rows.positions, rows.branches))
        key_position, key_branch = rows.positions[:, None, first:], rows.branches[:, None, first:]
        is_reachable = (key_branch == branch) | ((key_branch == PREFIX) & (branch != PADDING))
        return (is_reachable & (key_position <= position) & (key_position >= position - window)).unsqueeze(1)

    def _at_wanted(self, x: Tensor) -> Tensor:
        return x.gather(1, (self.rows.wanted - self.begin).unsqueeze(2).expand(-1, -1, x.size(2)))  # (B, Q, C)

    def _drop(self, begin: int) -> None:
        """Forget the columns before `begin`."""
        dropped, self.begin = begin - self.begin, begin
        if dropped:
            self.x, self.x0 = self.x[:, dropped:], self.x0[:, dropped:]
            self.rotation = (self.rotation[0][:, :, dropped:], self.rotation[1][:, :, dropped:])


def _first_keys(first_wanted: int, windows: list[int]) -> list[int]:
    """For each layer the first column whose keys some wanted place depends on."""
    firsts = []
    for window in reversed(windows):
        first_wanted = max(0, first_wanted - window)
        firsts.append(first_wanted)
    return firsts[::-1]


def _smear(model: GPT, embedding: Tensor, rows: BranchRows) -> Tensor:
    """A gated share of the embedding of the token before; a branch's first token follows the prefix's last."""
    previous = F.pad(embedding[:, :-1], (0, 0, 1, 0))  # (B, T, C)
    row, column, source = rows.starts
    previous[row, column] = embedding[row, source]
    gate = torch.sigmoid(model.smear_gate(embedding[..., :SMEAR_CHANNELS]))  # (B, T, 1)
    return torch.addcmul(embedding, model.smear_weight.to(gate.dtype) * gate, previous)
