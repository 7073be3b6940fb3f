"""AdamW (arXiv 1711.05101) with torch's fused kernel: one pass over parameter, gradient and both moments.

Written out it is: p *= 1 - lr wd; m = lerp(m, g, 1 - beta1); v = lerp(v, g^2, 1 - beta2);
p -= lr / (1 - beta1^t) m / (sqrt(v / (1 - beta2^t)) + eps), all in fp32.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw


@torch.no_grad()
def adamw_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    *,
    exp_avgs: Sequence[Tensor],
    exp_avg_sqs: Sequence[Tensor],
    step: int,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
) -> None:
    """Update `params` and both moments in place; `step` counts from 1."""
    # torch counts the step itself, in a tensor per parameter that it raises before use
    steps = [torch.full((), step - 1.0, device=param.device) for param in params]
    adamw(
        list(params),
        list(grads),
        list(exp_avgs),
        list(exp_avg_sqs),
        [],
        steps,
        fused=True,
        amsgrad=False,
        beta1=betas[0],
        beta2=betas[1],
        lr=lr,
        weight_decay=weight_decay,
        eps=eps,
        maximize=False,
    )
    # the fused kernel does not raise the versions by which kept casts of a weight are told to be old (model/linear.py)
    torch.autograd.graph.increment_version(list(params))
