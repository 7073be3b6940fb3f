"""A training step as it is usually first written, to be measured against and to be tested against.

The same network and the same parameters as model/gpt.py, left to autograd: torch's own norm and attention (causal in
layers that see the whole row, with a mask where there is a window, as nanochat has it on a processor), logits of the
whole batch in fp32 with a tanh softcap, torch's cross entropy, q, k and v as products of their own. It may be compiled
as a whole; ours is written for eager speed and is not.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanochat_core.model.attention import Attention
from nanochat_core.model.gpt import GPT
from nanochat_core.model.shape import SMEAR_CHANNELS, window_sizes

# B rows, T tokens, H query heads, K key/value heads, D head size, C width, V vocabulary


class PlainLoss(nn.Module):
    """The summed loss of a `GPT`, without any of its fused steps."""

    def __init__(self, model: GPT, *, num_tokens: int) -> None:
        super().__init__()
        self.model = model
        half = model.config.head_dim // 2
        cos, sin = model.rotary(num_tokens, dtype=torch.float32)
        self.register_buffer("cos", cos[:num_tokens, None, :half].clone(), persistent=False)  # (T, 1, D / 2)
        self.register_buffer("sin", sin[:num_tokens, None, :half].clone(), persistent=False)
        at = torch.arange(num_tokens, device=model.device)
        distance = at.unsqueeze(1) - at
        for layer, window in enumerate(window_sizes(model.config)):
            mask = (distance >= 0) & (distance <= window) if window < num_tokens else None
            self.register_buffer(f"mask{layer}", mask, persistent=False)  # (T, T)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        """Of ids and targets (B, T), in nats."""
        model, config = self.model, self.model.config
        dtype = model.compute_dtype
        embedding = _norm(F.embedding(ids, model.embed.weight).to(dtype))  # (B, T, C)
        previous = F.pad(embedding[:, :-1], (0, 0, 1, 0))
        gate = torch.sigmoid(_linear(embedding[..., :SMEAR_CHANNELS], model.smear_gate.weight))
        x = x0 = middle = embedding + model.smear_weight.to(dtype) * gate * previous
        for layer, block in enumerate(model.layers):
            x = model.residual_weights[layer].to(dtype) * x + model.skip_weights[layer].to(dtype) * x0
            table = dict(model.value_embeds.items()).get(str(layer))
            values = None if table is None else F.embedding(ids, table.get_parameter("weight")).to(dtype)
            x = x + self._attention(block.attn, _norm(x), values, mask=getattr(self, f"mask{layer}"))
            x = x + _linear(F.relu(_linear(_norm(x), block.mlp.fc.weight)).square(), block.mlp.proj.weight)
            if layer == config.n_layer // 2:
                middle = x
        x = _norm(x - model.backout_weight.to(dtype) * middle)
        logits = _linear(x, model.head.weight)[..., : config.vocab_size].float()
        logits = config.softcap * torch.tanh(logits / config.softcap)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="sum")

    def _attention(self, attn: Attention, x: Tensor, added_values: Tensor | None, *, mask: Tensor | None) -> Tensor:
        rows, tokens, _ = x.shape
        q, k, v = (
            _linear(x, part.weight).view(rows, tokens, -1, attn.head_dim) for part in (attn.q, attn.k, attn.v)
        )  # (B, T, H or K, D)
        if attn.value_gate is not None and added_values is not None:
            gate = attn.gate_scale * torch.sigmoid(_linear(x[..., : attn.gate_channels], attn.value_gate.weight))
            v = v + gate.unsqueeze(-1) * added_values.view_as(v)
        q, k = (_norm(self._rotated(part)) * attn.gain for part in (q, k))
        has_groups = attn.n_head != attn.n_kv_head
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H or K, T, D)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=has_groups)
        return _linear(mixed.transpose(1, 2).reshape(rows, tokens, -1), attn.proj.weight)

    def _rotated(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        cos, sin = self.get_buffer("cos").to(x.dtype), self.get_buffer("sin").to(x.dtype)
        return torch.cat((first * cos + second * sin, second * cos - first * sin), dim=-1)


def _linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.to(x.dtype))


def _norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))
