"""Rows of a data set as a sequence that is read when it is indexed: half a million conversations cost no memory.

A JSONL file keeps where its lines start and is read by seeking; parquet stays an Arrow table; a Hugging Face data set
(or a folder in its layout) is the memory map that the `datasets` library makes. Each can say where a row is from, since
an error without the file and the line helps nobody.
"""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Generic, Protocol, TypeVar, overload

import numpy as np

from nanochat_core.base.errors import MissingError, NanochatError
from nanochat_core.base.text import is_blank, parse_json

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

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


class JsonlRows:
    """One JSON object per line, of one file or of several in turn; blank lines do not count."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)
        self._open: dict[int, BinaryIO] = {}
        starts, lines, members = [], [], []
        for number in range(len(self.files)):
            start = 0
            for line_number, line in enumerate(self._handle(number), start=1):
                if not is_blank(line):
                    starts.append(start)
                    lines.append(line_number)
                    members.append(number)
                start += len(line)
        self._starts = np.array(starts, dtype=np.int64)
        self._lines = np.array(lines, dtype=np.int64)
        self._members = np.array(members, dtype=np.int32)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Row:
        file = self._handle(int(self._members[_checked(index, len(self))]))
        file.seek(int(self._starts[index]))
        row = parse_json(file.readline(), self.files[self._members[index]], line=int(self._lines[index]))
        if not isinstance(row, dict):
            raise MissingError(f"{self.where(index)} is a {type(row).__name__}, not an object")
        return row

    def where(self, index: int) -> str:
        return f"{self.files[self._members[index]]}, line {self._lines[index]}"

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
        for file in self._open.values():
            file.close()


class TableRows:
    """The rows of an Arrow table, as parquet files give it."""

    def __init__(self, table: "pa.Table", name: str) -> None:
        self.table, self.name = table, name

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __getitem__(self, index: int) -> Row:
        try:
            row: Row = self.table.slice(_checked(index, len(self)), 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            raise MissingError(f"{self.where(index)} is not UTF-8: {error}", hint="fetch the file again") from error
        return row

    def where(self, index: int) -> str:
        return f"{self.name}, row {index + 1}"


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


def read_parquet(files: Sequence[Path]) -> TableRows:
    """Parquet files one after the other, as one table in memory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    tables = []
    for path in files:
        try:
            tables.append(pq.read_table(path))
        except (pa.ArrowInvalid, OSError) as error:
            raise MissingError(
                f"{path} cannot be read as parquet: {str(error).splitlines()[0]}", hint="fetch the file again"
            ) from error
    table = pa.concat_tables(tables, promote_options="default")
    return TableRows(table.combine_chunks(), ", ".join(map(str, files)))


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
