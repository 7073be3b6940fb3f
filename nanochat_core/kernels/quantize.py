# mypy: disallow-untyped-defs=False
"""fp8 copies in one pass: scale, saturate, cast, transpose, and note the largest value for the scale of the next step.

An fp8 product on Hopper reads both operands along their inner dimension, so the backward pass needs transposed copies;
written here they cost no pass of their own. The same tiles compute relu^2 or its gradient on the way, so that the
hidden layer of an MLP leaves its kernel in fp8 and never as a bf16 tensor. The layout was suggested by Transformer
Engine's cast-transpose kernels; the scale is one per tensor, given from outside.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nanochat_core.kernels.quantized import PLAIN, RELU_SQUARE, RELU_SQUARE_BACKWARD, Quantized, Record

TILE_ROWS, TILE_COLUMNS, NUM_WARPS = 64, 64, 8
AMAX_BLOCK = 8192


@triton.jit
def _cast_tiles(
    x, gate, scale, values, transposed, amax, saturated, rows, columns, LIMIT: tl.constexpr, SOURCE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # 64-bit numbers only for the tile's corner: as offsets of every element they would take half of the registers
    first_row, first_column = tl.program_id(0).to(tl.int64) * ROWS, tl.program_id(1).to(tl.int64) * COLUMNS
    corner, turned_corner = first_row * columns + first_column, first_column * rows + first_row
    row, column = tl.arange(0, ROWS), tl.arange(0, COLUMNS)
    has_row, has_column = row < rows - first_row, column < columns - first_column
    is_inside = has_row[:, None] & has_column[None, :]
    offset = row[:, None] * columns + column[None, :]
    value = tl.load(x + corner + offset, mask=is_inside, other=0.0).to(tl.float32)
    if SOURCE == 1:
        value = tl.maximum(value, 0.0)
        value = value * value
    if SOURCE == 2:
        value = 2 * value * tl.maximum(tl.load(gate + corner + offset, mask=is_inside, other=0.0).to(tl.float32), 0.0)
    size = tl.abs(value)
    tl.atomic_max(amax, tl.max(tl.max(size, 1), 0), sem="relaxed")  # nobody waits for it: without a fence per tile
    scaled = value * tl.load(scale)
    is_beyond = tl.abs(scaled) > LIMIT
    num_beyond = tl.sum(tl.sum(is_beyond.to(tl.int32), 1), 0)
    if num_beyond > 0:
        tl.atomic_add(saturated, num_beyond, sem="relaxed")
    # comparisons and not minimum: NaN stays NaN; an infinity becomes NaN rather than a harmless-looking large number
    scaled = tl.where(scaled > LIMIT, LIMIT, scaled)
    scaled = tl.where(scaled < -LIMIT, -LIMIT, scaled)
    scaled = tl.where(size == float("inf"), float("nan"), scaled)
    low = scaled.to(values.dtype.element_ty)
    tl.store(values + corner + offset, low, mask=is_inside)
    turned = column[:, None] * rows + row[None, :]
    tl.store(transposed + turned_corner + turned, tl.trans(low), mask=has_column[:, None] & has_row[None, :])


@triton.jit
def _largest(x, out, count, SIZE: tl.constexpr):
    first = tl.program_id(0).to(tl.int64) * SIZE
    index = tl.arange(0, SIZE)
    value = tl.abs(tl.load(x + first + index, mask=index < count - first, other=0.0).to(tl.float32))
    tl.atomic_max(out, tl.max(value, 0), sem="relaxed")


def cast(x: Tensor, scale: Tensor, *, dtype: torch.dtype, record: Record) -> Quantized:
    """x (N, C) times the one-element fp32 `scale` in the fp8 `dtype`, and transposed."""
    return _launch(x, x, scale, dtype=dtype, record=record, source=PLAIN)


def cast_relu_square(x: Tensor, scale: Tensor, *, dtype: torch.dtype, record: Record) -> Quantized:
    """The same of relu(x)^2."""
    return _launch(x, x, scale, dtype=dtype, record=record, source=RELU_SQUARE)


def cast_relu_square_backward(
    grad: Tensor, x: Tensor, scale: Tensor, *, dtype: torch.dtype, record: Record
) -> Quantized:
    """The same of 2 relu(x) grad, the gradient by x."""
    return _launch(grad, x, scale, dtype=dtype, record=record, source=RELU_SQUARE_BACKWARD)


def _launch(
    x: Tensor,
    gate: Tensor,
    scale: Tensor,
    *,
    dtype: torch.dtype,
    record: Record,
    source: int,
    limit: float | None = None,
) -> Quantized:
    """`limit`: what saturates, if not the largest number of `dtype`; tests store in fp32 what is clamped for fp8."""
    x, gate = x.contiguous(), gate.contiguous()
    rows, columns = x.shape
    values = torch.empty(rows, columns, dtype=dtype, device=x.device)
    transposed = torch.empty(columns, rows, dtype=dtype, device=x.device)
    grid = (triton.cdiv(rows, TILE_ROWS), triton.cdiv(columns, TILE_COLUMNS))
    blocks = {"ROWS": TILE_ROWS, "COLUMNS": TILE_COLUMNS, "num_warps": NUM_WARPS}
    _cast_tiles[grid](
        x, gate, scale, values, transposed, *record, rows, columns,
        LIMIT=limit or torch.finfo(dtype).max, SOURCE=source, **blocks,
    )  # fmt: skip
    return Quantized(values, transposed)


def largest(x: Tensor) -> Tensor:
    """The largest absolute value of x, fp32, one element; NaN is not seen here but by whoever casts."""
    x = x.contiguous()
    out = torch.zeros(1, dtype=torch.float32, device=x.device)
    _largest[(triton.cdiv(x.numel(), AMAX_BLOCK),)](x, out, x.numel(), SIZE=AMAX_BLOCK, num_warps=NUM_WARPS)
    return out
