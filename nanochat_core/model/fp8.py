"""Matrix products of a layer in fp8: inputs and weights in e4m3, gradients in e5m2, sums in fp32, results as before.

Only the large products of the layers run in fp8; gates, embeddings, the head and everything without gradients stay in
the compute dtype, so an evaluation of an fp8 run is one of the same weights in bf16. Weights are quantised once per
optimizer step and not once per micro-step. An MLP is one function here: its hidden layer goes from the first product to
the second through a kernel that squares, casts and transposes, and is never written as bf16.
Where the hardware multiplies no fp8 the same numbers are multiplied in fp32. Formats: arXiv 2209.05433.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from nanochat_core.base.errors import ConfigError
from nanochat_core.kernels import launch
from nanochat_core.kernels.quantized import (
    PLAIN,
    RELU_SQUARE,
    RELU_SQUARE_BACKWARD,
    Quantized,
    Record,
    cast_plainly,
    formed,
)
from nanochat_core.model.admission import is_fused_mlp
from nanochat_core.model.fp8_scaling import GRAD_DTYPE, INPUT_DTYPE, Fp8State, Scaling, scale_for
from nanochat_core.model.linear import CastCopy

if TYPE_CHECKING:
    from nanochat_core.model.gpt import GPT

# N tokens, C inputs, O outputs
MULTIPLE = 16  # fp8 products want every dimension to be one of these
HOPPER = (9, 0)
SCALINGS: tuple[Scaling, ...] = ("dynamic", "delayed")
MIN_DEPTH = 18  # below, casts cost more than the faster products save: the crossover is at a width near 1,000


def pick_scaling(requested: str | None, *, depth: int, device: torch.device) -> tuple[Scaling | None, str]:
    """(scaling or None for bf16, the reason); `requested`: "off", "dynamic", "delayed", or None to choose."""
    if requested == "off":
        return None, "fp8 is off, as asked"
    for scaling in SCALINGS:
        if requested == scaling:
            return scaling, f"fp8 with {scaling} scales, as asked"
    if requested is not None:
        raise ConfigError(f"there is no fp8 mode {requested!r}", hint="off, dynamic or delayed")
    if depth < MIN_DEPTH:
        return None, f"bf16: fp8 pays from depth {MIN_DEPTH} on, this is {depth}"
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < HOPPER:
        return None, "bf16: fp8 products need a GPU of the Hopper generation or newer"
    return "delayed", f"fp8 with delayed scales: depth {depth} on {torch.cuda.get_device_name(device)}"


@dataclass(frozen=True)
class Operand:
    """An fp8 tensor, its transposed copy, and the inverse of their scale (one element)."""

    values: Tensor
    transposed: Tensor
    inverse: Tensor


def scaled_product(
    a: Tensor, b: Tensor, *, inverses: tuple[Tensor, Tensor], dtype: torch.dtype, is_fast: bool = False
) -> Tensor:
    """a (N, C) times b (C, O), both fp8, b stored by columns; `is_fast`: sums may leave out low bits in between."""
    if a.is_cuda:
        return torch._scaled_mm(a, b, scale_a=inverses[0], scale_b=inverses[1], out_dtype=dtype, use_fast_accum=is_fast)
    return ((a.float() @ b.float()) * (inverses[0] * inverses[1])).to(dtype)


class Fp8Product:
    """A matrix product in fp8 while gradients are recorded; takes the place of a `CastCopy`."""

    def __init__(self, state: Fp8State, name: str) -> None:
        self.state = state
        self.input_slot, self.grad_slot = state.slots[f"{name}.input"], state.slots[f"{name}.grad"]
        self._plain = CastCopy()
        self._key: tuple[object, ...] | None = None
        self._weights: Operand | None = None

    def product(self, x: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
        """x times the transposed weights, in the dtype of x."""
        if not torch.is_grad_enabled() or not fits(x):
            return self._plain.product(x, weights)
        return _Fp8Linear.apply(x, self, *weights)

    @torch.no_grad()
    def weights(self, weights: tuple[Tensor, ...], dtype: torch.dtype) -> Operand:
        """The weights stacked over their rows, cast anew only when one of them has changed.

        `dtype`: the compute dtype, which they pass through. Between two steps a parameter holds what its owner sent
        (optim/exchange.py), after a save or a resume the fp32 master: both are the same number there.
        """
        key = (dtype, *((weight._version, weight.data_ptr()) for weight in weights))
        if self._weights is None or self._key != key:
            self._plain.drop()  # of an evaluation before
            stacked = weights[0] if len(weights) == 1 else torch.cat(list(weights))
            self._key, self._weights = key, _dynamic(stacked.to(dtype), INPUT_DTYPE, _unkept_record(stacked.device))
        return self._weights

    def input(self, x: Tensor, *, source: int = PLAIN) -> Operand:
        """x (N, C), or what `source` makes of it, as the left operand of the forward pass."""
        return self._cast(self.input_slot, x, None, source=source)

    def grad(self, grad: Tensor, *, gate: Tensor | None = None, source: int = PLAIN) -> Operand:
        """The gradient (N, O) by the result, or what `source` makes of it."""
        return self._cast(self.grad_slot, grad, gate, source=source)

    def _cast(self, slot: int, x: Tensor, gate: Tensor | None, *, source: int) -> Operand:
        state, record = self.state, self.state.record(slot)
        dtype = state.dtypes[slot]
        if state.is_dynamic:
            return _dynamic(x if source == PLAIN else formed(x, gate, source=source), dtype, record)
        scale, inverse = state.delayed_scale(slot)
        return Operand(*_cast(x, gate, scale, dtype=dtype, record=record, source=source), inverse)


def fits(x: Tensor) -> bool:
    """Whether the leading dimensions of x hold a number of tokens that fp8 products take."""
    return x.numel() > 0 and (x.numel() // x.size(-1)) % MULTIPLE == 0


def _dynamic(x: Tensor, dtype: torch.dtype, record: Record) -> Operand:
    scale = scale_for(_largest(x), torch.finfo(dtype).max)
    return Operand(*_cast(x, None, scale, dtype=dtype, record=record, source=PLAIN), scale.reciprocal())


def _largest(x: Tensor) -> Tensor:
    if launch.available(x.device):
        from nanochat_core.kernels.quantize import largest

        return largest(x)
    return x.abs().amax().reshape(1).float()


def _cast(
    x: Tensor, gate: Tensor | None, scale: Tensor, *, dtype: torch.dtype, record: Record, source: int
) -> Quantized:
    if not launch.available(x.device):
        return cast_plainly(formed(x, gate, source=source), scale, dtype=dtype, record=record)
    from nanochat_core.kernels import quantize

    if source == RELU_SQUARE:
        return quantize.cast_relu_square(x, scale, dtype=dtype, record=record)
    if source == RELU_SQUARE_BACKWARD:
        assert gate is not None
        return quantize.cast_relu_square_backward(x, gate, scale, dtype=dtype, record=record)
    return quantize.cast(x, scale, dtype=dtype, record=record)


def _unkept_record(device: torch.device) -> Record:
    return Record(torch.zeros(1, device=device), torch.zeros(1, dtype=torch.int32, device=device))


def _forward(x: Operand, weights: Operand, dtype: torch.dtype) -> Tensor:
    # fast sums are the usual choice forward, where a result is rounded to bf16 anyway, and not for gradients
    inverses = (x.inverse, weights.inverse)
    return scaled_product(x.values, weights.values.t(), inverses=inverses, dtype=dtype, is_fast=True)


def _grad_input(grad: Operand, weights: Operand, dtype: torch.dtype) -> Tensor:
    return scaled_product(
        grad.values, weights.transposed.t(), inverses=(grad.inverse, weights.inverse), dtype=dtype
    )  # (N, C)


def _grad_weight(grad: Operand, x_transposed: Tensor, x_inverse: Tensor) -> Tensor:
    inverses = (grad.inverse, x_inverse)
    return scaled_product(grad.transposed, x_transposed.t(), inverses=inverses, dtype=torch.float32)  # (O, C)


class _Fp8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, product: Fp8Product, *weights: Tensor) -> Tensor:
        quantized, ctx.weights = product.input(x.reshape(-1, x.size(-1))), product.weights(weights, x.dtype)
        ctx.product, ctx.shape, ctx.sizes = product, x.shape, [weight.size(0) for weight in weights]
        ctx.save_for_backward(quantized.transposed, quantized.inverse)
        return _forward(quantized, ctx.weights, x.dtype).view(*x.shape[:-1], sum(ctx.sizes))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_transposed, x_inverse = ctx.saved_tensors
        quantized = ctx.product.grad(grad.reshape(-1, grad.size(-1)))
        grad_x = _grad_input(quantized, ctx.weights, grad.dtype).view(ctx.shape)
        return grad_x, None, *_grad_weight(quantized, x_transposed, x_inverse).split(ctx.sizes)


def fp8_mlp(x: Tensor, *, first: Fp8Product, second: Fp8Product, weights: tuple[Tensor, Tensor]) -> Tensor:
    """relu(x W1^T)^2 W2^T with both products in fp8."""
    return _Fp8Mlp.apply(x, first, second, *weights)


class _Fp8Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, first: Fp8Product, second: Fp8Product, w1: Tensor, w2: Tensor) -> Tensor:
        quantized, ctx.w1 = first.input(x.reshape(-1, x.size(-1))), first.weights((w1,), x.dtype)
        before = _forward(quantized, ctx.w1, x.dtype)  # (N, O)
        hidden, ctx.w2 = second.input(before, source=RELU_SQUARE), second.weights((w2,), x.dtype)
        ctx.first, ctx.second, ctx.shape = first, second, x.shape
        ctx.save_for_backward(quantized.transposed, quantized.inverse, before, hidden.transposed, hidden.inverse)
        return _forward(hidden, ctx.w2, x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x_transposed, x_inverse, before, hidden_transposed, hidden_inverse = ctx.saved_tensors
        outer = ctx.second.grad(grad.reshape(-1, grad.size(-1)))
        grad_hidden = _grad_input(outer, ctx.w2, grad.dtype)
        inner = ctx.first.grad(grad_hidden, gate=before, source=RELU_SQUARE_BACKWARD)
        grad_x = _grad_input(inner, ctx.w1, grad.dtype).view(ctx.shape)
        grad_w1 = _grad_weight(inner, x_transposed, x_inverse)
        return grad_x, None, None, grad_w1, _grad_weight(outer, hidden_transposed, hidden_inverse)


def enable_fp8(model: "GPT", scaling: Scaling) -> Fp8State:
    """Make the layers' products of `model` fp8 ones; the state is also at `model.fp8`, and moves with the model."""
    config = model.config
    if any(size % MULTIPLE for size in (config.n_embd, config.n_kv_head * config.head_dim)):
        raise ConfigError(
            f"fp8 products take widths that are multiples of {MULTIPLE}, n_embd is {config.n_embd}",
            hint="train in bf16, or choose other widths",
        )
    products = ("attn.qkv", "attn.proj", "mlp.fc", "mlp.proj")
    names = [f"blocks.{layer}.{product}" for layer in range(config.n_layer) for product in products]
    slots = {f"{name}.{kind}": dtype for name in names for kind, dtype in SLOT_DTYPES.items()}
    state = model.fp8 = Fp8State(slots, scaling=scaling).to(model.device)
    is_fused = is_fused_mlp(model)
    for layer, block in enumerate(model.layers):
        made = [Fp8Product(state, f"blocks.{layer}.{product}") for product in products]
        block.attn.joined_product, block.attn.proj.weight_product = made[:2]
        block.mlp.fc.weight_product, block.mlp.proj.weight_product = made[2:]
        block.mlp.is_fused = is_fused
    return state


SLOT_DTYPES = {"input": INPUT_DTYPE, "grad": GRAD_DTYPE}
