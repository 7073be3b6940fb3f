"""A mixture of conversations: sources and how often each is taken, in one shuffled order, read when asked for.

Repeating a small source (nanochat takes GSM8K four times) is how a mixture weighs it. The order is a permutation of
numbers drawn from the seed, so the same sources give the same mixture, and of half a million conversations only those
that are being looked at are in memory.
"""

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

Conversation = dict[str, Any]


class Subset(Sequence[Conversation]):
    """Some conversations of a source, by their numbers."""

    def __init__(self, source: Sequence[Conversation], numbers: np.ndarray) -> None:
        self.source, self.numbers = source, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | Sequence[Conversation]:
        if isinstance(index, slice):
            return Subset(self.source, self.numbers[index])
        return self.source[int(self.numbers[index])]

    def __iter__(self) -> Iterator[Conversation]:
        return (self.source[number] for number in self.numbers.tolist())


class Joined(Sequence[Conversation]):
    """Sources one after the other, each as often as its number of repeats says."""

    def __init__(self, parts: Sequence[tuple[Sequence[Conversation], int]]) -> None:
        self.sources = [source for source, repeats in parts for _ in range(repeats)]
        self._ends = np.cumsum([len(source) for source in self.sources], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @overload
    def __getitem__(self, index: int) -> Conversation: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Conversation]: ...
    def __getitem__(self, index: int | slice) -> Conversation | Sequence[Conversation]:
        if isinstance(index, slice):
            return Subset(self, np.arange(len(self))[index])
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[part][index - (int(self._ends[part - 1]) if part else 0)]


def mixture(parts: Sequence[tuple[Sequence[Conversation], int]], *, seed: int) -> Sequence[Conversation]:
    """All conversations of (source, repeats) in an order that only the seed and the sources' sizes decide."""
    joined = Joined(parts)
    return Subset(joined, permutation(len(joined), seed))


def permutation(size: int, seed: int) -> np.ndarray:
    """(size,) int64."""
    return np.random.Generator(np.random.PCG64(seed)).permutation(size)
