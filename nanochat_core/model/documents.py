"""Which document each position of a packed row belongs to, in the forms that attention routes want it.

A row of training data holds several documents, one behind the other. Without this a token also attends to the
documents before its own; with it a packed row gives every document the numbers that it would have alone. The forms
(a boolean per pair, boundaries of the flattened batch, block masks) are made once per batch, not once per layer.
"""

from typing import Any

import torch
from torch import Tensor

# B rows, T tokens


class Documents:
    """Documents of a batch: `ids` (B, T) change where a new document begins; equal neighbours are one document."""

    def __init__(self, ids: Tensor) -> None:
        self.ids = ids
        self.block_masks: dict[int, Any] = {}
        """FlexAttention's masks of this batch by window; flex_attention.py fills it."""
        self._boundaries: Tensor | None = None

    @classmethod
    def starting_at(cls, is_start: Tensor) -> "Documents":
        """From a boolean (B, T) that marks the first token of each document."""
        return cls(is_start.cumsum(1))

    @classmethod
    def of(cls, ids: Tensor, *, bos: int | None) -> "Documents | None":
        """Of token ids (B, T) in which `bos` begins each document; None where no such id is given."""
        return None if bos is None else cls.starting_at(ids == bos)

    def is_first(self) -> Tensor:
        """(B, T): True where a document begins; the first column always does."""
        first = torch.ones_like(self.ids, dtype=torch.bool)
        torch.ne(self.ids[:, 1:], self.ids[:, :-1], out=first[:, 1:])
        return first

    def boundaries(self) -> Tensor:
        """Where documents begin in the flattened batch, and its length at the end: int32 (documents + 1,)."""
        if self._boundaries is None:
            starts = self.is_first().flatten().nonzero().flatten()  # waits for the GPU: once per batch
            self._boundaries = torch.cat((starts, starts.new_tensor([self.ids.numel()]))).to(torch.int32)
        return self._boundaries

    def are_different(self, queries: slice, keys: slice) -> Tensor:
        """(B, queries, keys): True where a query's document is not the key's."""
        return self.ids[:, queries, None] != self.ids[:, None, keys]
