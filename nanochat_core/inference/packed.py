"""The weights of a model as decoding wants them: matrices of one input joined, cast or packed once, not per token.

Generating one token reads every matrix once and computes little, so bytes are time. The kinds:
plain  the module's own matrices in its compute dtype
bf16   in oneDNN's blocked layout, which a product with few rows reads two to three times as fast as a plain one
fp16   in blocks for compiled code (native.py), without a compiler in FBGEMM's layout, with fp32 activations: closer to
       fp32 than bf16 is, and few rows move at the speed of the memory; many take the bf16 product, which multiplies
       faster
int8   one scale per output row, a quarter of fp32's bytes; above a few rows the packed bf16 product is faster and gets
       the very same integers (bf16 holds them exactly), so what a row says does not hang on how many others there are
Weights are packed once per model, and again when a parameter has changed.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Protocol
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.native import BlockedMatrix, library
from nanochat_core.model.attention import Attention
from nanochat_core.model.gpt import GPT

# N rows of input, I inputs, O outputs
KINDS = ("auto", "plain", "bf16", "fp16", "int8")
# Measured on a CPU with AVX512-BF16, one thread: up to so many rows the kind's own product is the faster one.
FP16_ROWS = 8  # 1.4 times slower than packed bf16 at 16
INT8_ROWS = 4  # 1.3 to 1.6 times slower at 8
INT8_MAX = 127


class Product(Protocol):
    """x (N, I) to (N, O), in and out in fp32 or bf16 as it comes."""

    @property
    def blocked(self) -> BlockedMatrix | None:
        """The same matrix for the compiled step; None where that has no such weights."""

    def __call__(self, x: Tensor) -> Tensor: ...


logger = logging.getLogger(__name__)


def rounded_rows(rows: int) -> int:
    """The next number of three significant bits: 1 to 8, 10, 12, 14, 16, 20, 24, 28, 32, 40 and so on.

    For bf16 products on a CPU: oneDNN keeps code and scratch space for every shape that it has seen, about 0.6 MiB each
    (torch 2.13), and a server sees prompts of every length. Rounded, its memory stays flat.
    """
    step = 1 << max(0, (rows - 1).bit_length() - 3)
    return -(-rows // step) * step


def pad_rows(x: Tensor) -> Tensor:
    """x (N, I) with zeros behind it up to a rounded number of rows; x itself where it has one."""
    extra = rounded_rows(x.size(0)) - x.size(0)
    return F.pad(x, (0, 0, 0, extra)) if extra else x


class PlainProduct:
    """A matrix as it is; without a copy where the dtype already fits."""

    def __init__(self, weight: Tensor, *, dtype: torch.dtype) -> None:
        self.weight = weight.detach().to(dtype)
        self._is_rounded = weight.device.type == "cpu" and dtype == torch.bfloat16

    @cached_property
    def blocked(self) -> BlockedMatrix | None:
        is_exact = self.weight.device.type == "cpu" and self.weight.dtype == torch.float32
        return BlockedMatrix(self.weight, torch.float32) if is_exact else None

    def __call__(self, x: Tensor) -> Tensor:
        rows, x = x.size(0), x.to(self.weight.dtype)
        return F.linear(pad_rows(x), self.weight)[:rows] if self._is_rounded else F.linear(x, self.weight)


class PackedProduct:
    """A bf16 matrix in oneDNN's blocked layout."""

    blocked = None

    def __init__(self, weight: Tensor) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().bfloat16(), 1)

    def __call__(self, x: Tensor) -> Tensor:
        rows, x = x.size(0), pad_rows(x.bfloat16())
        # `.default` spares a search among overloads that takes longer than a small product
        return torch.ops.mkldnn._linear_pointwise.default(x, self.weight, None, "none", [], "")[:rows]


class Fp16Product:
    """A matrix in fp16 for few rows and in bf16 for many."""

    def __init__(self, weight: Tensor) -> None:
        weight = weight.detach().float().contiguous()
        is_compiled = library() is not None
        self.blocked = BlockedMatrix(weight, torch.float16) if is_compiled else None
        self._few_rows = None if is_compiled else torch.ops.quantized.linear_prepack_fp16(weight, None)
        self._many_rows = PackedProduct(weight)

    def __call__(self, x: Tensor) -> Tensor:
        if x.size(0) > FP16_ROWS:
            return self._many_rows(x)
        if self.blocked is not None:
            return self.blocked(x)
        return torch.ops.quantized.linear_dynamic_fp16.default(x.float(), self._few_rows)


class Int8Product:
    """An int8 matrix with a scale per output row. Activations are bf16: torch's kernel is 50x slower with fp32."""

    blocked = None

    def __init__(self, weight: Tensor) -> None:
        self.integers, self.scales = int8_from_float(weight)
        self._many_rows = PackedProduct(self.integers.float())

    def __call__(self, x: Tensor) -> Tensor:
        if x.size(0) > INT8_ROWS:
            return self._many_rows(x).mul_(self.scales)
        return torch._weight_int8pack_mm(x.bfloat16(), self.integers, self.scales)


CPU_PRODUCTS: dict[str, Callable[[Tensor], Product]] = {
    "bf16": PackedProduct,
    "fp16": Fp16Product,
    "int8": Int8Product,
}


def int8_from_float(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Integers (O, I) and bf16 scales (O,) with weight ~ integers * scales, each within half a scale."""
    weight = weight.detach().float()
    # torch's kernel wants bf16 scales, so the integers are chosen for those: a scale is off by 2^-9 at most, which
    # takes the largest weight to 127.25 steps
    scales = (weight.abs().amax(dim=1) / INT8_MAX).clamp_(min=torch.finfo(torch.float32).tiny).bfloat16()
    integers = (weight / scales.float().unsqueeze(1)).round_().clamp_(-INT8_MAX, INT8_MAX)
    return integers.to(torch.int8), scales


@dataclass(frozen=True)
class LayerProducts:
    """One layer's matrices."""

    qkv: Product
    """Queries, keys, values and, on layers with value embeddings, one gate per key head."""
    attn_proj: Product
    fc: Product
    mlp_proj: Product

    @property
    def all(self) -> tuple[Product, ...]:
        """In the order of their use."""
        return self.qkv, self.attn_proj, self.fc, self.mlp_proj


@dataclass(frozen=True)
class DecodeWeights:
    """All matrices of a model, ready for decoding."""

    kind: str
    """plain, bf16, fp16 or int8: what was asked for, or what "auto" or this machine made of it."""
    reason: str
    """Why that kind."""
    dtype: torch.dtype
    """What attention over a fresh prompt runs in, and a GPU's cache."""
    layers: list[LayerProducts]
    head: Product

    @property
    def has_blocks(self) -> bool:
        """Whether the compiled step can read them: fp32 and fp16 on a CPU."""
        return self.head.blocked is not None


_kept: WeakKeyDictionary[GPT, dict[str, tuple[object, DecodeWeights]]] = WeakKeyDictionary()


@torch.no_grad()
def decode_weights(model: GPT, kind: str = "auto") -> DecodeWeights:
    """The weights of `model` as `kind` holds them; those of an earlier call while no parameter has changed."""
    kind, reason = pick_kind(model, kind)
    # in-place updates raise _version, `.to(device)` and `.data = ...` move the pointer
    key = (model.compute_dtype, *((weight._version, weight.data_ptr()) for weight in model.parameters()))
    kept = _kept.setdefault(model, {})
    if kind not in kept or kept[kind][0] != key:
        kept[kind] = (key, _pack(model, kind, reason))
    return kept[kind][1]


def pick_kind(model: GPT, kind: str) -> tuple[str, str]:
    """(a kind other than auto, why) for what was asked; what this machine cannot run gives way to the next best."""
    if kind not in KINDS:
        raise ConfigError(f"there are no {kind!r} decode weights", hint=", ".join(KINDS))
    if kind == "plain":
        return kind, "asked for"
    if kind == "auto" and model.compute_dtype != torch.bfloat16:
        return "plain", f"the model computes in {str(model.compute_dtype).removeprefix('torch.')}, and stays exact"
    if model.device.type != "cpu":
        return "bf16", f"on {model.device.type} weights are plain bf16 copies"
    wanted, reason = ("fp16", "a bf16 model on a CPU") if kind == "auto" else (kind, "asked for")
    for candidate in dict.fromkeys((wanted, "bf16", "plain")):
        problem = problem_of(candidate)
        if problem is None:
            return candidate, reason
        reason = f"no {candidate} weights: {problem}"
        logger.warning(reason)
    raise AssertionError("plain weights need nothing")


@lru_cache(maxsize=len(KINDS))
def problem_of(kind: str) -> str | None:
    """Why this machine or this build of torch cannot run the products of `kind`; None: it can."""
    if kind == "plain":
        return None
    try:
        product = CPU_PRODUCTS[kind](torch.eye(64))
        for rows in (1, 64):
            product(torch.ones(rows, 64))
    except (RuntimeError, AttributeError) as error:
        return str(error).strip().partition("\n")[0]
    return None


def _pack(model: GPT, kind: str, reason: str) -> DecodeWeights:
    dtype = model.compute_dtype if kind == "plain" else torch.bfloat16
    is_plain = kind == "plain" or model.device.type != "cpu"
    product: Callable[[Tensor], Product] = partial(PlainProduct, dtype=dtype) if is_plain else CPU_PRODUCTS[kind]
    layers = [
        LayerProducts(
            product(_joined(block.attn)),
            product(block.attn.proj.weight),
            product(block.mlp.fc.weight),
            product(block.mlp.proj.weight),
        )
        for block in model.layers
    ]
    return DecodeWeights(kind, reason, dtype, layers, product(model.head.weight[: model.config.vocab_size]))


def _joined(attn: Attention) -> Tensor:
    """(O, I): q, k, v, and the value gate with zeros for the channels that it does not look at."""
    parts: tuple[Tensor, ...] = (attn.q.weight, attn.k.weight, attn.v.weight)
    if attn.value_gate is None:
        return torch.cat(parts)
    width = attn.q.weight.size(1)
    return torch.cat((*parts, F.pad(attn.value_gate.weight, (0, width - attn.gate_channels))))
