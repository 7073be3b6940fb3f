"""Parquet shards of documents: one column `text`, zstd, row groups of a thousand documents.

The one format that everything after the corpus step reads. A row group is the unit of parallel work.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.base.errors import MissingError

ROW_GROUP_DOCS = 1000
SHARD_TEXT_BYTES = 64_000_000
SCHEMA = pa.schema([("text", pa.string())])


def write_shards(texts: Iterable[str], folder: Path) -> tuple[int, int]:
    """Write documents as folder/00000.parquet, 00001.parquet, ...; returns (documents, bytes of UTF-8)."""
    folder.mkdir(parents=True, exist_ok=True)
    num_docs, num_bytes, shard_bytes, shard = 0, 0, 0, 0
    group: list[str] = []
    writer: pq.ParquetWriter | None = None
    for text in texts:
        size = len(text.encode("utf-8"))
        group.append(text)
        num_docs, num_bytes, shard_bytes = num_docs + 1, num_bytes + size, shard_bytes + size
        if len(group) == ROW_GROUP_DOCS or shard_bytes >= SHARD_TEXT_BYTES:
            writer = writer or _open(folder, shard)
            writer.write_table(pa.table({"text": group}, schema=SCHEMA))
            group = []
        if shard_bytes >= SHARD_TEXT_BYTES and writer:
            writer.close()
            writer, shard, shard_bytes = None, shard + 1, 0
    if group:
        writer = writer or _open(folder, shard)
        writer.write_table(pa.table({"text": group}, schema=SCHEMA))
    if writer:
        writer.close()
    return num_docs, num_bytes


def _open(folder: Path, shard: int) -> pq.ParquetWriter:
    return pq.ParquetWriter(folder / f"{shard:05d}.parquet", SCHEMA, compression="zstd", compression_level=3)


def open_parquet(path: Path | str, *, column: str) -> pq.ParquetFile:
    """Open one parquet file and check that it has the text column."""
    try:
        file = pq.ParquetFile(path, memory_map=True)
    except (pa.ArrowInvalid, OSError) as error:
        raise MissingError(
            f"{path} cannot be read as parquet: {str(error).splitlines()[0]}",
            hint="the file is cut short or is no parquet file; fetch it again or take it out of the folder",
        ) from error
    columns = file.schema_arrow.names
    if column not in columns:
        raise MissingError(
            f"{path} has no column {column!r}; it has {', '.join(columns)}",
            hint=f"--set corpus.text_column={columns[0]}" if columns else None,
        )
    return file


def read_row_group(path: Path | str, row_group: int, *, column: str = "text") -> list[str]:
    """The documents of one row group; missing values are left out."""
    file = open_parquet(path, column=column)
    try:
        values = file.read_row_group(row_group, columns=[column]).column(0).to_pylist()
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
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


def row_groups(folder: Path, *, column: str = "text") -> list[tuple[Path, int]]:
    """Every (file, row group) below a folder, in order: the units of parallel work."""
    units = []
    for path in sorted(folder.glob("*.parquet")):
        units += [(path, group) for group in range(open_parquet(path, column=column).num_row_groups)]
    return units


def document_key(text: str) -> bytes:
    """What makes two documents the same: 16 bytes of the sha256 of the text."""
    return hashlib.sha256(text.encode("utf-8", errors="replace")).digest()[:16]
