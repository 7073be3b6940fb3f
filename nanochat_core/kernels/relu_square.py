# mypy: disallow-untyped-defs=False
"""relu(x)^2 and its gradient, each in one pass over memory.

Eager PyTorch writes relu(x), reads it to square it, and keeps it for the backward pass. Here the input itself is kept,
which the product before it has written anyway. quantize.py holds the same formulas with fp8 output.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 2048
NUM_WARPS = 4


@triton.jit
def _square(x, out, count, SIZE: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * SIZE
    index = tl.arange(0, SIZE)
    is_inside = index < count - first
    rectified = tl.maximum(tl.load(x + first + index, mask=is_inside).to(tl.float32), 0.0)
    tl.store(out + first + index, (rectified * rectified).to(out.dtype.element_ty), mask=is_inside)


@triton.jit
def _square_backward(grad, x, out, count, SIZE: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * SIZE
    index = tl.arange(0, SIZE)
    is_inside = index < count - first
    rectified = tl.maximum(tl.load(x + first + index, mask=is_inside).to(tl.float32), 0.0)
    slope = 2 * rectified * tl.load(grad + first + index, mask=is_inside).to(tl.float32)
    tl.store(out + first + index, slope.to(out.dtype.element_ty), mask=is_inside)


def relu_square(x: Tensor) -> Tensor:
    """relu(x)^2 in the dtype of x."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _square[(triton.cdiv(x.numel(), BLOCK),)](x, out, x.numel(), SIZE=BLOCK, num_warps=NUM_WARPS)
    return out


def relu_square_backward(grad: Tensor, x: Tensor) -> Tensor:
    """The gradient by x: 2 relu(x) grad."""
    x, grad = x.contiguous(), grad.contiguous()
    out = torch.empty_like(x)
    _square_backward[(triton.cdiv(x.numel(), BLOCK),)](grad, x, out, x.numel(), SIZE=BLOCK, num_warps=NUM_WARPS)
    return out
