"""Packed conversations as the model sees them: who speaks, what of it is learnt, and the file and line of each.

A row holds several conversations, and what is left of it is padding. The turns are read from the row's own special
tokens, so what is shown is what is trained on, whatever form the file had.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.data.loader import PackedConversations
from nanochat_core.look.rows import ShownRow, Stretch, check_row, texts_of
from nanochat_core.steps.conversations import PLACES
from nanochat_core.store.manifest import LOG_FOLDER
from nanochat_core.tokenizer import tokenizer as tk

if TYPE_CHECKING:
    from nanochat_core.look.run_data import RunData

SPEAKERS = {tk.USER_START: "user", tk.ASSISTANT_START: "assistant", tk.PYTHON_START: "tool call",
            tk.OUTPUT_START: "tool result"}  # fmt: skip
ENDS = {tk.USER_END, tk.ASSISTANT_END, tk.PYTHON_END, tk.OUTPUT_END}
PADDING = "padding"


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Neighbouring tokens of one speaker."""

    speaker: str
    """user, assistant, tool call, tool result, padding; empty for the token that begins a conversation."""
    start: int
    """In the row."""
    length: int
    num_learnt: int
    text: str
    texts: list[str]
    """Of each token."""
    learnt: list[int]
    """1 where the model learns to predict it."""
    special: list[int]
    """1 where a token is no text."""


@dataclass(frozen=True, kw_only=True)
class Talk:
    """A conversation, or the part of a long one that a row has."""

    row: int
    stretch: Stretch
    turns: list[Turn]

    def record(self) -> dict[str, Any]:
        return asdict(self)


class TalkRows:
    """The packed conversations of one split."""

    def __init__(self, run: "RunData", split: str) -> None:
        self.run, self.split = run, split
        folder = run.folder(run.of("conversations"))
        self.rows = PackedConversations(folder, split)
        self.ids, self.mask = self.rows.ids, self.rows.mask
        places = folder / LOG_FOLDER / PLACES.format(split=split)
        self._places = places if places.is_file() else None

    def __len__(self) -> int:
        return self.rows.num_rows

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(row_len,) ids, and the mask of what is learnt."""
        return self.ids[row], self.mask[row]

    def stretches(self, row: int) -> list[Stretch]:
        """The conversations of a row; of a run from before their places were kept, told by where they begin."""
        if self._places is None:
            return self._told(row)
        table, begins = _places_of(self._places)
        lines = table.slice(int(begins[row]), int(begins[row + 1] - begins[row])).to_pylist()
        return [
            Stretch(start=each["start"], length=each["length"], document=each["conversation"], file=each["file"] or "",
                    line=each["line"] or 0, offset=each["offset"], until=each["offset"] + each["length"],
                    of_tokens=each["of_tokens"])
            for each in lines
        ]  # fmt: skip

    def _told(self, row: int) -> list[Stretch]:
        ids, mask = self.ids[row], self.mask[row]
        begins = np.flatnonzero(ids == self.run.tokenizer.bos).tolist()
        end = int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else len(ids)
        starts = [start for start in begins if start < end] or [0]
        stops = [*starts[1:], end]
        return [
            Stretch(start=a, length=b - a, document=-1, file="", line=0, offset=0, until=b - a, of_tokens=b - a)
            for a, b in zip(starts, stops, strict=True)
        ]

    def show(self, row: int) -> ShownRow:
        """A row with everything that is to be seen of it."""
        check_row(row, len(self), self.split)
        ids, mask = self.ids[row], self.mask[row]
        texts, special = texts_of(self.run.tokenizer, ids.tolist())
        return ShownRow(split=self.split, row=row, source="", ids=ids.tolist(), texts=texts, special=special,
                        learnt=[0, *mask[1:].tolist()], stretches=self.stretches(row))  # fmt: skip

    def talks(self, row: int) -> list[Talk]:
        """The conversations of a row, turn by turn."""
        shown = self.show(row)
        return [Talk(row=row, stretch=each, turns=list(_turns(shown, each, self.run))) for each in shown.stretches]

    def search(self, wanted: str, *, start: int = 0, most: int = 20) -> tuple[list[Talk], int | None]:
        """Conversations of the rows from `start` on that hold a text, whatever its capitals; and where to go on."""
        found: list[Talk] = []
        for row in range(start, len(self)):
            if len(found) >= most:
                return found, row
            if wanted and wanted.casefold() not in self.run.tokenizer.decode(self.ids[row].tolist()).casefold():
                continue
            found += (talk for talk in self.talks(row) if not wanted or _says(talk, wanted))
        return found, None


def _says(talk: Talk, wanted: str) -> bool:
    return any(wanted.casefold() in turn.text.casefold() for turn in talk.turns)


@lru_cache(maxsize=4)
def _places_of(path: Path) -> tuple[pa.Table, np.ndarray]:
    """What each row has of which conversation (data/conversations.py), and where each row's lines begin in that."""
    table = pq.read_table(path)
    rows = table["row"].to_numpy()
    return table, np.searchsorted(rows, np.arange(int(rows[-1]) + 2) if len(rows) else np.zeros(1))


def _turns(shown: ShownRow, stretch: Stretch, run: "RunData") -> Iterator[Turn]:
    """Neighbouring tokens of one speaker, each with its marks."""
    end = stretch.start + stretch.length
    speaker, outer, start = "" if not stretch.offset else "(goes on)", "", stretch.start
    for at in range(stretch.start, end):
        text = shown.texts[at] if shown.special[at] else ""
        if text in SPEAKERS:
            if at > start:
                yield _turn(shown, run, speaker, start, at)
            outer = speaker if text in (tk.PYTHON_START, tk.OUTPUT_START) else ""
            speaker, start = SPEAKERS[text], at
        elif text in ENDS:
            yield _turn(shown, run, speaker, start, at + 1)
            speaker, start = outer or speaker, at + 1
            outer = ""
    if end > start:
        yield _turn(shown, run, speaker, start, end)


def _turn(shown: ShownRow, run: "RunData", speaker: str, start: int, end: int) -> Turn:
    ids = [token for token, special in zip(shown.ids[start:end], shown.special[start:end], strict=True) if not special]
    learnt = sum(shown.learnt[start:end])
    return Turn(
        speaker=speaker, start=start, length=end - start, num_learnt=learnt, text=run.tokenizer.decode(ids),
        texts=shown.texts[start:end], learnt=shown.learnt[start:end], special=shown.special[start:end],
    )  # fmt: skip
