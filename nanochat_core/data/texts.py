"""The documents of one file: rows of a parquet column, a field of JSON objects, or the text of a .txt file.

What is null or blank is no document; it is counted. A text file is one document; of a long one, or where it is all
there is, parts of some length are, cut at blank lines where it has any, so that a book can be trained and validated on
and needs no memory of its size.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from nanochat_core.base import text
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.data import shards, streams
from nanochat_core.data.files import kind_of

PART_CHARS = 1 << 20  # of a text file that is not the only one: longer ones are cut
ONLY_FILE_PARTS, LEAST_PART_CHARS, MOST_PART_CHARS = 1000, 2_000, 1 << 16  # of one that is
CUTS = ("\n\n", "\n", " ")


@dataclass
class Tally:
    """What was read of each file, for the record."""

    documents: Counter[str] = field(default_factory=Counter)
    empty: Counter[str] = field(default_factory=Counter)
    """Null or blank texts."""


def part_chars_of_only(num_bytes: int) -> int:
    """The length of the parts of a text file that is the whole corpus."""
    return min(MOST_PART_CHARS, max(LEAST_PART_CHARS, num_bytes // ONLY_FILE_PARTS))


def read_texts(
    path: Path, column: str, *, tally: Tally | None = None, name: str | None = None, part_chars: int = PART_CHARS
) -> Iterator[str]:
    """Documents of one file in order; `tally` counts them under `name`."""
    kind, name, tally = kind_of(path), name or path.name, tally or Tally()
    if kind is None or kind == "csv":
        raise ConfigError(f"{path} is no file of text", hint="choose others by corpus.dataset_files")
    if kind == "txt":
        found: Iterator[str | None] = _parts(path, part_chars)
    else:
        found = _parquet(path, column) if kind == "parquet" else _json(path, column, kind=kind)
    for value in found:
        document = text.document(value) if value else ""
        if not document.strip():
            tally.empty[name] += 1
            continue
        tally.documents[name] += 1
        yield document


def unfit(path: Path, column: str) -> str | None:
    """Why a .json file is no text: folders hold descriptions in JSON beside their data. None where it is, or may be."""
    if kind_of(path) != "json":
        return None
    try:
        first = next((value for _, value in streams.json_values(path)), None)
    except MissingError:
        return None  # reading it says why
    if isinstance(first, dict) and column in first:
        return None
    return f"its first value has no field {column!r}"


def _json(path: Path, column: str, *, kind: str) -> Iterator[str | None]:
    if kind == "json":
        for number, value in streams.json_values(path):
            yield _field(value, column, where=f"{path}, item {number}")
        return
    for number, line in streams.lines(path):
        if not text.is_blank(line):
            yield _field(text.parse_json(line, path, line=number), column, where=f"{path}, line {number}")


def _field(record: Any, column: str, *, where: str) -> str | None:
    """The text of a record; None where it is null, as a missing value of a parquet column is."""
    if not isinstance(record, dict):
        raise MissingError(f"{where} is a {type(record).__name__}, not an object", hint="one JSON object a line")
    if column not in record:
        fields = ", ".join(f"{key} (with {', '.join(value)})" if isinstance(value, dict) and value else str(key)
                           for key, value in record.items())  # fmt: skip
        raise MissingError(f"{where} has no field {column!r}; it has {fields}", hint="--set corpus.text_column=NAME")
    value = record[column]
    if not isinstance(value, str | None):
        raise MissingError(
            f"{where}: the field {column!r} is a {type(value).__name__}, not text",
            hint="--set corpus.text_column=NAME",
        )
    return value


def _parts(path: Path, part_chars: int) -> Iterator[str]:
    """The text of a file, cut where it is longer than `part_chars`."""
    pending, is_cut = "", False
    for piece in streams.text_blocks(path):
        pending += piece
        while len(pending) > part_chars:
            end = _cut(pending, part_chars)
            if part := pending[:end].strip():
                yield part
            pending, is_cut = pending[end:], True
    if (rest := pending.strip()) or not is_cut:
        yield rest


def _cut(pending: str, part_chars: int) -> int:
    """Where a part ends: at the last blank line, else line, else word of its second half."""
    for mark in CUTS:
        if (at := pending.rfind(mark, part_chars // 2, part_chars)) >= 0:
            return at + len(mark)
    return part_chars


def _parquet(path: Path, column: str) -> Iterator[str | None]:
    file = shards.open_parquet(path, column=column)
    try:
        for group in range(file.num_row_groups):
            rows = shards.batch_rows(file, group, column=column)
            for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=[column], use_threads=False):
                yield from _as_text(batch.column(0))
    except streams.BROKEN as error:
        raise MissingError(
            f"{path}: column {column!r} cannot be read as text: {(str(error).splitlines() or [''])[0]}",
            hint="text is needed; is the file whole, and corpus.text_column the right one?",
        ) from error


def _as_text(values: pa.Array) -> list[str | None]:
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if not (pa.types.is_null(kind) or any(is_kind(kind) for is_kind in shards.TEXT_TYPES)):
        raise pa.ArrowTypeError(f"it holds {kind}, not text")
    return list(pc.cast(values, pa.large_string()).to_pylist())
