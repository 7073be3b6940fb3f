"""Documents of a corpus by their number, in the order in which they were tokenized, and those that hold a text.

Of the shards only the row group that holds a document is read. Looking for a text reads on until there is enough, or
for some seconds: where it stopped is where the next call goes on.
"""

import bisect
import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nanochat_core.base.errors import MissingError
from nanochat_core.data import shards

LOOK_S = 5.0  # a search that has found nothing by then says how far it got
COLUMNS = ("text", "file", "line")


@dataclass(frozen=True, kw_only=True)
class FoundDocument:
    """One document, and where it is from."""

    number: int
    """In its split, from 0."""
    file: str
    """Empty where the corpus does not say; below its source, where there are several."""
    line: int
    text: str

    def shown(self, most_chars: int) -> dict[str, Any]:
        """As JSON, with so much of the text; `num_chars` says how much there is."""
        return {"number": self.number, "file": self.file, "line": self.line, "text": self.text[:most_chars],
                "num_chars": len(self.text)}  # fmt: skip

    @property
    def place(self) -> str:
        """For people."""
        return f"{self.file}:{self.line}" if self.file else "no place is known"


class Documents:
    """The documents of one split of a corpus."""

    def __init__(self, units: list[tuple[Path, int]]) -> None:
        self._units = units
        files = {path: shards.open_parquet(path, column="text").metadata for path, _ in units}
        self._ends = list(itertools.accumulate(files[path].row_group(group).num_rows for path, group in units))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, number: int) -> FoundDocument:
        unit, row = self._find(number)
        return _document(_read(*self._units[unit]), row, number, self._source(unit))

    def of_source(self, source: str) -> tuple[int, int]:
        """The numbers from and up to which documents are of one of several sources; all of them for an empty name."""
        own = [at for at, (path, _) in enumerate(self._units) if not source or shards.source_of(path.name) == source]
        if not own:
            raise MissingError(f"the text has no source {source!r}", hint="--fresh tokens")
        return (self._ends[own[0] - 1] if own[0] else 0), self._ends[own[-1]]

    def place(self, number: int) -> tuple[str, int]:
        """(file, line) of a document, without reading its text; ("", 0) where the corpus does not say."""
        unit, row = self._find(number)
        places = _places(*self._units[unit])
        if places is None:
            return "", 0
        return named(places["file"][row].as_py(), self._source(unit)), places["line"][row].as_py() or 0

    def _source(self, unit: int) -> str:
        return shards.source_of(self._units[unit][0].name) or ""

    def _find(self, number: int) -> tuple[int, int]:
        """Its row group, and its row there."""
        if not 0 <= number < len(self):
            raise MissingError(f"there is no document {number:,}", hint=f"there are {len(self):,}, from 0 on")
        unit = bisect.bisect_right(self._ends, number)
        return unit, number - (self._ends[unit - 1] if unit else 0)

    def search(self, wanted: str, *, start: int = 0, file: str = "", most: int = 20,
               look_s: float = LOOK_S) -> tuple[list[FoundDocument], int | None]:  # fmt: skip
        """Documents from `start` on that hold a text, whatever its capitals, in files whose name holds `file`; and
        where to go on, None where nothing is left."""
        found: list[FoundDocument] = []
        until_s = time.monotonic() + look_s
        for unit, end in enumerate(self._ends):
            if end <= start:
                continue
            first = self._ends[unit - 1] if unit else 0
            late_s = time.monotonic() - until_s
            if late_s > (0 if found else look_s):
                return found, max(start, first)
            table = _read(*self._units[unit])
            source = self._source(unit)
            for row in _rows_with(table, wanted, file, source):
                if first + row >= start:
                    if len(found) == most:
                        return found, first + row
                    found.append(_document(table, row, first + row, source))
        return found, None


@lru_cache(maxsize=4)
def _read(path: Path, group: int) -> pa.Table:
    """A row group with its places, which corpora of before they were kept have none of."""
    file = shards.open_parquet(path, column="text")
    return file.read_row_group(group, columns=[name for name in COLUMNS if name in file.schema_arrow.names])


@lru_cache(maxsize=1024)  # a few KB each: the rows of a step are from all over the corpus
def _places(path: Path, group: int) -> pa.Table | None:
    file = shards.open_parquet(path, column="text")
    has_places = {"file", "line"} <= set(file.schema_arrow.names)
    return file.read_row_group(group, columns=["file", "line"]) if has_places else None


def named(file: str | None, source: str | None) -> str:
    """What a file is called where there may be several sources: docs/a.jsonl."""
    return f"{source}/{file}" if file and source else file or ""


def _document(table: pa.Table, row: int, number: int, source: str) -> FoundDocument:
    values = {name: table[name][row].as_py() for name in table.column_names}
    file, line = named(values.get("file"), source), values.get("line") or 0
    return FoundDocument(number=number, file=file, line=line, text=values["text"])


def _rows_with(table: pa.Table, wanted: str, file: str, source: str) -> Iterator[int]:
    holds = pc.match_substring(table["text"], wanted, ignore_case=True)
    if file:
        if "file" not in table.column_names:
            return
        names = pa.array([named(each, source) for each in table["file"].to_pylist()], pa.string())
        holds = pc.and_(holds, pc.match_substring(names, file, ignore_case=True))
    yield from pc.indices_nonzero(holds).to_pylist()
