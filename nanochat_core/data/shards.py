"""Parquet shards of documents: columns `text`, `file` and `line`, zstd, row groups of a thousand documents.

The one format that everything after the corpus step reads, most of it the text alone. `file` and `line` say where a
document is from, and are null where nobody knows. A row group is the unit of parallel work. Where there are several
sources, a shard's name says whose it is: docs.00000.parquet.
"""

import hashlib
import heapq
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.base.errors import MissingError
from nanochat_core.base.foreign import FREE_BYTES, PARQUET_RATIO
from nanochat_core.data.placed import PlacedText
from nanochat_core.data.streams import BROKEN, for_arrow

SPLITS = ("train", "validation")
ROW_GROUP_DOCS = 1000
ROW_GROUP_BYTES = 2_000_000  # of documents so long that fewer make a row group: one is in memory at a time
SHARD_TEXT_BYTES = 64_000_000
SCHEMA = pa.schema([("text", pa.string()), ("file", pa.string()), ("line", pa.int64())])
OF_SOURCE = re.compile(r"(?P<source>.+)\.\d{5}\.parquet")
READ_BYTES = 1 << 20
BATCH_BYTES, MOST_BATCH_BYTES, MAX_BATCH_ROWS = 4 << 20, 64 << 20, 1000
PLAIN = {"PLAIN", "RLE", "BIT_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"}
"""Encodings in which each value takes the room that it has."""
TEXT_TYPES = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary, pa.types.is_large_binary,
)  # fmt: skip


def write_shards(documents: Iterable[PlacedText | str], folder: Path) -> tuple[int, int]:
    """Write documents as folder/00000.parquet, 00001.parquet, ...; returns (documents, bytes of UTF-8)."""
    folder.mkdir(parents=True, exist_ok=True)
    num_docs, num_bytes, shard_bytes, shard, group_bytes = 0, 0, 0, 0, 0
    group: list[PlacedText] = []
    writer: pq.ParquetWriter | None = None
    for document in documents:
        placed = PlacedText(document) if isinstance(document, str) else document
        size = len(placed.text.encode("utf-8"))
        group.append(placed)
        num_docs, num_bytes, shard_bytes = num_docs + 1, num_bytes + size, shard_bytes + size
        group_bytes += size
        if len(group) == ROW_GROUP_DOCS or group_bytes >= ROW_GROUP_BYTES or shard_bytes >= SHARD_TEXT_BYTES:
            writer = writer or _open(folder, shard)
            writer.write_table(_table(group))
            group, group_bytes = [], 0
        if shard_bytes >= SHARD_TEXT_BYTES and writer:
            writer.close()
            writer, shard, shard_bytes = None, shard + 1, 0
    if group:
        writer = writer or _open(folder, shard)
        writer.write_table(_table(group))
    if writer:
        writer.close()
    return num_docs, num_bytes


def _table(group: list[PlacedText]) -> pa.Table:
    texts, files, lines = zip(*group, strict=True)
    known = {"file": [_shown_name(file) or None for file in files], "line": [line or None for line in lines]}
    return pa.table({"text": texts, **known}, schema=SCHEMA)


def _shown_name(file: str) -> str:
    return os.fsencode(file).decode("utf-8", "replace")  # a file's name may hold any bytes


def _open(folder: Path, shard: int) -> pq.ParquetWriter:
    return open_writer(folder / f"{shard:05d}.parquet", SCHEMA)


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A shard to write tables to, packed as all are."""
    return pq.ParquetWriter(path, schema, compression="zstd", compression_level=3)


def open_parquet(path: Path | str, *, column: str) -> pq.ParquetFile:
    """Open one parquet file and check that it has the text column."""
    try:
        # no memory map, whose pages would count as memory, and no row group read ahead
        file = pq.ParquetFile(for_arrow(path), buffer_size=READ_BYTES, pre_buffer=False)
        schema = file.schema_arrow
        check_ratio(file, path)
    except BROKEN as error:
        raise MissingError(
            f"{path} cannot be read as parquet: {(str(error).splitlines() or ['nobody says why'])[0]}",
            hint="decrypt it, or take it out of the folder" if "crypt" in str(error) else
            "the file is cut short, a pointer of Git LFS or no parquet; fetch it again or take it out of the folder",
        ) from error  # fmt: skip
    if column not in schema.names and not _is_nested(schema, column):
        of_text = [name for name, kind in _columns(schema) if any(is_kind(kind) for is_kind in TEXT_TYPES)]
        raise MissingError(
            f"{path} has no column {column!r}; it has {', '.join(map(_shown, schema)) or 'none'}",
            hint=f"--set corpus.text_column={of_text[0]}" if of_text else "none of its columns holds text",
        )
    return file


def _is_nested(schema: pa.Schema, column: str) -> bool:
    """Whether a column is a field of others ("content.body")."""
    first, *inner = column.split(".")
    if schema.names.count(first) != 1:
        return False
    kind = schema.field(first).type
    for name in inner:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return False
        kind = kind.field(name).type
    return bool(inner)


def _columns(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Columns and, one level down, their fields."""
    for each in schema:
        yield each.name, each.type
        if pa.types.is_struct(each.type):
            yield from ((f"{each.name}.{inner.name}", inner.type) for inner in each.type)


def _shown(column: pa.Field) -> str:
    inner = [each.name for each in column.type] if pa.types.is_struct(column.type) else []
    return f"{column.name} (with {', '.join(inner)})" if inner else column.name


def check_ratio(file: pq.ParquetFile, path: Path | str) -> None:
    """MissingError for a file that unpacks to far more than its own size."""
    groups = range(file.num_row_groups)
    unpacked, packed = sum(file.metadata.row_group(i).total_byte_size for i in groups), Path(path).stat().st_size
    if unpacked > FREE_BYTES + PARQUET_RATIO * packed:
        raise MissingError(
            f"{path} unpacks to {unpacked:,} bytes, {unpacked // max(1, packed):,} times its own size",
            hint=f"at most {PARQUET_RATIO} times: if that is what it holds, write it anew without compression",
        )


def batch_rows(file: pq.ParquetFile, group: int, *, column: str | None = None) -> int:
    """So many rows of `column` (None: of all) that a batch of them has a few MiB, and where they lie, some more.

    A value in a dictionary, or one that goes on from the last, takes no room in the file but the first time. It is no
    longer than all that is stored.
    """
    about = file.metadata.row_group(group)
    parts = [about.column(i) for i in range(about.num_columns)]
    parts = [part for part in parts if column in (None, part.path_in_schema)]
    size = max(1, sum(part.total_uncompressed_size for part in parts))
    rows = BATCH_BYTES * about.num_rows // size
    if not all(PLAIN.issuperset(part.encodings) for part in parts):
        rows = min(rows, MOST_BATCH_BYTES // size)
    return max(1, min(MAX_BATCH_ROWS, rows))


def read_row_group(path: Path | str, row_group: int, *, column: str = "text") -> list[str]:
    """The documents of one row group; missing values are left out."""
    file = open_parquet(path, column=column)
    try:
        values = file.read_row_group(row_group, columns=[column]).column(0).to_pylist()
    except BROKEN as error:
        raise MissingError(
            f"{path}, row group {row_group}: {error}", hint="the file is damaged; fetch it again"
        ) from error
    for value in values:
        if value is not None and not isinstance(value, str):
            raise MissingError(f"{path}: column {column!r} holds {type(value).__name__}, not text")
    return [value for value in values if value]


def read_documents(folder: Path, *, column: str = "text") -> Iterator[str]:
    """All documents below a folder of shards, in order."""
    for path, row_group in row_groups(folder, column=column):
        yield from read_row_group(path, row_group, column=column)


def source_of(name: str) -> str | None:
    """The source whose shard has this name; None where there is one source only."""
    found = OF_SOURCE.fullmatch(name)
    return found["source"] if found else None


def sources_of(folder: Path) -> list[str]:
    """The sources of a folder of shards, sorted; none where there is one only."""
    return sorted({source for path in folder.glob("*.parquet") if (source := source_of(path.name))})


def read_in_turn(folder: Path) -> Iterator[str]:
    """All documents below a folder of shards; of several sources in turn, so that of any beginning each has a share.

    The next document is one of the source of which there were fewest bytes.
    """
    sources = sources_of(folder)
    readers = [_of_source(folder, source) for source in sources] or [read_documents(folder)]
    waiting = [(0, number) for number in range(len(readers))]
    while waiting:
        num_bytes, number = heapq.heappop(waiting)
        if (text := next(readers[number], None)) is not None:
            yield text
            heapq.heappush(waiting, (num_bytes + len(text.encode("utf-8")), number))


def _of_source(folder: Path, source: str) -> Iterator[str]:
    for path, row_group in row_groups(folder, source=source):
        yield from read_row_group(path, row_group)


def row_groups(folder: Path, *, column: str = "text", source: str | None = None) -> list[tuple[Path, int]]:
    """Every (file, row group) below a folder, in order: the units of parallel work. `source`: those of one source."""
    units = []
    for path in sorted(folder.glob("*.parquet")):
        if source is not None and source_of(path.name) != source:
            continue
        units += [(path, group) for group in range(open_parquet(path, column=column).num_row_groups)]
    return units


def document_key(text: str) -> bytes:
    """What makes two documents the same: 16 bytes of the sha256 of the text."""
    return hashlib.sha256(text.encode("utf-8", errors="replace")).digest()[:16]
