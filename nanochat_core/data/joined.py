"""Several corpora as one, each a source of its own: the same shards under names that say whose they are.

A document of training that any source holds out for validation is taken out, so that what one source measures another
does not teach. A shard without such a document keeps its bytes, so the store holds it once. Columns that nobody here
knows (where a document is from) go along.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.base.errors import MissingError
from nanochat_core.base.files import link_or_copy
from nanochat_core.data.shards import SPLITS, document_key, open_parquet, open_writer, read_documents


def join(folders: Mapping[str, Path], out: Path) -> dict[str, tuple[int, int]]:
    """Write the corpora of `folders` (source -> folder) into `out`; returns how much text each source lost, as
    documents and bytes.

    MissingError where nothing is left of a source.
    """
    held_out = {name: _keys(folder / "validation") for name, folder in folders.items()}
    lost = dict.fromkeys(folders, (0, 0))
    for split in SPLITS:
        (out / split).mkdir(parents=True, exist_ok=True)
        for name, folder in folders.items():
            others = set().union(*(keys for other, keys in held_out.items() if other != name))
            others -= held_out[name]  # of its own it has none
            for path in sorted((folder / split).glob("*.parquet")):
                target = out / split / f"{name}.{path.name}"
                docs, num_bytes = _write_without(path, target, others) if split == "train" and others else (0, 0)
                lost[name] = lost[name][0] + docs, lost[name][1] + num_bytes
                if not docs:
                    link_or_copy(path.resolve(), target)
    for name in folders:
        if not any((out / "train").glob(f"{name}.[0-9]*.parquet")):
            raise MissingError(
                f"corpus.sources.{name} leaves no document for training: other sources hold all of them out",
                hint="is it the same text as another source?",
            )
    return lost


def _keys(folder: Path) -> set[bytes]:
    return {document_key(text) for text in read_documents(folder)}


def _write_without(path: Path, target: Path, keys: Collection[bytes]) -> tuple[int, int]:
    """Write a shard without the documents of these keys, unless it has none of them; returns what it had of them."""
    file = open_parquet(path, column="text")
    groups = range(file.num_row_groups)
    dropped = [text for group in groups for text in _texts(file, group) if document_key(text) in keys]
    if not dropped:
        return 0, 0
    writer: pq.ParquetWriter | None = None
    for group in groups:
        table: Any = file.read_row_group(group)
        keeps = [document_key(text) not in keys for text in _texts(file, group)]
        if any(keeps):
            writer = writer or open_writer(target, table.schema)
            writer.write_table(table.filter(pa.array(keeps)))
    if writer:
        writer.close()
    return len(dropped), sum(len(text.encode("utf-8")) for text in dropped)


def _texts(file: pq.ParquetFile, group: int) -> list[str]:
    return [text or "" for text in file.read_row_group(group, columns=["text"]).column(0).to_pylist()]
