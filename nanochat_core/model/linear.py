"""Weights are fp32 masters; matrix products run in the dtype of their input.

Each weight is cast once per forward while gradients are recorded. Without gradients the cast copy is kept until the
master changes: decoding one token would otherwise spend most of its time casting the same weights again. On a CPU in
bf16 the kept copy is also in oneDNN's blocked layout, which a product with one row reads two to three times as fast.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Product(Protocol):
    """How a layer multiplies by its weights: in the dtype of the input (`CastCopy`), or in fp8 (fp8.py)."""

    def product(self, x: Tensor, weights: tuple[Tensor, ...]) -> Tensor: ...


class CastCopy:
    """The weights of one matrix product, stacked over their rows, in the dtype of the other operand."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] | None = None
        self._copy: Tensor | None = None

    def __reduce__(self) -> tuple[type["CastCopy"], tuple[()]]:
        return CastCopy, ()  # copies and pickles of a model start without kept weights

    def product(self, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
        """x times the transposed weights, in the dtype of x."""
        if torch.is_grad_enabled():
            self.drop()  # training: do not hold a second copy of the model
            return F.linear(x, _stack_and_cast(weights, x.dtype))
        # In-place updates raise _version, `.to(device)` moves the pointer. Writes through `.data` do neither: whoever
        # writes that way between two calls without gradients gets the old copy.
        key = (x.dtype, *((weight._version, weight.data_ptr()) for weight in weights))
        is_packed = x.dtype == torch.bfloat16 and x.device.type == "cpu" and _has_packed_products()
        if self._copy is None or self._key != key:
            copy = _stack_and_cast(weights, x.dtype)
            self._key, self._copy = key, torch.ops.mkldnn._reorder_linear_weight(copy, 1) if is_packed else copy
        if is_packed:
            return torch.ops.mkldnn._linear_pointwise(x, self._copy, None, "none", [], "")
        return F.linear(x, self._copy)

    def drop(self) -> None:
        """Forget the kept copy."""
        self._key, self._copy = None, None


def _stack_and_cast(weights: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    stacked = weights[0] if len(weights) == 1 else torch.cat(list(weights))
    return stacked.to(dtype)


def _has_packed_products() -> bool:
    """These two operators are torch.compile's own for frozen weights; a build without oneDNN lacks them."""
    operators = torch.ops.mkldnn
    return hasattr(operators, "_linear_pointwise") and hasattr(operators, "_reorder_linear_weight")


class Linear(nn.Module):
    """A matrix product without bias. Its weight is zero until `init.init_weights` or a checkpoint fills it."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        self.weight_product: Product = CastCopy()

    def forward(self, x: Tensor) -> Tensor:
        return self.weight_product.product(x, (self.weight,))


class Embedding(nn.Module):
    """A lookup table; rows are cast after the lookup, so that their gradients add up in fp32."""

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_embeddings, embedding_dim))

    def forward(self, ids: Tensor, *, dtype: torch.dtype) -> Tensor:
        return F.embedding(ids, self.weight).to(dtype)
