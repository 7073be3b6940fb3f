"""Taking documents out of a corpus: shards in, the same shards without them out, and a record of what went and why.

A judge looks at the documents of a row group and names those that go and those that nearly did; worker processes judge,
the parent writes in order, a row group at a time. Shards keep their names, and columns that nobody here knows pass
through. `removed/` has what was taken out, `near/` what stayed though a rule nearly held: both as parquet shards.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from nanochat_core.base.errors import MissingError
from nanochat_core.data import shards
from nanochat_core.data.shards import SPLITS as SPLITS
from nanochat_core.data.workers import Unit, each_unit

REMOVED, NEAR = "removed", "near"
NEAR_CHARS = 500  # of a document that stays, whose text is in the corpus
RECORD = pa.schema(
    [("text", pa.string()), ("file", pa.string()), ("line", pa.int64()), ("rule", pa.string()), ("twin", pa.string()),
     ("score", pa.float64())]
)  # fmt: skip
MAX_TOLD = 3  # rules that a note has an example of


class Judged(NamedTuple):
    """A document that a rule takes out, or nearly did."""

    row: int
    """In its row group."""
    rule: str
    """Several with a comma between."""
    score: float
    """What was measured and compared, of the first rule."""
    is_kept: bool = False
    twin: str = ""
    """The document that stays in its place, the benchmark's item that it holds: by its name and line."""


class Documents(NamedTuple):
    """The documents of a row group, and where they are from."""

    texts: list[str]
    files: list[str]
    lines: list[int]

    def place(self, row: int) -> str:
        """Where one is from, for people."""
        return f"{self.files[row]}, line {self.lines[row]:,}"


Judge = Callable[[Documents], list[Judged]]


@dataclass
class Cleaned:
    """What came of a corpus."""

    documents: Counter[str] = field(default_factory=Counter)
    """Kept, by split."""
    num_bytes: Counter[str] = field(default_factory=Counter)
    removed: Counter[str] = field(default_factory=Counter)
    """Documents by rule; one that breaks several counts for each."""
    num_removed: int = 0
    removed_bytes: int = 0
    near: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """Of each rule the first document, and its twin."""

    def metrics(self) -> dict[str, Any]:
        """As a step records it."""
        counts = {f"{split}_docs": self.documents[split] for split in SPLITS}
        sizes = {f"{split}_bytes": self.num_bytes[split] for split in SPLITS}
        return {**counts, **sizes, "removed_docs": self.num_removed, "removed_bytes": self.removed_bytes,
                "removed": dict(sorted(self.removed.items())), "near": dict(sorted(self.near.items()))}  # fmt: skip

    def told(self) -> str:
        """What went, and one of each rule."""
        total = self.num_removed + self.documents.total()
        rules = [f"{number:,} {rule}" for rule, number in self.removed.most_common()]
        shown = [f"{rule}: {self.examples[rule]}" for rule, _ in self.removed.most_common(MAX_TOLD)]
        near = f"; {self.near.total():,} more are near the line" if self.near else ""
        if not rules:
            return f"none of {total:,} documents is left out{near}"
        such = f", such as {'; '.join(shown)}"
        return f"{self.num_removed:,} of {total:,} documents are left out ({', '.join(rules)}){such}{near}"


def units_of(corpus: Path) -> list[Unit]:
    """The row groups of both splits, those of training first."""
    return [unit for split in SPLITS for unit in shards.row_groups(corpus / split)]


def num_rows(folder: Path, names: Sequence[str]) -> int:
    """Documents in the shards of these folders below one, as their footers say."""
    return sum(pq.read_metadata(path).num_rows for name in names for path in (folder / name).glob("*.parquet"))


def judged_by(make: Callable[..., Judge], *told: Any) -> Callable[[Unit], list[Judged]]:
    """What a worker does with a unit: read it, and ask the judge."""
    judge = make(*told)
    return lambda unit: judge(documents_of(read_table(unit), unit))


def judge_in_processes(
    make: Callable[..., Judge], told: tuple[Any, ...], corpus: Path, *, num_workers: int | None
) -> Iterator[list[Judged]]:
    """What the judge says of each row group, in order."""
    return each_unit(judged_by, (make, *told), units_of(corpus), num_workers=num_workers)


def write_cleaned(
    corpus: Path, out: Path, judged: Iterator[Sequence[Judged]], *, progress: Callable[[int, int], None]
) -> Cleaned:
    """Write out/train, out/validation, out/removed and out/near; `judged` has what is said of each row group, in order.

    Raises MissingError where nothing is left of a split.
    """
    cleaned, units = Cleaned(), units_of(corpus)
    for split in SPLITS:
        (out / split).mkdir(parents=True)
    with closing(_Writer(out)) as writer:
        for done, (unit, found) in enumerate(zip(units, judged, strict=True), start=1):
            _clean_unit(unit, found, writer, cleaned)
            progress(done, len(units))
    for split in SPLITS:
        gone = set(shards.sources_of(corpus / split)) - set(shards.sources_of(out / split))
        if gone or not cleaned.documents[split]:
            what = f"the {split} text of {', '.join(sorted(gone))}" if gone else f"the {split} text"
            raise MissingError(f"nothing is left of {what}: {cleaned.told()}", hint="choose a laxer rule")
    return cleaned


def _clean_unit(unit: Unit, found: Sequence[Judged], writer: "_Writer", cleaned: Cleaned) -> None:
    table, split = read_table(unit), unit[0].parent.name
    documents = documents_of(table, unit)
    stays = np.ones(len(documents.texts), dtype=bool)
    stays[[one.row for one in found if not one.is_kept]] = False
    kept = table.filter(pa.array(stays))
    if kept.num_rows:
        writer.write(f"{split}/{unit[0].name}", kept)
    sizes = np.array([len(text.encode("utf-8")) for text in documents.texts])
    cleaned.documents[split] += kept.num_rows
    cleaned.num_bytes[split] += int(sizes[stays].sum())
    cleaned.num_removed += int((~stays).sum())
    cleaned.removed_bytes += int(sizes[~stays].sum())
    for one in found:
        counts = cleaned.near if one.is_kept else cleaned.removed
        for rule in one.rule.split(", "):
            counts[rule] += 1
            if not one.is_kept:
                cleaned.examples.setdefault(rule, _shown(documents.place(one.row), one.twin))
    for name, is_kept, most in ((REMOVED, False, None), (NEAR, True, NEAR_CHARS)):
        if rows := [one for one in found if one.is_kept == is_kept]:
            writer.write(f"{name}/{split}-{unit[0].name}", _record(documents, rows, most))


def _shown(place: str, twin: str) -> str:
    return f"{place} ({twin})" if twin else place


def _record(documents: Documents, rows: list[Judged], most: int | None) -> pa.Table:
    return pa.table(
        {
            "text": [documents.texts[one.row][:most] for one in rows],
            "file": [documents.files[one.row] for one in rows],
            "line": [documents.lines[one.row] for one in rows],
            "rule": [one.rule for one in rows],
            "twin": [one.twin or None for one in rows],
            "score": [one.score for one in rows],
        },
        schema=RECORD,
    )


class _Writer:
    """Parquet files by name, of which a few are open at a time."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._open: dict[str, tuple[str, pq.ParquetWriter]] = {}  # by folder: one file of each is being written

    def write(self, name: str, table: pa.Table) -> None:
        """Append to a file; the one of the same folder that was written before is finished."""
        folder = name.split("/")[0]
        if folder in self._open and self._open[folder][0] != name:
            self._open.pop(folder)[1].close()
        if folder not in self._open:
            path = self.out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._open[folder] = name, shards.open_writer(path, table.schema)
        self._open[folder][1].write_table(table)

    def close(self) -> None:
        for _, writer in self._open.values():
            writer.close()


def read_table(unit: Unit) -> pa.Table:
    """A row group with all its columns, those without a text left out."""
    path, group = unit
    with shards.open_parquet(path, column="text") as file:
        table = file.read_row_group(group)
    return table.filter(pc.greater(pc.binary_length(table.column("text")), 0))


def documents_of(table: pa.Table, unit: Unit) -> Documents:
    """Texts and where each is from; where nobody says, by the shard and its row."""
    texts = table.column("text").to_pylist()
    named = {name: table.column(name).to_pylist() for name in ("file", "line") if name in table.column_names}
    shard = f"{unit[0].parent.name}/{unit[0].name}, row group {unit[1]}"
    files = [name or shard for name in named.get("file", [None] * len(texts))]
    lines = [line or row for row, line in enumerate(named.get("line", [None] * len(texts)), start=1)]
    return Documents(texts, files, lines)
