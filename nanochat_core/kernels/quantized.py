"""What an fp8 cast takes and leaves, and the same cast in plain PyTorch: the kernels' oracle, and the way on a CPU.

Nothing here needs Triton. The casts saturate, as the products of large models have to; what is not a finite number
becomes NaN, because fp8 e4m3 has no infinity and a clamped one would look like a number.
"""

from typing import NamedTuple

import torch
from torch import Tensor

PLAIN, RELU_SQUARE, RELU_SQUARE_BACKWARD = 0, 1, 2
"""What is cast: x, relu(x)^2, or 2 relu(gate) x."""


class Quantized(NamedTuple):
    """x (N, C) times its scale in fp8, and the transposed copy (C, N)."""

    values: Tensor
    transposed: Tensor


class Record(NamedTuple):
    """Where a cast leaves what it saw: amax is raised, saturated is added to; both hold one element."""

    amax: Tensor
    """fp32: the largest absolute value before scaling."""
    saturated: Tensor
    """int32: how many values lay beyond what fp8 holds."""


def formed(x: Tensor, gate: Tensor | None, *, source: int) -> Tensor:
    """What `source` says, in fp32."""
    value = x.float()
    if source == RELU_SQUARE:
        return value.relu().square_()
    if source == RELU_SQUARE_BACKWARD:
        assert gate is not None
        return gate.float().relu().mul_(value).mul_(2)
    return value


@torch.no_grad()
def cast_plainly(value: Tensor, scale: Tensor, *, dtype: torch.dtype, record: Record) -> Quantized:
    """`value` (N, C) times `scale` in the fp8 `dtype`, and transposed."""
    size, limit = value.abs(), torch.finfo(dtype).max
    torch.maximum(record.amax, size.max().reshape(1).float(), out=record.amax)
    scaled = value * scale
    record.saturated.add_((scaled.abs() > limit).sum())
    low = scaled.clamp(-limit, limit).masked_fill_(size.isinf(), torch.nan).to(dtype)
    return Quantized(low, low.t().contiguous())
