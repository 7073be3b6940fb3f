"""Decoding in slots: every row holds one sequence and grows by chunks (prefill) or by single tokens (step).

The same network as `GPT.hidden`, written for one token at a time, where the number of operations and the bytes of the
weights are the time: joined and packed matrices (packed.py), learned scalars as Python floats, rings for windowed
layers (decoder_cache.py). The stream, the norms and the rotation are fp32 whatever the products run in, and so is the
cache on a CPU: attention of one query takes four to twenty times as long there in bf16. In fp32 with plain weights the
logits are those of the training forward; tests hold the two together with every feature on.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.decoder_cache import Places, RingCache
from nanochat_core.inference.native_step import NATIVE_ROWS, NativeStep
from nanochat_core.inference.packed import decode_weights, rounded_rows
from nanochat_core.inference.threads import one_thread, threads_for_flops
from nanochat_core.model.attention import causal_attention
from nanochat_core.model.gpt import GPT
from nanochat_core.model.shape import SMEAR_CHANNELS, count_params, has_value_embed, window_sizes
from nanochat_core.model.stream import RMS_EPS

# R rows, B rows of one call, T tokens, N = B T, C width, V vocabulary, H query heads, K key/value heads, G = H / K,
# D head size, L places of the cache

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""(layer, q (N, H, D), k (N, K, D), v (N, K, D)) to (N, H D); q and k have a root mean square of 1."""


class Decoder:
    """`num_rows` sequences of at most `max_len` tokens; the model's weights may not change while it lives."""

    def __init__(
        self, model: GPT, *, num_rows: int, max_len: int, weights: str = "auto", is_compiled: bool = True
    ) -> None:
        """`is_compiled`: steps of few rows come from compiled code where this machine has it (native_step.py)."""
        if num_rows < 1 or max_len < 1:
            raise ConfigError(f"a decoder of {num_rows} rows of {max_len} tokens", hint="both must be at least 1")
        self.model, self.max_len = model, max_len
        self.weights = decode_weights(model, weights)
        self.cache = self._new_cache(num_rows)
        self._windows = window_sizes(model.config)
        self._num_weights = count_params(model.config).transformer_matrices  # a prompt's token is multiplied by
        cos, sin = model.rotary(max_len, dtype=torch.float32)
        with one_thread():
            self.rotations = torch.stack((cos[:max_len], sin[:max_len]), dim=1)  # (positions, 2, D)
        self.scale = model.config.qk_gain**2 / math.sqrt(model.config.head_dim)
        # reading a learned scalar from a tensor is an operation, and on a GPU a wait, for every layer of every token
        self.residual: list[float] = model.residual_weights.tolist()
        self._skip = model.skip_weights.detach().view(-1, 1, 1)  # (layers, 1, 1)
        self.smear, self.backout = model.smear_weight.item(), model.backout_weight.item()
        self.smear_gate = F.pad(model.smear_gate.weight.detach(), (0, model.config.n_embd - SMEAR_CHANNELS))
        self.tables = {
            layer: model.get_submodule(f"value_embeds.{layer}").get_parameter("weight").detach()
            for layer in range(model.config.n_layer)
            if has_value_embed(model.config, layer)
        }
        self._zero = torch.zeros((), device=model.device)
        widths = (model.config.n_embd, model.config.head_dim)
        self._eps = {width: torch.tensor(math.sqrt(width * RMS_EPS), device=model.device) for width in widths}
        self.ids = torch.zeros(num_rows, dtype=torch.long, device=model.device)  # what a step on the device feeds
        self.is_compiled = is_compiled and NativeStep.fits(self)
        self._native: NativeStep | None = None

    @property
    def lengths(self) -> list[int]:
        """Tokens held by each row."""
        return list(self.cache.lengths)

    @property
    def num_rows(self) -> int:
        return self.cache.num_rows

    def prefill(self, row: int, ids: Sequence[int]) -> Tensor:
        """Append a chunk to a row; the fp32 logits (V,) after its last token."""
        return self.prefill_rows([row], torch.tensor([list(ids)], dtype=torch.long))[0]

    def prefill_rows(self, rows: Sequence[int], ids: Tensor) -> Tensor:
        """Append chunks ids (B, T) to B rows; the fp32 logits (B, V) after their last tokens."""
        num_rows, tokens = ids.shape
        if num_rows != len(rows) or len(set(rows)) != num_rows or ids.numel() == 0:
            raise ConfigError(
                f"chunks of shape {tuple(ids.shape)} for rows {list(rows)}", hint="one chunk for each row"
            )
        self.cache.check_room(rows, tokens)
        logits = self._new_logits(num_rows)
        flops = 2.0 * ids.numel() * self._num_weights if self.model.device.type == "cpu" else math.inf
        with threads_for_flops(flops), torch.inference_mode():
            ids = ids.to(self.model.device)
            row = torch.tensor(rows, device=self.model.device)
            positions = self.cache.positions[row].unsqueeze(1) + torch.arange(tokens, device=self.model.device)
            attend = self._chunk_attention(rows, num_rows, tokens)
            hidden, embedding = self._hidden(ids, self.cache.last_embedding[row], positions.flatten(), attend)
            self._logits(hidden, logits)
            self.cache.last_embedding[row] = embedding
            self.cache.advance(rows, tokens)
        return logits

    def step(self, tokens: Sequence[int] | Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """One token for each of A `rows` (None: all); fp32 logits (A, V). The other rows do not change."""
        active = list(range(self.num_rows)) if rows is None else list(rows)
        if len(active) != len(tokens) or not active:
            raise ConfigError(f"{len(tokens)} tokens for rows {active}", hint="one token for each active row")
        self.cache.check_room(active, 1)
        ids = torch.as_tensor(tokens, dtype=torch.long, device=self.model.device)
        if self.is_compiled and len(active) <= NATIVE_ROWS:
            return self._native_step(active, ids)
        logits = self._new_logits(len(active))
        with torch.inference_mode():
            self._step(active, ids, logits)
        return logits

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` what row `source` is: n samples of one prompt need one prefill."""
        self.cache.copy_row(source, target)

    def scrub_row(self, row: int) -> None:
        """Put zeros where a row may hold what is no number; `clear_row` leaves its old places as they are."""
        self.cache.scrub_row(row)

    def clear_row(self, row: int) -> None:
        """Free a row; its next token starts a new sequence."""
        self.cache.clear_row(row)

    def shrink(self, rows: Sequence[int]) -> None:
        """Keep `rows` only, in that order."""
        self.cache.keep_rows(rows)
        self._native = None  # it holds the addresses of the old cache
        self.ids = self.ids[torch.tensor(rows, device=self.model.device)]

    def check_room(self, rows: Sequence[int]) -> None:
        """Raise `ConfigError` if one of `rows` is full."""
        self.cache.check_room(rows, 1)

    def count(self, rows: Sequence[int]) -> None:
        """Each of `rows` has one token more: on the host, where the device has counted already."""
        for row in rows:
            self.cache.lengths[row] += 1

    def next_logits(self, rows: int, visible: int) -> tuple[Tensor, Tensor]:
        """Logits (B, V) and embeddings (B, C) of rows 0 .. rows - 1 for the tokens in `ids`; nothing is counted.

        `visible` is how many places are looked at, at least what the longest row holds and one. Everything else is read
        from the device, so a captured graph may hold this; running it twice changes nothing.
        """
        logits = torch.empty(rows, self.model.config.vocab_size, device=self.model.device)
        cache = self.cache
        attend = self._step_attention(0, rows, cache.step_places(0, rows, longest=visible - 1, is_uniform=False))
        # a full row may idle here: its position has no rotation, and nobody reads what comes of it
        positions = cache.positions[:rows].clamp(max=self.max_len - 1)
        hidden, embedding = self._hidden(self.ids[:rows].unsqueeze(1), cache.last_embedding[:rows], positions, attend)
        self._logits(hidden, logits)
        return logits, embedding

    def _new_cache(self, num_rows: int) -> RingCache:
        device = self.model.device
        dtype = torch.float32 if device.type == "cpu" else self.weights.dtype
        return RingCache(self.model.config, num_rows, max_len=self.max_len, dtype=dtype, device=device)

    def _new_logits(self, rows: int) -> Tensor:
        # made outside inference mode, so that a caller may write into them
        return torch.empty(rows, self.model.config.vocab_size, device=self.model.device)

    def _native_step(self, active: list[int], ids: Tensor) -> Tensor:
        """Logits (A, V) of the active rows by compiled code, which counts on the device itself."""
        if self._native is None:
            self._native = NativeStep(self)
        logits = self._native(active, ids)
        self.count(active)
        return logits

    def _step(self, active: list[int], ids: Tensor, logits: Tensor) -> None:
        """Feed ids (A,) to the active rows; their logits go into (A, V).

        Attention alone looks at all rows between the first and the last of them, where the cache needs no copy.
        """
        cache, first, last = self.cache, min(active), max(active) + 1
        lengths = [cache.lengths[row] for row in active]
        index = None
        if active != list(range(first, last)):
            index = torch.tensor(active, device=self.model.device) - first
        rows = slice(first, last) if index is None else index + first
        longest = max(lengths)
        places = cache.step_places(first, last, longest=longest, is_uniform=min(lengths) == longest, index=index)
        attend = self._step_attention(first, last, places, index)
        held = cache.last_embedding[rows]
        hidden, cache.last_embedding[rows] = self._hidden(ids.unsqueeze(1), held, cache.positions[rows], attend)
        self._logits(hidden, logits)
        cache.advance(active, 1)

    def _hidden(self, ids: Tensor, last_embedding: Tensor, positions: Tensor, attend: Attend) -> tuple[Tensor, Tensor]:
        """The normalised stream (B, C) of the last of ids (B, T), and that token's embedding (B, C).

        `positions` (N,), `last_embedding` (B, C): of the tokens before.
        """
        config, (rows, tokens) = self.model.config, ids.shape
        flat = ids.flatten()
        embedding = self._unit(F.embedding(flat, self.model.embed.weight))  # (N, C)
        rotation = self.rotations.index_select(0, positions).split_with_sizes((1, 1), 1)  # cos and sin, (N, 1, D)
        x = x0 = self._smeared(embedding, last_embedding, rows)
        skips = (x0 * self._skip).unbind()  # of all layers in one operation
        middle = x
        for layer, products in enumerate(self.weights.layers):
            x = torch.add(skips[layer], x, alpha=self.residual[layer])
            qkv = products.qkv(self._unit(x)).float()  # (N, (H + 2 K) D [+ K])
            q, k, v = self._heads(layer, qkv, flat, rotation)
            mixed = attend(layer, q, k, v)
            if tokens > 1 and layer == config.n_layer - 1:  # from here on only the last token's output is wanted
                mixed, x, middle = (_last_of_each(part, rows) for part in (mixed, x, middle))
            x = x + products.attn_proj(mixed)
            x = x + products.mlp_proj(products.fc(self._unit(x)).relu_().square_())
            if layer == config.n_layer // 2:
                middle = x
        return self._unit(torch.add(x, middle, alpha=-self.backout)), _last_of_each(embedding, rows)

    def _unit(self, x: Tensor) -> Tensor:
        """x over its root mean square along the last dimension; three operations, where a CPU's rms_norm makes six."""
        width = x.size(-1)
        if x.is_cuda:
            return F.rms_norm(x, (width,), eps=RMS_EPS)
        # hypot(norm, sqrt(width eps)) / sqrt(width) is sqrt(mean(x^2) + eps)
        norm = torch.hypot(torch.linalg.vector_norm(x, dim=-1, keepdim=True), self._eps[width])
        return torch.addcdiv(self._zero, x, norm, value=math.sqrt(width))

    def _smeared(self, embedding: Tensor, last_embedding: Tensor, rows: int) -> Tensor:
        """A gated share of the previous token's embedding is added to each one's (N, C)."""
        previous = last_embedding
        if embedding.size(0) != rows:
            by_row = embedding.view(rows, -1, embedding.size(1))  # (B, T, C)
            previous = torch.cat((last_embedding.unsqueeze(1), by_row[:, :-1]), dim=1).flatten(0, 1)
        gate = torch.sigmoid(F.linear(embedding, self.smear_gate))  # (N, 1)
        return torch.addcmul(embedding, gate, previous, value=self.smear)

    def _heads(self, layer: int, qkv: Tensor, ids: Tensor, rotation: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """q (N, H, D) and k (N, K, D), normalised and rotated, and v (N, K, D) with its value embedding."""
        config, (cos, sin) = self.model.config, rotation
        num, n_head, n_kv_head, head_dim = qkv.size(0), config.n_head, config.n_kv_head, config.head_dim
        table = self.tables.get(layer)
        num_gates = 0 if table is None else n_kv_head
        qk, v, gates = qkv.split_with_sizes(((n_head + n_kv_head) * head_dim, n_kv_head * head_dim, num_gates), 1)
        qk, v = self._unit(qk.view(num, -1, head_dim)), v.view(num, -1, head_dim)
        rotated = torch.addcmul(qk * cos, qk.roll(head_dim // 2, -1), sin)
        if table is not None:
            added = F.embedding(ids, table).view(num, n_kv_head, head_dim)
            v = torch.addcmul(v, gates.sigmoid().unsqueeze(-1), added, value=config.value_gate_scale)
        q, k = rotated.split_with_sizes((n_head, n_kv_head), 1)
        return q, k, v

    def _step_attention(self, first: int, last: int, places: dict[int, Places], index: Tensor | None = None) -> Attend:
        """One new token for rows first .. last - 1, or for those of them that `index` (A,) names."""
        cache, config = self.cache, self.model.config

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            at = places[cache.sizes[layer]]
            cache.write(layer, at, k.unsqueeze(2), v.unsqueeze(2))
            keys, values = (store[layer][first:last, :, : at.length] for store in (cache.keys, cache.values))
            if index is not None:
                q = q.new_zeros(last - first, *q.shape[1:]).index_copy_(0, index, q)
            # the queries of one key head stand where a sequence's would: nothing is repeated for grouped heads
            q = q.reshape(last - first, config.n_kv_head, -1, config.head_dim).to(cache.dtype)  # (B, K, G, D)
            mixed = F.scaled_dot_product_attention(q, keys, values, attn_mask=at.mask, scale=self.scale)
            mixed = mixed.reshape(last - first, -1)
            return mixed if index is None else mixed.index_select(0, index)

        return attend

    def _chunk_attention(self, rows: Sequence[int], num_rows: int, tokens: int) -> Attend:
        """New tokens see what their rows hold and each other; onto empty rows as the training forward does."""
        cache, config, dtype = self.cache, self.model.config, self.weights.dtype
        places = cache.chunk_places(rows, tokens)
        row = torch.tensor(rows, device=self.model.device)
        # few lengths of bf16 products on a CPU, for the reason in packed.py; no token sees what is put behind it
        is_rounded = self.model.device.type == "cpu" and dtype == torch.bfloat16
        extra = rounded_rows(tokens) - tokens if is_rounded else 0

        def attend(layer: int, *heads: Tensor) -> Tensor:
            at = places[cache.sizes[layer]]
            q, k, v = (part.view(num_rows, tokens, -1, config.head_dim).transpose(1, 2) for part in heads)
            if at.mask is None:
                padded = (F.pad(part.to(dtype), (0, 0, 0, extra)) for part in (q * self.scale, k, v))
                mixed = causal_attention(*padded, window=self._windows[layer])[:, :tokens]  # (B, T, H, D)
                cache.write(layer, at, k, v)
                return mixed.reshape(num_rows * tokens, -1)
            keys = torch.cat((cache.keys[layer][row, :, : at.length], k.to(cache.dtype)), dim=2)  # (B, K, L + T, D)
            values = torch.cat((cache.values[layer][row, :, : at.length], v.to(cache.dtype)), dim=2)
            cache.write(layer, at, k, v)
            mixed = F.scaled_dot_product_attention(
                q.to(cache.dtype),
                keys,
                values,
                attn_mask=at.mask,
                scale=self.scale,
                enable_gqa=config.n_head != config.n_kv_head,
            )
            return mixed.transpose(1, 2).reshape(num_rows * tokens, -1)

        return attend

    def _logits(self, hidden: Tensor, out: Tensor) -> None:
        """Softly capped fp32 logits (B, V) of the normalised stream (B, C)."""
        out.copy_(self.weights.head(hidden))
        cap = self.model.config.softcap
        out.mul_(2 / cap).sigmoid_().mul_(2 * cap).sub_(cap)


def _last_of_each(x: Tensor, rows: int) -> Tensor:
    """(N, C) of `rows` equal parts to the last of each, (B, C)."""
    return x if x.size(0) == rows else x.view(rows, -1, x.size(1))[:, -1]
