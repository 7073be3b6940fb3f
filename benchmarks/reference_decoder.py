"""A decoder as it is usually first written, to be measured against and to be tested against.

It does what nanochat's engine does on a machine without FlashAttention 3: the weights stay fp32 and are cast to the
dtype of the products at every use, q, k and v are products of their own, keys and values of every layer are kept at
full length as (rows, tokens, heads, size), all rows stand at the same position, a chunk's logits are computed at all of
its positions, and attention is torch's own over the tokens so far. Nothing is kept from one token to the next but the
cache and the last embedding.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_core.model.attention import Attention
from nanochat_core.model.gpt import GPT
from nanochat_core.model.shape import SMEAR_CHANNELS, has_value_embed, window_sizes

# B rows, T new tokens, L tokens so far and new, H query heads, K key/value heads, D head size, C width, V vocabulary


class ReferenceDecoder:
    """`num_rows` sequences of equal length, in `model.compute_dtype`."""

    def __init__(self, model: GPT, *, num_rows: int, max_len: int) -> None:
        config = model.config
        self.model, self.dtype, self.length = model, model.compute_dtype, 0
        shape = (config.n_layer, 2, num_rows, max_len, config.n_kv_head, config.head_dim)
        self.cache = torch.zeros(shape, dtype=self.dtype, device=model.device)
        self.last_embedding: Tensor | None = None

    @torch.inference_mode()
    def append(self, ids: Tensor) -> Tensor:
        """Append ids (B, T) to all rows; the fp32 logits (B, V) after their last tokens."""
        model, config = self.model, self.model.config
        embedding = _norm(F.embedding(ids, model.embed.weight).to(self.dtype))  # (B, T, C)
        x = x0 = middle = self._smeared(embedding)
        for layer, block in enumerate(model.layers):
            x = model.residual_weights[layer].to(x.dtype) * x + model.skip_weights[layer].to(x.dtype) * x0
            x = x + self._attention(layer, block.attn, _norm(x), ids)
            inner = F.relu(_linear(_norm(x), block.mlp.fc.weight)).square()
            x = x + _linear(inner, block.mlp.proj.weight)
            if layer == config.n_layer // 2:
                middle = x
        self.length += ids.size(1)
        self.last_embedding = embedding[:, -1:]
        x = _norm(x - model.backout_weight.to(x.dtype) * middle)
        logits = _linear(x, model.head.weight)[..., : config.vocab_size].float()
        return (config.softcap * torch.tanh(logits / config.softcap))[:, -1]

    def _smeared(self, embedding: Tensor) -> Tensor:
        first = torch.zeros_like(embedding[:, :1]) if self.last_embedding is None else self.last_embedding
        previous = torch.cat((first, embedding[:, :-1]), dim=1)
        gate = torch.sigmoid(_linear(embedding[..., :SMEAR_CHANNELS], self.model.smear_gate.weight))
        return embedding + self.model.smear_weight.to(gate.dtype) * gate * previous

    def _attention(self, layer: int, attn: Attention, x: Tensor, ids: Tensor) -> Tensor:
        rows, tokens, _ = x.shape
        config = self.model.config
        q = _linear(x, attn.q.weight).view(rows, tokens, config.n_head, config.head_dim)
        k = _linear(x, attn.k.weight).view(rows, tokens, config.n_kv_head, config.head_dim)
        v = _linear(x, attn.v.weight).view(rows, tokens, config.n_kv_head, config.head_dim)
        if attn.value_gate is not None and has_value_embed(config, layer):
            table = self.model.get_submodule(f"value_embeds.{layer}").get_parameter("weight")
            gate = attn.gate_scale * torch.sigmoid(_linear(x[..., : attn.gate_channels], attn.value_gate.weight))
            v = v + gate.unsqueeze(-1) * F.embedding(ids, table).to(v.dtype).view_as(v)
        q, k = (_norm(self._rotated(part)) * attn.gain for part in (q, k))
        end = self.length + tokens
        keys, values = self.cache[layer]  # (B, M, K, D)
        keys[:, self.length : end], values[:, self.length : end] = k, v
        mixed = self._attend(layer, q.transpose(1, 2), keys[:, :end].transpose(1, 2), values[:, :end].transpose(1, 2))
        return _linear(mixed.transpose(1, 2).reshape(rows, tokens, -1), attn.proj.weight)

    def _attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, H, T, D), k and v (B, K, L, D) to (B, H, T, D)."""
        window, tokens, length = window_sizes(self.model.config)[layer], q.size(2), k.size(2)
        has_groups = q.size(1) != k.size(1)
        if tokens == 1:
            oldest = max(0, length - window - 1)
            return F.scaled_dot_product_attention(q, k[:, :, oldest:], v[:, :, oldest:], enable_gqa=has_groups)
        query = torch.arange(length - tokens, length, device=q.device).unsqueeze(1)
        key = torch.arange(length, device=q.device)
        mask = (key <= query) & (key >= query - window)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=has_groups)

    def _rotated(self, x: Tensor) -> Tensor:
        tokens, half = x.size(1), x.size(3) // 2
        cos, sin = self.model.rotary(self.length + tokens, dtype=x.dtype)  # (positions, D)
        cos = cos[self.length : self.length + tokens, None, :half]  # (T, 1, D / 2)
        sin = sin[self.length : self.length + tokens, None, :half]
        first, second = x[..., :half], x[..., half:]
        return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.to(x.dtype))


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))
