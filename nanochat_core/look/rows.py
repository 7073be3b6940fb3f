"""Rows as the model sees them: every token with its text, what is learnt, and which document it is of.

Packing wrote down which stretch of the token shards goes where, so a row leads to its documents without packing again:
a document's number follows from where it starts.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nanochat_core.base.errors import MissingError
from nanochat_core.data import shards
from nanochat_core.data.loader import PackedDocuments, open_text
from nanochat_core.look.documents import Documents, FoundDocument

if TYPE_CHECKING:
    from nanochat_core.look.run_data import RunData
    from nanochat_core.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Tokens of one document in a row."""

    start: int
    """In the row."""
    length: int
    document: int
    """The number of the document in its split."""
    file: str
    line: int
    offset: int
    """Tokens of the document before these."""
    until: int
    """And those up to the last of these. A part of a text that goes on is led by a BOS that counts in neither."""
    of_tokens: int
    """Tokens of the whole document, its BOS among them."""


@dataclass(frozen=True, kw_only=True)
class ShownRow:
    """One row."""

    split: str
    row: int
    source: str
    """Of a text with several sources; else empty."""
    ids: list[int]
    texts: list[str]
    """Of each token; bytes that are no UTF-8 of their own as \\xe2, special tokens by name."""
    special: list[int]
    """1 where a token is no text."""
    learnt: list[int]
    """1 where the model learns to predict this token from those before it."""
    stretches: list[Stretch]

    def record(self) -> dict[str, Any]:
        return asdict(self)


class TextRows:
    """The packed rows of one split, with their documents. Of several sources no row has two."""

    def __init__(self, run: "RunData", split: str) -> None:
        self.run, self.split = run, split
        self.rows = open_text(run.folder(run.of("tokens")), split, vocab_size=run.tokenizer.vocab_size)
        self._documents: Documents | None = None
        self._first: dict[str, np.ndarray] = {}

    def __len__(self) -> int:
        return self.rows.num_rows

    @property
    def documents(self) -> Documents:
        """The documents that were packed, of all sources."""
        if self._documents is None:
            folder = self.run.folder(self.run.text_of("tokens"), f"{self.split}/")
            self._documents = Documents(shards.row_groups(folder / self.split))
        return self._documents

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(row_len,) ids; all of them are learnt."""
        return self.rows.read(row)

    def place(self, row: int) -> tuple[str, PackedDocuments, int]:
        """A row's source (empty where there is one only), the rows of that, and which of them it is."""
        if isinstance(self.rows, PackedDocuments):
            return "", self.rows, row
        source, own = self.rows.place(row)
        return source, self.rows.parts[source], own

    def stretches(self, row: int) -> list[Stretch]:
        """The documents of a row, in its order."""
        source, rows, own_row = self.place(row)
        index, starts, first = rows.index, rows.shards.doc_starts, self._first_of(source, rows)
        found: list[Stretch] = []
        at = 0
        for shard, start, length in index.pieces[index.row_starts[own_row] : index.row_starts[own_row + 1]].tolist():
            own = int(np.searchsorted(starts[shard], start, side="right")) - 1
            begins, ends = starts[shard][own : own + 2].tolist()
            number, offset = int(first[shard]) + own, start - begins
            # a part of a document that goes on is led by the document's BOS, which is a piece of its own
            is_led = bool(found) and found[-1].document == number and found[-1].length == 1 and offset > 0
            if is_led:
                found.append(replace(found.pop(), length=length + 1, offset=offset, until=offset + length))
            else:
                file, line = self.documents.place(number)
                found.append(
                    Stretch(start=at, length=length, document=number, file=file, line=line, offset=offset,
                            until=offset + length, of_tokens=ends - begins)
                )  # fmt: skip
            at += length
        return found

    def _first_of(self, source: str, rows: PackedDocuments) -> np.ndarray:
        """The number of the first document of each token shard of a source, among those of all."""
        if source not in self._first:
            own = np.cumsum([0, *(len(starts) - 1 for starts in rows.shards.doc_starts)])
            begins, ends = self.documents.of_source(source)
            if own[-1] != ends - begins:
                told = f"the tokens have {own[-1]:,} documents and the text {ends - begins:,}"
                raise MissingError(told, hint="--fresh tokens")
            self._first[source] = begins + own
        return self._first[source]

    def document(self, number: int) -> FoundDocument:
        """A document by its number."""
        return self.documents[number]

    def show(self, row: int) -> ShownRow:
        """A row with everything that is to be seen of it."""
        check_row(row, len(self), self.split)
        ids = self.rows.read(row)[0].tolist()
        texts, special = texts_of(self.run.tokenizer, ids)
        learnt = [0] + [1] * (len(ids) - 1)  # nothing stands before the first
        source, stretches = self.place(row)[0], self.stretches(row)
        return ShownRow(split=self.split, row=row, source=source, ids=ids, texts=texts, special=special, learnt=learnt,
                        stretches=stretches)  # fmt: skip


def check_row(row: int, num_rows: int, split: str) -> None:
    """MissingError for a row that is not there."""
    if not 0 <= row < num_rows:
        raise MissingError(f"there is no {split} row {row:,}", hint=f"there are {num_rows:,}, from 0 on")


def texts_of(tokenizer: "Tokenizer", ids: Sequence[int]) -> tuple[list[str], list[int]]:
    """What each token is, for people, and 1 for those that are no text."""
    from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS

    names = {tokenizer.special(name): name for name in SPECIAL_TOKENS}
    texts = [names.get(token) or _text(tokenizer.decode_bytes([token])) for token in ids]
    return texts, [int(token in names) for token in ids]


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("utf-8", errors="backslashreplace")
