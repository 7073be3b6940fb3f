"""Elementwise steps of the residual stream, with backward passes that read each large tensor as few times as possible.

Autograd's own backward of `rms_norm` costs eight times its forward on a CPU in bf16, and each `a * x + b * y` with
learned a and b keeps and re-reads temporaries. The formulas are short, so they are written out; tests compare them
with autograd. No function here has parameters.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_core.kernels import launch

# N leading dimensions, C channels
RMS_EPS = torch.finfo(torch.float32).eps  # torch's default for fp32, also used in bf16


def inverse_rms(x: Tensor) -> Tensor:
    """1 / sqrt(mean(x^2) + eps) over the last dimension, in fp32."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.promote_types(x.dtype, torch.float32))
    return norm.square_().div_(x.size(-1)).add_(RMS_EPS).rsqrt_()  # (N, 1)


def rms_norm(x: Tensor) -> Tensor:
    """x / rms(x) over the last dimension, without a learned gain."""
    if x.is_cuda or not torch.is_grad_enabled():
        return F.rms_norm(x, (x.size(-1),), eps=RMS_EPS)
    return _RmsNorm.apply(x)


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        inverse = inverse_rms(x).to(x.dtype)  # (N, 1)
        y = x * inverse
        ctx.save_for_backward(y, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        y, inverse = ctx.saved_tensors
        mean = torch.linalg.vecdot(grad, y).unsqueeze(-1).div_(y.size(-1))  # (N, 1)
        return torch.addcmul(grad, y, mean, value=-1).mul_(inverse)


def mix(x: Tensor, x0: Tensor, *, x_weight: Tensor, x0_weight: Tensor) -> Tensor:
    """x_weight * x + x0_weight * x0 with learned scalars."""
    return _Mix.apply(x, x0, x_weight, x0_weight)


class _Mix(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, x0: Tensor, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(x, x0, a, b)
        return _weighted_sum(x, x0, a, b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, x0, a, b = ctx.saved_tensors
        grad_a = torch.linalg.vecdot(grad, x).sum(dtype=a.dtype).reshape(a.shape)
        grad_b = torch.linalg.vecdot(grad, x0).sum(dtype=b.dtype).reshape(b.shape)
        return _scaled(grad, a), _scaled(grad, b), grad_a, grad_b


def _weighted_sum(x: Tensor, x0: Tensor, a: Tensor, b: Tensor) -> Tensor:
    if x.is_cuda:
        return _scaled(x, a).add_(_scaled(x0, b))
    return torch.add(_scaled(x, a), x0, alpha=b.item())  # on a CPU the scalar costs no synchronisation and saves a pass


def _scaled(x: Tensor, weight: Tensor) -> Tensor:
    # a 0-dimensional fp32 tensor does not promote x
    return x * weight.reshape(())


def squared_relu(x: Tensor) -> Tensor:
    """relu(x)^2 (Primer, arXiv 2109.08668)."""
    return (_FusedSquaredRelu if launch.available(x.device) else _SquaredRelu).apply(x)


class _FusedSquaredRelu(torch.autograd.Function):
    """By Triton kernels: keeps the input, which the product before it has written anyway, and not a copy of relu(x)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        from nanochat_core.kernels.relu_square import relu_square

        ctx.save_for_backward(x)
        return relu_square(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        from nanochat_core.kernels.relu_square import relu_square_backward

        return relu_square_backward(grad, ctx.saved_tensors[0])


class _SquaredRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        rectified = F.relu(x)
        ctx.save_for_backward(rectified)
        return rectified * rectified

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (rectified,) = ctx.saved_tensors
        zero = rectified.new_zeros(())  # addcmul: the product and its factor of two in one pass
        return torch.addcmul(zero, grad, rectified, value=2)
