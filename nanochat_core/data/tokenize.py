"""Documents to token shards: folder/00000.bin of ids (uint16, or uint32 where the vocabulary is past
65,536), each document led by BOS, and where each one starts.

Work is cut into units of one parquet row group; worker processes encode units, the parent writes them in order. The
result does not depend on the number of workers, so neither does the artifact's digest. Other machines may encode whole
files beforehand (`encode_file`); what they saved goes in at the same places, and the bytes are the same again.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from nanochat_core.base.arrays import open_raw
from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.data.workers import Unit, each_unit
from nanochat_core.tokenizer.tokenizer import Tokenizer, id_type

if TYPE_CHECKING:
    from nanochat_core.tokenizer.bulk import BulkEncoder

SHARD_TOKENS = 1 << 28  # 512 MiB of uint16, 1 GiB of uint32: one file is one upload
INDEX_NAME = "index.json"


@dataclass(frozen=True)
class TokenShards:
    """Token ids of a split: memory-mapped files and the start of every document."""

    tokens: list[np.ndarray]
    """One (num_tokens,) memory map of uint16 or uint32 per shard."""
    doc_starts: list[np.ndarray]
    """One (num_docs + 1,) int64 array per shard; the last entry is the shard's length."""

    @property
    def num_tokens(self) -> int:
        return sum(len(shard) for shard in self.tokens)

    @property
    def num_docs(self) -> int:
        return sum(len(starts) - 1 for starts in self.doc_starts)


def tokenize_split(
    folder: Path,
    out: Path,
    *,
    tokenizer_folder: Path,
    num_workers: int | None,
    progress: Callable[[int, int], None],
    encoded: Mapping[str, Path] | None = None,
    source: str | None = None,
) -> TokenShards:
    """Encode all documents of a folder of parquet shards into `out`; of one source, where it has several.

    `encoded` holds what `encode_file` made of some of the files, by file name.
    """
    from nanochat_core.data import shards  # with Arrow, which whoever reads tokens need not have

    out.mkdir(parents=True, exist_ok=True)
    units = shards.row_groups(folder, source=source)
    if not units:
        raise MissingError(f"{folder} holds no parquet shard")
    tokenizer = Tokenizer.load(tokenizer_folder)
    writer = _ShardWriter(out, tokenizer.vocab_size)
    left = [unit for unit in units if unit[0].name not in (encoded or {})]
    fresh = each_unit(_encoder, (tokenizer_folder,), left, num_workers=num_workers)
    for done, (path, row_group) in enumerate(units, start=1):
        known = (encoded or {}).get(path.name)
        writer.add(*(next(fresh) if known is None else _load_unit(known, row_group)))
        progress(done, len(units))
    writer.close()
    return load_shards(out, vocab_size=tokenizer.vocab_size)


def encode_file(path: Path, out: Path, *, tokenizer_folder: Path) -> dict[str, int]:
    """Encode one parquet file for a later `tokenize_split`; returns its documents and tokens."""
    from nanochat_core.data import shards
    from nanochat_core.tokenizer.bulk import BulkEncoder  # not where tokens are read: it is in no key there

    encoder = BulkEncoder(Tokenizer.load(tokenizer_folder))
    groups = [unit for unit in shards.row_groups(path.parent) if unit[0] == path]
    counts = {"docs": 0, "tokens": 0}
    for unit in groups:
        ids, lengths = _encode_unit(encoder, unit)
        np.save(out / f"{unit[1]:05d}.ids.npy", ids)
        np.save(out / f"{unit[1]:05d}.lengths.npy", lengths)
        counts = {"docs": counts["docs"] + len(lengths), "tokens": counts["tokens"] + len(ids)}
    return counts


def _load_unit(folder: Path, row_group: int) -> tuple[np.ndarray, np.ndarray]:
    return np.load(folder / f"{row_group:05d}.ids.npy"), np.load(folder / f"{row_group:05d}.lengths.npy")


def _encoder(tokenizer_folder: Path) -> Callable[[Unit], tuple[np.ndarray, np.ndarray]]:
    """Of a worker process, which loads the tokenizer once."""
    from nanochat_core.tokenizer.bulk import BulkEncoder

    return functools.partial(_encode_unit, BulkEncoder(Tokenizer.load(tokenizer_folder)))


def _encode_unit(encoder: "BulkEncoder", unit: Unit) -> tuple[np.ndarray, np.ndarray]:
    """(ids of all documents one after the other, each led by BOS; tokens per document)."""
    from nanochat_core.data import shards

    return encoder.encode(shards.read_row_group(*unit))


class _ShardWriter:
    """Appends documents to numbered shards, a new one when SHARD_TOKENS is reached."""

    def __init__(self, out: Path, vocab_size: int) -> None:
        self.out, self.vocab_size = out, vocab_size
        self.counts: list[int] = []
        self._lengths: list[np.ndarray] = []
        self._file: BinaryIO | None = None

    def add(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        if self._file is None:
            self._file = (self.out / f"{len(self.counts):05d}.bin").open("wb")
            self.counts.append(0)
        self._file.write(ids.tobytes())
        self._lengths.append(lengths)
        self.counts[-1] += len(ids)
        if self.counts[-1] >= SHARD_TOKENS:
            self._finish_shard()

    def _finish_shard(self) -> None:
        if self._file is not None:
            self._file.close()
            starts = np.concatenate([[0], np.cumsum(np.concatenate(self._lengths))]).astype(np.int64)
            np.save(self.out / f"{len(self.counts) - 1:05d}.starts.npy", starts)
            self._file, self._lengths = None, []

    def close(self) -> None:
        self._finish_shard()
        index = {"vocab_size": self.vocab_size, "shard_tokens": self.counts}
        (self.out / INDEX_NAME).write_text(json.dumps(index))


def load_shards(folder: Path, *, vocab_size: int) -> TokenShards:
    """Memory-map a split; refuses shards that another vocabulary made or that are cut short."""
    index = json.loads((folder / INDEX_NAME).read_text())
    if index["vocab_size"] != vocab_size:
        raise CorruptError(
            f"{folder} holds ids of a vocabulary of {index['vocab_size']}, the tokenizer has {vocab_size}",
            hint="remake them: --fresh tokens",
        )
    kept_as = np.dtype(id_type(vocab_size))
    tokens, starts = [], []
    for number, count in enumerate(index["shard_tokens"]):
        path = folder / f"{number:05d}.bin"
        if path.stat().st_size != (wanted := kept_as.itemsize * count):
            raise CorruptError(f"{path} holds {path.stat().st_size} bytes, not {wanted}", hint="--fresh tokens")
        tokens.append(open_raw(path, kept_as) if count else np.empty(0, kept_as))
        starts.append(np.load(folder / f"{number:05d}.starts.npy"))
    return TokenShards(tokens, starts)
