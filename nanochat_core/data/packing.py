"""Best-fit packing of documents into training rows.

Every row starts with BOS and is full: of the documents in a buffer the longest that fits goes in; when none fits, the
shortest is cropped to fill the row and its rest is dropped. Cropping costs tokens (a third at rows of 2,048 and web text) and spares the
model rows that start in mid-document. Best fit: Ding et al. 2024, arXiv 2404.10830; buffer and crop rule: nanochat.

The result is an index (which slice of which shard goes where), made once; rows are cut from the memory map when read.
"""

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nanochat_core.data.tokenize import TokenShards

BUFFER_DOCS = 1000
PIECE = np.dtype([("shard", "<u4"), ("start", "<u8"), ("length", "<u4")])


@dataclass(frozen=True)
class RowIndex:
    """Rows as slices of token shards."""

    pieces: np.ndarray
    """(num_pieces,) of PIECE, row after row."""
    row_starts: np.ndarray
    """(num_rows + 1,) int64: the pieces of row r are row_starts[r] to row_starts[r + 1]."""

    @property
    def num_rows(self) -> int:
        return len(self.row_starts) - 1

    def save(self, path: Path) -> None:
        np.savez(path, pieces=self.pieces, row_starts=self.row_starts)

    @classmethod
    def load(cls, path: Path) -> "RowIndex":
        with np.load(path, allow_pickle=False) as stored:
            return cls(stored["pieces"], stored["row_starts"])

    def read(self, shards: TokenShards, row: int) -> np.ndarray:
        """(row_len,) uint16 ids of one row."""
        pieces = self.pieces[self.row_starts[row] : self.row_starts[row + 1]]
        return np.concatenate([shards.tokens[s][start : start + length] for s, start, length in pieces.tolist()])


def pack_rows(shards: TokenShards, *, row_len: int) -> RowIndex:
    """Pack all documents, in their order through a buffer, into rows of `row_len` ids; the last partial row is dropped."""
    packer = _Packer(_documents(shards), row_len)
    pieces: list[tuple[int, int, int]] = []
    row_starts = [0]
    while (row := packer.next_row()) is not None:
        pieces += row
        row_starts.append(len(pieces))
    return RowIndex(np.array(pieces, dtype=PIECE), np.array(row_starts, dtype=np.int64))


def _documents(shards: TokenShards) -> Iterator[tuple[int, int, int]]:
    for shard, starts in enumerate(shards.doc_starts):
        for start, end in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            yield shard, start, end - start


class _Packer:
    """A buffer of documents sorted by (length, age), refilled as rows take from it.

    Ties: the oldest document of a length goes first, in best fit and in cropping alike.
    """

    def __init__(self, documents: Iterator[tuple[int, int, int]], row_len: int) -> None:
        self.documents, self.row_len = documents, row_len
        self.buffer: list[tuple[int, int, int, int]] = []  # (length, age, shard, start), sorted
        self.age = 0

    def _refill(self) -> None:
        while len(self.buffer) < BUFFER_DOCS:
            document = next(self.documents, None)
            if document is None:
                return
            shard, start, length = document
            bisect.insort(self.buffer, (length, self.age, shard, start))
            self.age += 1

    def next_row(self) -> list[tuple[int, int, int]] | None:
        row: list[tuple[int, int, int]] = []
        room = self.row_len
        while room:
            self._refill()
            if not self.buffer:
                return None
            fitting = bisect.bisect_left(self.buffer, (room + 1,))
            if fitting:
                longest = self.buffer[fitting - 1][0]
                taken = self.buffer.pop(bisect.bisect_left(self.buffer, (longest,)))
            else:
                taken = self.buffer.pop(0)
            length, _, shard, start = taken
            row.append((shard, start, min(length, room)))
            room -= min(length, room)
        return row
