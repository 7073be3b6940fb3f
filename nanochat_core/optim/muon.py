"""Muon: momentum whose update is made orthogonal, for the matrices inside the layers.

The pieces: Nesterov momentum, orthogonalised by a matrix polynomial (Muon, kellerjordan.github.io/posts/muon), the
polynomial of Polar Express (arXiv 2505.16932), rows brought to one norm before it, a factored second moment after it
(NorMuon, arXiv 2510.05491), and decay only where it agrees with the update (cautious, arXiv 2411.16085).
Matrices of one shape are stacked: the batched products are large enough to be efficient.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

# n matrices of R rows and C columns in a stack
# Polar Express for 5 iterations, safety 2e-2, cushion 2: u <- a u + (b A + c A^2) u with A = u u^T
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
NORM_SAFETY = 1.01  # keeps the largest singular value below 1 in spite of rounding
NORM_EPS = 1e-6
SECOND_MOMENT_EPS = 1e-10


@torch.no_grad()
def muon_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    *,
    momentum_buffer: Tensor,
    second_moment: Tensor,
    lr: float,
    momentum: float,
    beta2: float,
    weight_decay: float,
    dtype: torch.dtype,
) -> None:
    """Update `params` (n of R x C), `momentum_buffer` (n, R, C) and `second_moment` in place."""
    grad = torch.stack(list(grads))  # (n, R, C)
    momentum_buffer.lerp_(grad, 1 - momentum)
    update = orthogonalize(_equalize_rows(grad.lerp_(momentum_buffer, momentum)), dtype=dtype).float()
    update = _reduce_variance(update, second_moment, beta2=beta2)
    rows, columns = update.shape[-2:]
    lr *= math.sqrt(max(1.0, rows / columns))
    stacked = torch.stack(list(params))
    decay = stacked * (update * stacked >= 0)  # cautious: only where the update shrinks the weight anyway
    step = update.mul_(lr).add_(decay, alpha=lr * weight_decay)
    torch._foreach_sub_(list(params), list(step.unbind()))


def second_moment_shape(rows: int, columns: int) -> tuple[int, int]:
    """One mean of squares per row of a tall matrix, per column of a wide one."""
    return (rows, 1) if rows >= columns else (1, columns)


def orthogonalize(update: Tensor, *, dtype: torch.dtype) -> Tensor:
    """The nearest (semi-)orthogonal matrices to `update` (n, R, C), approximately, in `dtype`."""
    u = update if dtype == torch.float16 else update.to(dtype)  # fp16 would lose small updates; bf16 has fp32's range
    u = (u / (u.norm(dim=(-2, -1), keepdim=True) * NORM_SAFETY + NORM_EPS)).to(dtype)
    is_tall = u.size(-2) > u.size(-1)
    if is_tall:
        u = u.mT  # A = u u^T is then on the smaller side
    for a, b, c in POLAR_EXPRESS:
        gram = torch.bmm(u, u.mT)
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        u = torch.baddbmm(u, polynomial, u, beta=a)
    return u.mT if is_tall else u


def _equalize_rows(update: Tensor) -> Tensor:
    """Every row of each matrix at the mean row norm, so that no row starts with a small share."""
    row_norms = update.norm(dim=-1, keepdim=True)  # (n, R, 1)
    mean_norm = update.norm(dim=(-2, -1), keepdim=True) / math.sqrt(update.size(-2))
    return update * (mean_norm / row_norms.clamp(min=SECOND_MOMENT_EPS))


def _reduce_variance(update: Tensor, second_moment: Tensor, *, beta2: float) -> Tensor:
    """Divide rows (or columns) by their running root mean square, at an unchanged norm of the whole."""
    rows, columns = update.shape[-2:]
    update = update * (math.sqrt(min(rows, columns)) / update.norm(dim=(-2, -1), keepdim=True).clamp(min=NORM_EPS))
    norm = update.norm(dim=(-2, -1), keepdim=True)
    square = update.square().mean(dim=-1 if rows >= columns else -2, keepdim=True)
    second_moment.lerp_(square, 1 - beta2)
    update = update * second_moment.clamp(min=SECOND_MOMENT_EPS).rsqrt()
    return update * (norm / update.norm(dim=(-2, -1), keepdim=True).clamp(min=NORM_EPS))
