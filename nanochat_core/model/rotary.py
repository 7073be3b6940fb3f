"""Rotary position embeddings (RoFormer, arXiv 2104.09864) on halves, fused with the norm of queries and keys.

One pass takes the output of the joint q/k/v product to what attention wants: q and k normalised over the head, rotated
and scaled, every tensor as (batch, heads, tokens, head size). A rotation does not change the norm, so both steps share
one backward: with y = gain * R(x / rms), dx = gain / rms * R^T(dy - y (dy . y) / (gain^2 D)).
The queries also carry attention's 1 / sqrt(D): here it costs nothing. The heads are brought together first, for
on a CPU elementwise work on strided heads takes seven times as long as on contiguous ones.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from nanochat_core.kernels import launch
from nanochat_core.model.stream import RMS_EPS, inverse_rms

# B rows, T tokens, H query heads, K key/value heads, D head size


class Rotary(nn.Module):
    """Tables of cosines and sines, grown when a longer sequence arrives; nothing is saved with the model."""

    cos: Tensor
    sin: Tensor

    def __init__(self, head_dim: int, *, num_positions: int, base: float) -> None:
        super().__init__()
        self.head_dim, self.base = head_dim, base
        cos, sin = _tables(head_dim, num_positions, base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._cast: tuple[Tensor, Tensor] | None = None

    def forward(self, num_positions: int, *, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of at least positions 0 .. num_positions - 1, each (positions, D)."""
        if num_positions > self.cos.size(0):
            cos, sin = _tables(self.head_dim, 2 * num_positions, self.base)
            self.cos, self.sin = cos.to(self.cos.device), sin.to(self.sin.device)
            self._cast = None
        kept = self._cast
        if kept is None or kept[0].dtype != dtype or kept[0].device != self.cos.device:
            kept = self._cast = (self.cos.to(dtype), self.sin.to(dtype))
        return kept


def _tables(head_dim: int, num_positions: int, base: float) -> tuple[Tensor, Tensor]:
    """For y1 = x1 cos + x2 sin, y2 = x2 cos - x1 sin as y = x * cos + swapped x * sin: (cos, cos) and (sin, -sin)."""
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    angles = torch.outer(torch.arange(num_positions, dtype=torch.float32), base**-exponents)  # (T, D / 2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((sin, -sin), dim=-1)


def split_heads(
    qkv: Tensor, *, n_head: int, gain: float, rotation: tuple[Tensor, Tensor], added_values: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """qkv (B, T, H + 2K, D) to q (B, H, T, D), k and v (B, K, T, D).

    `gain`: of normalised queries and keys. `rotation`: cosines and sines, (T, D) or (B, 1, T, D). `added_values`
    (B, T, K, D) is added to v. The results are contiguous on a CPU; on a GPU they lie in memory as (B, T, heads, D), as
    flash attention reads them.
    """
    function = _FusedSplitHeads if launch.available(qkv.device) else _SplitHeads
    return function.apply(qkv, added_values, n_head, gain, *rotation)


class _SplitHeads(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, added_values: Tensor | None, n_head: int, gain: float, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        n_kv_head, head_dim = (qkv.size(2) - n_head) // 2, qkv.size(3)
        *q_and_k, v = qkv.split((n_head, n_kv_head, n_kv_head), dim=2)
        outputs, inverses = [], []
        for part, part_gain in zip(q_and_k, _gains(gain, head_dim), strict=True):
            x = part.transpose(1, 2).contiguous()  # (B, heads, T, D)
            inverse = inverse_rms(x).mul_(part_gain).to(x.dtype)  # (B, heads, T, 1)
            outputs.append(_rotate(x.mul_(inverse), cos, sin))
            inverses.append(inverse)
        if added_values is not None:
            v = v + added_values
        ctx.save_for_backward(*outputs, *inverses, cos, sin)
        ctx.has_added_values, ctx.gain = added_values is not None, gain
        return outputs[0], outputs[1], v.transpose(1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor | None, ...]:
        q, k, inverse_q, inverse_k, cos, sin = ctx.saved_tensors
        rows, n_head, tokens, head_dim = q.shape
        n_kv_head = k.size(1)
        grad = q.new_empty(rows, tokens, n_head + 2 * n_kv_head, head_dim)
        *q_and_k, v = grad.split((n_head, n_kv_head, n_kv_head), dim=2)
        by_part = zip(
            q_and_k, (grad_q, grad_k), (q, k), (inverse_q, inverse_k), _gains(ctx.gain, head_dim), strict=True
        )
        for out, grad_y, y, inverse, gain in by_part:
            along = torch.linalg.vecdot(grad_y, y).unsqueeze(-1).div_(gain**2 * head_dim)  # (B, heads, T, 1)
            across = torch.addcmul(grad_y, y, along, value=-1)
            out.copy_(_rotate(across, cos, -sin).mul_(inverse).transpose(1, 2))
        grad_v = grad_v.transpose(1, 2)  # (B, T, K, D)
        v.copy_(grad_v)
        return grad, grad_v.contiguous() if ctx.has_added_values else None, None, None, None, None


class _FusedSplitHeads(torch.autograd.Function):
    """By Triton kernels, one pass forward and one backward."""

    @staticmethod
    def forward(
        ctx: Any, qkv: Tensor, added_values: Tensor | None, n_head: int, gain: float, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        from nanochat_core.kernels.heads import HeadGains, split

        query, key = _gains(gain, qkv.size(3))
        ctx.gains = HeadGains(query=query, key=key, eps=RMS_EPS)
        q, k, v, inverses = split(qkv, added_values, n_head=n_head, cos=cos, sin=sin, gains=ctx.gains)
        ctx.save_for_backward(q, k, inverses, cos, sin)
        ctx.has_added_values = added_values is not None
        return q, k, v

    @staticmethod
    def backward(ctx: Any, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor) -> tuple[Tensor | None, ...]:
        from nanochat_core.kernels.heads import join

        *outputs, cos, sin = ctx.saved_tensors
        grad = join((grad_q, grad_k, grad_v), tuple(outputs), cos=cos, sin=sin, gains=ctx.gains)
        return grad, grad_v.transpose(1, 2) if ctx.has_added_values else None, None, None, None, None


def _gains(gain: float, head_dim: int) -> tuple[float, float]:
    return gain / math.sqrt(head_dim), gain


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), dim=-1).mul_(sin).addcmul_(x, cos)
