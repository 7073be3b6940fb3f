"""Attention: grouped queries, rotary positions, normalised queries and keys, windows, gated value embeddings.

Value embeddings (after the residual values of arXiv 2410.17897) add a gated row of a lookup table to the values of
every second layer. On a CPU attention runs in blocks, on a GPU by what attention_ladder.py finds; all give the same
numbers, and a dense softmax is the oracle of all. Generation has an attention of its own (inference/decoder.py).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_core.config import GPTConfig
from nanochat_core.model import attention_ladder
from nanochat_core.model.blocked_attention import blocked_attention
from nanochat_core.model.documents import Documents
from nanochat_core.model.linear import CastCopy, Linear, Product
from nanochat_core.model.rotary import split_heads
from nanochat_core.model.shape import has_value_embed, kv_dim, window_sizes

# B rows, T tokens, H query heads, K key/value heads, D head size, C model width


class Attention(nn.Module):
    """One layer's attention. The weights of q, k and v are apart for the optimizer and joined for the product."""

    def __init__(self, config: GPTConfig, layer: int) -> None:
        super().__init__()
        self.n_head, self.n_kv_head, self.head_dim = config.n_head, config.n_kv_head, config.head_dim
        self.window, self.gain = window_sizes(config)[layer], config.qk_gain
        self.gate_channels, self.gate_scale = config.value_gate_channels, config.value_gate_scale
        self.q = Linear(config.n_embd, config.n_embd)
        self.k = Linear(config.n_embd, kv_dim(config))
        self.v = Linear(config.n_embd, kv_dim(config))
        self.proj = Linear(config.n_embd, config.n_embd)
        self.value_gate = Linear(self.gate_channels, self.n_kv_head) if has_value_embed(config, layer) else None
        self.joined_product: Product = CastCopy()

    def forward(
        self,
        x: Tensor,
        *,
        rotation: tuple[Tensor, Tensor],
        value_embed: Tensor | None,
        documents: Documents | None = None,
    ) -> Tensor:
        """x (B, T, C) normalised; value_embed (B, T, K D) on the layers that have one."""
        rows, tokens, width = x.shape
        qkv = self.joined_product.product(x, (self.q.weight, self.k.weight, self.v.weight))
        qkv = qkv.view(rows, tokens, self.n_head + 2 * self.n_kv_head, self.head_dim)
        added = self.added_values(x, value_embed)
        q, k, v = split_heads(qkv, n_head=self.n_head, gain=self.gain, rotation=rotation, added_values=added)
        # q (B, H, T, D), k and v (B, K, T, D)
        mixed = causal_attention(q, k, v, window=self.window, documents=documents)  # (B, T, H, D)
        return self.proj(mixed.reshape(rows, tokens, width))

    def added_values(self, x: Tensor, value_embed: Tensor | None) -> Tensor | None:
        """(B, T, K, D): the value embeddings (B, T, K D) as far as x (B, T, C) opens their gates; None without."""
        if self.value_gate is None or value_embed is None:
            return None
        gate = self.gate_scale * torch.sigmoid(self.value_gate(x[..., : self.gate_channels]))  # (B, T, K)
        return gate.unsqueeze(-1) * value_embed.view(*gate.shape, self.head_dim)


def causal_attention(q: Tensor, k: Tensor, v: Tensor, *, window: int, documents: Documents | None = None) -> Tensor:
    """q (B, H, T, D) scaled, k and v (B, K, T, D) to (B, T, H, D); t sees t - window .. t, of its document if given."""
    if q.is_cuda:
        return attention_ladder.attend(q, k, v, window=window, documents=documents)
    return blocked_attention(q, k, v, window=window, documents=documents)


def masked_attention(q: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None) -> Tensor:
    """q (B, H, T, D) scaled against k and v (B, K, L, D) where mask (B, 1, T, L) allows; to (B, T, H, D)."""
    has_groups = q.size(1) != k.size(1)
    mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1.0, enable_gqa=has_groups)
    return mixed.transpose(1, 2)
