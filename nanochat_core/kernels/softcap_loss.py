# mypy: disallow-untyped-defs=False
"""Softcapped cross entropy of rows of logits: the loss, and the gradient in place of the logits.

One program per row reads its bf16 logits twice, the second time mostly from the cache, and writes the gradient over
them; no fp32 copy of the logits ever exists. The cap bounds them, so the softmax needs no running maximum: with
s = sigmoid(2 z / cap) a capped logit is cap (2 s - 1), and exp(2 cap (s - 1)) lies between e^(-2 cap) and 1.
Fusing forward and backward of the loss is Liger's idea (arXiv 2410.10989).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nanochat_core.kernels.launch import power_of_two

MAX_BLOCK = 4096  # 16 logits per thread: more would need so many registers that fewer rows run at a time
NUM_WARPS = 8


@triton.jit
def _softcap_rows(
    logits,
    targets,
    losses,
    row_stride,
    vocab_size,
    CAP: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCKS: tl.constexpr,
    KEEP_GRADIENT: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    target = tl.load(targets + row)
    sums = tl.zeros([BLOCK], tl.float32)
    targeted = tl.zeros([BLOCK], tl.float32)
    for number in range(BLOCKS):
        column = number * BLOCK + tl.arange(0, BLOCK)
        is_inside = column < vocab_size
        z = tl.load(logits + column, mask=is_inside, other=0.0).to(tl.float32)
        below = 2 * CAP * (tl.sigmoid(z * (2 / CAP)) - 1)
        sums += tl.where(is_inside, tl.exp(below), 0.0)
        # picked up here and not by a load of its own: another warp may have overwritten that logit by then
        targeted += tl.where(column == target, below, 0.0)
    total = tl.sum(sums, 0)
    is_counted = target >= 0
    tl.store(losses + row, tl.where(is_counted, tl.log(total) - tl.sum(targeted, 0), 0.0))
    if KEEP_GRADIENT:
        inverse = tl.where(is_counted, 1 / total, 0.0)
        for number in range(BLOCKS):
            column = number * BLOCK + tl.arange(0, BLOCK)
            is_inside = column < vocab_size
            z = tl.load(logits + column, mask=is_inside, other=0.0).to(tl.float32)
            s = tl.sigmoid(z * (2 / CAP))
            prob = tl.exp(2 * CAP * (s - 1)) * inverse
            gradient = (prob - tl.where(column == target, 1.0, 0.0)) * (4 * s * (1 - s))
            tl.store(logits + column, gradient.to(logits.dtype.element_ty), mask=is_inside)


def softcap_losses(logits: Tensor, targets: Tensor, *, softcap: float, keep_gradient: bool) -> Tensor:
    """fp32 losses (N,) of logits (N, V), 0 where a target is negative; with `keep_gradient` the logits become it."""
    rows, vocab_size = logits.shape
    assert logits.stride(1) == 1
    losses = torch.empty(rows, dtype=torch.float32, device=logits.device)
    block = min(MAX_BLOCK, power_of_two(vocab_size))
    sizes = (logits.stride(0), vocab_size)
    blocks = {"BLOCK": block, "BLOCKS": triton.cdiv(vocab_size, block), "num_warps": NUM_WARPS}
    _softcap_rows[(rows,)](
        logits, targets.contiguous(), losses, *sizes, CAP=softcap, KEEP_GRADIENT=keep_gradient, **blocks
    )
    return losses
