"""The documents of one file: rows of a parquet column, a field of JSON objects, or the text of a .txt file.

What is null or blank is no document; it is counted. A text file is one document; of a long one, or where it is all
there is, parts of some length are, cut at blank lines where it has any, so that a book can be trained and validated on
and needs no memory of its size.
"""

import math
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
from nanochat_core.data.flaws import flaws, mended
from nanochat_core.data.placed import PlacedText

PART_CHARS = 1 << 20  # of a text file that is not the only one: longer ones are cut
ONLY_FILE_PARTS, LEAST_PART_CHARS, MOST_PART_CHARS = 1000, 2_000, 1 << 16  # of one that is
CUTS = ("\n\n", "\n", " ")
NOTHING = object()  # a field that is not there; null is a value


PLACES = {"jsonl": "line", "json": "item", "parquet": "row", "txt": "part"}
# what tables write for a value that is missing; and letters that nobody sees
NO_TEXT = {"nan", "none", "null", "n/a"}
UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\xad"


@dataclass
class Tally:
    """What was read of each file, for the record."""

    documents: Counter[str] = field(default_factory=Counter)
    empty: Counter[str] = field(default_factory=Counter)
    """Null or blank texts."""
    noticed: Counter[str] = field(default_factory=Counter)
    """What a person should know of documents, with the place of the first such document in `first`."""
    first: dict[str, str] = field(default_factory=dict)
    parts_of: dict[str, int] = field(default_factory=dict)
    """Text files that were cut, and how many characters a part has at most."""

    def notice(self, flaw: str, where: str) -> None:
        self.noticed[flaw] += 1
        self.first.setdefault(flaw, where)


def part_chars_of_only(num_bytes: int) -> int:
    """The length of the parts of a text file that is the whole corpus."""
    return min(MOST_PART_CHARS, max(LEAST_PART_CHARS, num_bytes // ONLY_FILE_PARTS))


def read_texts(
    path: Path,
    column: str,
    *,
    tally: Tally | None = None,
    name: str | None = None,
    part_chars: int = PART_CHARS,
    is_published: bool = True,
) -> Iterator[PlacedText]:
    """Documents of one file in order, each with its place; `tally` counts them under `name`.

    What is not published, somebody's own, is looked at: mojibake is mended, and other flaws are noted in the tally.
    """
    kind, name = kind_of(path), name or path.name
    if kind is None or kind == "csv":
        raise ConfigError(f"{path} is no file of text", hint="choose others by corpus.dataset_files")
    if kind == "txt":
        found: Iterator[tuple[int, str | None]] = _parts(path, part_chars)
    else:
        found = _parquet(path, column) if kind == "parquet" else _json(path, column, kind=kind)
    if tally:
        tally.documents[name] += 0  # a file that gives nothing is told as well
    for part, (number, value) in enumerate(found, 1):
        document = text.document(value) if value else ""
        if is_empty(document):
            if tally:
                tally.empty[name] += 1
            continue
        if not is_published:
            where = f"{PLACES[kind]} {part if kind == 'txt' else number:,}"
            document = _looked_at(document, tally, f"{name}, {where}")
        if tally:
            tally.documents[name] += 1
            if kind == "txt" and part > 1:
                tally.parts_of[name] = part_chars
        yield PlacedText(document, name, number)


def is_empty(document: str) -> bool:
    """Whether it holds nothing that can be read: blanks, unseen letters, or what tables write where nothing is."""
    seen = document.strip()
    return not seen or (len(seen) < 8 and (seen.casefold() in NO_TEXT or not seen.strip(UNSEEN)))


def _looked_at(document: str, tally: Tally | None, where: str) -> str:
    """The document with mojibake mended, and its flaws in the tally."""
    right = mended(document)
    if tally:
        if right is not None:
            tally.notice("of mojibake (UTF-8 read as Latin-1), mended", where)
        for flaw in flaws(right or document):
            tally.notice(flaw, where)
    return right or document


def unfit(path: Path, column: str) -> str | None:
    """Why a file of a folder is no text but describes it: in JSON, or as a data set's card. None where it may be."""
    if path.name.casefold() == "readme.md":
        with path.open("rb") as file:
            return "the card of a data set" if file.read(4).startswith(b"---") else None
    if kind_of(path) != "json":
        return None
    try:
        first = next((value for _, value in streams.json_values(path)), None)
    except MissingError:
        return None  # reading it says why
    if isinstance(first, dict) and value_of(first, column) is not NOTHING:
        return None
    return f"its first value has no field {column!r}"


def _json(path: Path, column: str, *, kind: str) -> Iterator[tuple[int, str | None]]:
    if kind == "json":
        for number, value in streams.json_values(path):
            yield number, _field(value, column, where=f"{path}, item {number}")
        return
    is_first = True
    for number, line in streams.lines(path):
        if text.is_blank(line):
            continue
        if is_first and line.removeprefix(text.MARK_UTF8).lstrip().startswith(b"["):  # a list, whatever its name says
            yield from _json(path, column, kind="json")
            return
        is_first = False
        yield number, _field(text.parse_json(line, path, line=number), column, where=f"{path}, line {number}")


def value_of(record: dict[str, Any], column: str) -> Any:
    """The value of a field, or of one in another ("content.body"); NOTHING where it is not there."""
    if column in record:
        return record[column]
    value: Any = record
    for name in column.split("."):
        if value is None:
            return None  # as a missing struct of a parquet file
        if not isinstance(value, dict) or name not in value:
            return NOTHING
        value = value[name]
    return value


def _field(record: Any, column: str, *, where: str) -> str | None:
    """The text of a record; None where it is null, as a missing value of a parquet column is."""
    if not isinstance(record, dict):
        raise MissingError(f"{where} is a {type(record).__name__}, not an object", hint="one JSON object a line")
    value = value_of(record, column)
    if value is NOTHING:
        fields = ", ".join(f"{key} (with {', '.join(value)})" if isinstance(value, dict) and value else str(key)
                           for key, value in record.items())  # fmt: skip
        is_talk = any(name in record for name in ("messages", "conversations"))
        raise MissingError(
            f"{where} has no field {column!r}; it has {fields or 'none'}",
            hint="these are conversations, which are for sft.path"
            if is_talk
            else f"--set corpus.text_column={_near(record)}",
        )
    if isinstance(value, float) and math.isnan(value):
        return None  # as pandas writes what is missing
    if not isinstance(value, str | None):
        raise MissingError(
            f"{where}: the field {column!r} is a {type(value).__name__}, not text",
            hint="--set corpus.text_column=NAME",
        )
    return value


def _near(record: dict[str, Any]) -> str:
    """The field that holds the longest text, at most one level down; NAME where none holds any."""
    texts = {str(key): value for key, value in record.items()}
    texts |= {f"{key}.{name}": inner for key, value in record.items() if isinstance(value, dict)
              for name, inner in value.items()}  # fmt: skip
    lengths = {key: len(value) for key, value in texts.items() if isinstance(value, str)}
    return max(lengths, key=lambda key: lengths[key]) if lengths else "NAME"


def _parts(path: Path, part_chars: int) -> Iterator[tuple[int, str]]:
    """The text of a file, cut where it is longer than `part_chars`, each part with the line that it starts on."""
    pending, is_cut, line = "", False, 1
    for piece in streams.text_blocks(path):
        pending += piece
        while len(pending) > part_chars:
            end = _cut(pending, part_chars)
            if part := pending[:end].strip():
                yield line + _blank_lines(pending), part
            line += pending.count("\n", 0, end)
            pending, is_cut = pending[end:], True
    if (rest := pending.strip()) or not is_cut:
        yield line + _blank_lines(pending), rest


def _blank_lines(text: str) -> int:
    """Lines before the first that says something."""
    return text.count("\n", 0, len(text) - len(text.lstrip()))


def _cut(pending: str, part_chars: int) -> int:
    """Where a part ends: at the last blank line, else line, else word of its second half."""
    for mark in CUTS:
        if (at := pending.rfind(mark, part_chars // 2, part_chars)) >= 0:
            return at + len(mark)
    return part_chars


def _parquet(path: Path, column: str) -> Iterator[tuple[int, str | None]]:
    file = shards.open_parquet(path, column=column)
    inner = [] if column in file.schema_arrow.names else column.split(".")[1:]
    number = 0
    try:
        for group in range(file.num_row_groups):
            rows = shards.batch_rows(file, group, column=column)
            for batch in file.iter_batches(batch_size=rows, row_groups=[group], columns=[column], use_threads=False):
                values = batch.column(0)
                for value in _as_text(pc.struct_field(values, inner) if inner else values):
                    number += 1
                    yield number, value
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
