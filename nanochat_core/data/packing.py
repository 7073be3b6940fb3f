"""Best-fit packing of documents into training rows.

Every row starts with BOS and is full: of the documents in a buffer the longest that fits goes in; when none fits, the
shortest is cropped to fill the row and its rest is dropped. Cropping costs tokens (a third at rows of 2,048 and web
text) and spares the model rows that start in mid-document. Best fit: Ding et al. 2024, arXiv 2404.10830; buffer and
crop rule: nanochat.

The result is an index (which slice of which shard goes where), made once; rows are cut from the memory map when read.
"""

import bisect
import itertools
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from nanochat_core.base.errors import MissingError
from nanochat_core.data.tokenize import TokenShards

BUFFER_DOCS = 1000
WHOLE_FRAC = 0.995  # what is left over from the last row is not worth a line
LEAST_KEPT_FRAC = 0.1  # of the training tokens; a run on less is a mistake
PIECES_AT_A_TIME, DOCS_AT_A_TIME = 1 << 16, 1 << 16
PIECE = np.dtype([("shard", "<u4"), ("start", "<u8"), ("length", "<u4")])
Piece = tuple[int, int, int]
LongDocuments = Literal["crop", "split"]


class Document(NamedTuple):
    """A stretch of tokens that is packed as one."""

    length: int
    """Tokens, BOS included."""
    shard: int
    start: int
    head: int | None
    """A continuation: where the BOS of its document is; its own tokens start without one."""


@dataclass(frozen=True)
class RowIndex:
    """Rows as slices of token shards."""

    pieces: np.ndarray
    """(num_pieces,) of PIECE, row after row."""
    row_starts: np.ndarray
    """(num_rows + 1,) int64: the pieces of row r are row_starts[r] to row_starts[r + 1]."""
    num_cropped: int = 0
    """Documents that lost their end; of a packing that was just made."""
    kept_tokens: int = 0
    """Tokens of the shards that are in rows, each once; the rest was cropped, or is left over from the last row."""

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
        """(row_len,) ids of one row, uint16 or uint32."""
        pieces = self.pieces[self.row_starts[row] : self.row_starts[row + 1]]
        return np.concatenate([shards.tokens[s][start : start + length] for s, start, length in pieces.tolist()])


def pack_rows(shards: TokenShards, *, row_len: int, long_documents: LongDocuments = "crop") -> RowIndex:
    """Pack all documents, in their order through a buffer, into rows of `row_len` ids; the last partial row is dropped.

    long_documents: "crop" drops what does not fit into a row (nanochat's rule); "split" keeps it as further documents,
    each led by BOS, which suits small corpora: at rows of 256 cropping would drop four fifths of the text.
    """
    is_split = long_documents == "split"
    documents = _documents(shards)
    if is_split:
        documents = (part for document in documents for part in _split(document, row_len))
    packer = _Packer(documents, row_len, keeps_rests=is_split)
    done, pieces, row_starts = [np.empty(0, PIECE)], list[Piece](), array("q", [0])
    while (row := packer.next_row()) is not None:
        pieces += row
        row_starts.append(row_starts[-1] + len(row))
        if len(pieces) >= PIECES_AT_A_TIME:  # as tuples they take ten times the memory
            done, pieces = [*done, np.array(pieces, dtype=PIECE)], []
    table = np.concatenate([*done, np.array(pieces, dtype=PIECE)])
    num_rows = len(row_starts) - 1
    return RowIndex(
        table,
        np.array(row_starts, dtype=np.int64),
        num_cropped=packer.num_cropped,
        kept_tokens=num_rows * row_len - packer.num_repeated,
    )


def packing_note(split: str, counts: Mapping[str, int], *, num_docs: int, row_len: int) -> str | None:
    """What a split lost, for people, where it lost any; MissingError where next to nothing is left of it."""
    tokens, kept = counts[f"{split}_tokens"], counts[f"{split}_kept_tokens"]
    rows, cropped = counts[f"{split}_rows"], counts[f"{split}_cropped_docs"]
    told = f"{split}: {rows:,} rows of {row_len:,} keep {kept:,} of {tokens:,} tokens"
    if not rows:
        raise MissingError(
            f"{told}: the text does not fill one row",
            hint=f"more {split} text, or --set pretrain.sequence_len_tokens=N below {tokens:,}",
        )
    if kept < LEAST_KEPT_FRAC * tokens and split == "train":
        raise MissingError(
            f"{told}: {cropped:,} of {num_docs:,} documents are longer than a row and lose their end",
            hint="--set tokens.long_documents=split keeps it as further documents",
        )
    if kept > WHOLE_FRAC * tokens:
        return None
    lost = f"; {cropped:,} of {num_docs:,} documents lose their end" if cropped else ""
    return f"{told} ({kept / tokens:.0%}){lost}"


def _documents(shards: TokenShards) -> Iterator[Document]:
    for shard, starts in enumerate(shards.doc_starts):
        for first in range(0, len(starts) - 1, DOCS_AT_A_TIME):
            several = starts[first : first + DOCS_AT_A_TIME + 1].tolist()
            for start, end in itertools.pairwise(several):
                yield Document(end - start, shard, start, head=None)


def _split(document: Document, row_len: int) -> Iterator[Document]:
    """Parts of at most a row. A continuation starts with the document's own BOS, so it gives up one place."""
    first = min(document.length, row_len)
    yield document._replace(length=first)
    done = first
    while done < document.length:
        taken = min(document.length - done, row_len - 1)
        yield Document(taken + 1, document.shard, document.start + done, head=document.start)
        done += taken


class _Packer:
    """A buffer of documents sorted by (length, age), refilled as rows take from it.

    Ties: the oldest document of a length goes first, in best fit and in cropping alike.
    """

    def __init__(self, documents: Iterator[Document], row_len: int, *, keeps_rests: bool) -> None:
        self.documents, self.row_len, self.keeps_rests = documents, row_len, keeps_rests
        self.buffer: list[tuple[int, int, Document]] = []  # (length, age, document), sorted
        self.age = 0
        self.num_cropped = self.num_repeated = 0  # documents that lost their end; BOS put in again

    def _refill(self) -> None:
        while len(self.buffer) < BUFFER_DOCS:
            document = next(self.documents, None)
            if document is None:
                return
            self._insert(document)

    def _insert(self, document: Document) -> None:
        bisect.insort(self.buffer, (document.length, self.age, document))
        self.age += 1

    def next_row(self) -> list[Piece] | None:
        """The pieces of one full row; None when the documents are used up."""
        row: list[Piece] = []
        room, num_cropped, num_repeated = self.row_len, 0, 0
        while room:
            self._refill()
            if not self.buffer:
                return None
            document = self._take(room)
            length = min(document.length, room)
            row += _as_pieces(document, length)
            room -= length
            num_repeated += document.head is not None
            if self.keeps_rests and length < document.length:
                self._insert(_rest(document, length))
            num_cropped += not self.keeps_rests and length < document.length
        self.num_cropped, self.num_repeated = self.num_cropped + num_cropped, self.num_repeated + num_repeated
        return row

    def _take(self, room: int) -> Document:
        """The longest document that fits, else the shortest, which will be cropped."""
        fitting = bisect.bisect_left(self.buffer, (room + 1,))
        if not fitting:
            return self.buffer.pop(0)[2]
        longest = self.buffer[fitting - 1][0]
        return self.buffer.pop(bisect.bisect_left(self.buffer, (longest,)))[2]


def _rest(document: Document, length: int) -> Document:
    """What is left of a document after its first `length` tokens, led by the same BOS."""
    if document.head is None:
        return Document(document.length - length + 1, document.shard, document.start + length, head=document.start)
    return document._replace(length=document.length - length + 1, start=document.start + length - 1)


def _as_pieces(document: Document, length: int) -> list[Piece]:
    if document.head is None:
        return [(document.shard, document.start, length)]
    bos = (document.shard, document.head, 1)
    return [bos] if length == 1 else [bos, (document.shard, document.start, length - 1)]
