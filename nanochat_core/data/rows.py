"""Rows of a data set as a sequence that is read when it is indexed: half a million conversations cost no memory.

Files keep where their rows start and are read by seeking; a Hugging Face data set (or a folder in its layout) is the
memory map that the `datasets` library makes. Each can say where a row is from, since
an error without the file and the line helps nobody.
"""

import itertools
import json
import os
import tempfile
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Protocol, TypeVar, cast, overload

import numpy as np

from nanochat_core.base.errors import MissingError, NanochatError
from nanochat_core.base.text import MARK_UTF8, is_blank, parse_json
from nanochat_core.data import shards, streams
from nanochat_core.data.files import PACKED, kind_of
from nanochat_core.data.streams import MAX_VALUE_BYTES, too_long

if TYPE_CHECKING:
    import datasets

MAX_OPEN_FILES = 64
Row = dict[str, Any]
T = TypeVar("T")
U = TypeVar("U")


class Rows(Protocol):
    """What every reader here offers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Row: ...

    def where(self, index: int) -> str:
        """ "FILE, line 3": for error messages."""
        ...


PLACES = {"jsonl": "line", "json": "item", "parquet": "row", "csv": "line"}  # what a row is called in messages


class FileRows:
    """The rows of files: JSON objects a line, JSON lists, parquet, CSV, packed or not; blank lines do not count.

    Lines of a plain file are found by seeking; all else is written as lines into one file of our own in `scratch`.
    """

    def __init__(self, files: Sequence[Path], *, scratch: Path | None = None) -> None:
        self.files = list(files)
        self._kinds = [_kind(path) for path in self.files]
        self._open: dict[int, BinaryIO] = {}
        self._spool: BinaryIO | None = None
        self._scratch = scratch
        starts, lines, members = array("q"), array("q"), array("i")
        for number in range(len(self.files)):
            for start, line in self._indexed(number):
                starts.append(start)
                lines.append(line)
                members.append(number)
        self._starts = np.array(starts, dtype=np.int64)
        self._lines = np.array(lines, dtype=np.int64)
        self._members = np.array(members, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Row:
        number = int(self._members[_checked(index, len(self))])
        file = self._handle(number) if self._is_plain(number) else self._spooled()
        file.seek(int(self._starts[index]))
        line = int(self._lines[index]) if self._kinds[number] == "jsonl" else None
        row = parse_json(file.readline(), self.files[number], line=line)
        if not isinstance(row, dict):
            raise MissingError(f"{self.where(index)} is a {type(row).__name__}, not an object")
        return row

    def where(self, index: int) -> str:
        number = self.file_of(index)
        return f"{self.files[number]}, {PLACES[self._kinds[number]]} {self._lines[index]}"

    def line_of(self, index: int) -> int:
        """The line, item or row that `where` names."""
        return int(self._lines[index])

    def file_of(self, index: int) -> int:
        """The number of the file that a row is from."""
        return int(self._members[index])

    def counts(self) -> list[int]:
        """Rows of each file."""
        return np.bincount(self._members, minlength=len(self.files)).tolist()

    def _is_plain(self, number: int) -> bool:
        return self._kinds[number] == "jsonl" and self.files[number].suffix.lower() not in PACKED

    def _indexed(self, number: int) -> Iterator[tuple[int, int]]:
        """Where each row starts, and the number it has for people."""
        if self._is_plain(number):
            yield from self._lines_of(number)
            return
        spool = self._spooled()
        for line, row in _content(self.files[number], self._kinds[number]):
            start = spool.seek(0, os.SEEK_END)
            spool.write(row + b"\n")
            yield start, line

    def _lines_of(self, number: int) -> Iterator[tuple[int, int]]:
        file, start = self._handle(number), 0
        for line_number in itertools.count(1):
            line = file.readline(MAX_VALUE_BYTES + 1)
            if not line:
                return
            if len(line) > MAX_VALUE_BYTES:
                raise too_long(f"{self.files[number]}, line {line_number}")
            if not is_blank(line):
                yield start, line_number
            start += len(line)

    def _spooled(self) -> BinaryIO:
        if self._spool is None:
            self._spool = cast(BinaryIO, tempfile.TemporaryFile(dir=self._scratch))  # noqa: SIM115 (closed in __del__)
        return self._spool

    def _handle(self, number: int) -> BinaryIO:
        """The open file of a number; only the last few stay open, as a folder may hold thousands."""
        if number not in self._open:
            if len(self._open) >= MAX_OPEN_FILES:
                self._open.pop(next(iter(self._open))).close()
            try:
                self._open[number] = self.files[number].open("rb")
            except OSError as error:
                raise MissingError(
                    f"{self.files[number]} cannot be read: {error.strerror}", hint="check the path"
                ) from error
        return self._open[number]

    def __del__(self) -> None:
        for file in (*self._open.values(), *([self._spool] if self._spool else [])):
            file.close()


def _kind(path: Path) -> str:
    """What a file is by its ending, but that lines which start with a list are that list."""
    kind = kind_of(path) or "jsonl"
    if kind != "jsonl":
        return kind
    start = next(streams.blocks(path), b"").removeprefix(MARK_UTF8).lstrip()
    return "json" if start.startswith((b"[{", b"[\n", b"[\r", b"[ ")) else kind


def _content(path: Path, kind: str) -> Iterator[tuple[int, bytes]]:
    """Numbered rows of a file that cannot be sought in, as lines of JSON."""
    if kind == "jsonl":
        yield from ((number, line) for number, line in streams.lines(path) if not is_blank(line))
    elif kind == "csv":
        yield from ((number, json.dumps(row).encode()) for number, row in streams.table_rows(path))
    elif kind == "json":
        yield from ((number, json.dumps(value).encode()) for number, value in streams.json_values(path))
    else:
        yield from enumerate(_parquet_lines(path), start=1)


def _parquet_lines(path: Path) -> Iterator[bytes]:
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(streams.for_arrow(path), buffer_size=streams.BLOCK_BYTES, pre_buffer=False)
        shards.check_ratio(file, path)
        for group in range(file.num_row_groups):
            rows = shards.batch_rows(file, group)
            for batch in file.iter_batches(batch_size=rows, row_groups=[group], use_threads=False):
                yield from (json.dumps(row, default=_plain).encode() for row in batch.to_pylist())
    except streams.BROKEN as error:
        raise MissingError(
            f"{path} cannot be read as parquet: {(str(error).splitlines() or [''])[0]}", hint="fetch the file again"
        ) from error


def _plain(value: Any) -> str:
    """What JSON has no form for, as text: dates as they are written, bytes where they are one."""
    return value.decode() if isinstance(value, bytes) else str(value)


class DatasetRows:
    """One split of a data set that the `datasets` library opened."""

    def __init__(self, dataset: "datasets.Dataset", name: str) -> None:
        self.dataset, self.name = dataset, name

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Row:
        row: Row = self.dataset[_checked(index, len(self))]
        return row

    def where(self, index: int) -> str:
        return f"{self.name}, row {index + 1}"


class Numbers:
    """`count` empty rows: for what is generated from a row's number alone."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Row:
        return {"number": _checked(index, self.count)}

    def where(self, index: int) -> str:
        return f"number {index}"


class Mapped(Sequence[T], Generic[T]):
    """What `function` makes of each row, when it is asked for; its errors say which row it was."""

    def __init__(self, rows: Rows, function: Callable[[Row, int], T]) -> None:
        self.rows, self.function = rows, function

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T]: ...
    def __getitem__(self, index: int | slice) -> T | Sequence[T]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self.rows[index]
        try:
            return self.function(row, index)
        except NanochatError as error:
            raise type(error)(f"{self.rows.where(index)}: {error.message}", hint=error.hint) from error

    def then(self, function: Callable[[T], U]) -> "Mapped[U]":
        """The same rows, made into something further."""
        return Mapped(self.rows, lambda row, index: function(self.function(row, index)))


def open_dataset(name: str, *, subset: str | None = None, split: str, revision: str | None = None) -> DatasetRows:
    """A split of a Hugging Face data set, or of a folder in the hub's layout; fetched once, then from its cache."""
    import datasets

    title = "/".join(filter(None, (name, subset, split)))
    datasets.disable_progress_bars()  # a run has a display of its own
    try:
        opened = datasets.load_dataset(_local(name), subset, split=split, revision=revision)
    except Exception as error:
        raise _unreadable(title, error) from error
    return DatasetRows(opened, title)


def has_split(name: str, split: str) -> bool:
    """Whether a data set has that split."""
    import datasets

    try:
        return split in datasets.get_dataset_split_names(_local(name))
    except Exception as error:
        raise _unreadable(name, error) from error


def _local(name: str) -> str:
    folder = Path(name).expanduser()
    return str(folder) if folder.is_dir() else name


def _unreadable(title: str, error: Exception) -> MissingError:
    """The library and its network have exceptions of their own; to whoever starts a run all mean "not there"."""
    said = str(error).splitlines() or [""]
    return MissingError(
        f"the data set {title} cannot be read: {type(error).__name__}: {said[0]}",
        hint="check its name and the network, or give a folder in its layout",
    )


def text_field(row: Row, name: str) -> str:
    """row[name], which must be text."""
    value = row.get(name)
    if not isinstance(value, str):
        seen = (
            f"{value!r:.40}" if name in row else f"no such field, only {', '.join(map(str, itertools.islice(row, 12)))}"
        )
        raise MissingError(f"{name!r} should be text: {seen}")
    return value


def _checked(index: int, length: int) -> int:
    if not 0 <= index < length:
        raise IndexError(index)  # what ends a for loop over a sequence
    return index
