"""Batches as a pure function of (rows, seed, step): resuming needs a step number, not a loader's state.

A seeded permutation orders the rows of each epoch; the global batch of step s is the next `total_batch_rows` of that
order, running on into the next epoch; rank r of w takes every w-th of them, so any number of ranks sees the same
global batches.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from nanochat_core.base.arrays import open_npy
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.data.draws import mix_order
from nanochat_core.data.packing import RowIndex
from nanochat_core.data.tokenize import TokenShards, load_shards

IGNORED = -1  # target that counts in no loss
SOURCES = "sources"  # the folder below which each of several sources has its own (steps/tokens.py)


class RowSource(Protocol):
    """Rows of a dataset: (T + 1) ids and, per target, whether it is learnt."""

    num_rows: int
    row_len: int

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        """(row_len,) ids and (row_len,) mask of what is learnt; None: everything."""
        ...


class PackedDocuments:
    """Rows cut from token shards by a row index (pretraining, validation)."""

    def __init__(self, folder: Path, split: str, *, vocab_size: int) -> None:
        self.shards: TokenShards = load_shards(folder / split, vocab_size=vocab_size)
        self.index = RowIndex.load(folder / f"{split}.rows.npz")
        self.num_rows = self.index.num_rows
        if not self.num_rows:
            raise MissingError(
                f"the {split} text of {self.shards.num_tokens:,} tokens does not fill one row",
                hint="use more text, or a smaller pretrain.sequence_len_tokens",
            )
        self.row_len = len(self.index.read(self.shards, 0))

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.index.read(self.shards, row), None


class SeveralSources:
    """Rows of several sources, one source after the other by name; no row has two."""

    def __init__(self, parts: Mapping[str, PackedDocuments]) -> None:
        self.parts = dict(sorted(parts.items()))
        ends = np.cumsum([part.num_rows for part in self.parts.values()])
        self.num_rows = int(ends[-1])
        self.offsets = dict(zip(self.parts, [0, *ends.tolist()], strict=False))
        self.row_len = next(iter(self.parts.values())).row_len

    def place(self, row: int) -> tuple[str, int]:
        """The source of a row, and which of its own it is."""
        name = max((name for name in self.parts if self.offsets[name] <= row), key=lambda name: self.offsets[name])
        return name, row - self.offsets[name]

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        name, own = self.place(row)
        return self.parts[name].read(own)


def open_text(folder: Path, split: str, *, vocab_size: int) -> PackedDocuments | SeveralSources:
    """The rows of a text, as the `tokens` step left them. Of several sources those that have any in this split."""
    if not (folder / SOURCES).is_dir():
        return PackedDocuments(folder, split, vocab_size=vocab_size)
    folders = [
        each for each in sorted((folder / SOURCES).iterdir()) if RowIndex.load(each / f"{split}.rows.npz").num_rows
    ]
    return SeveralSources({each.name: PackedDocuments(each, split, vocab_size=vocab_size) for each in folders})


class PackedConversations:
    """Rows of conversations with padding and a loss mask (fine-tuning)."""

    def __init__(self, folder: Path, split: str) -> None:
        self.ids = open_npy(folder / f"{split}.ids.npy")
        self.mask = open_npy(folder / f"{split}.mask.npy")
        self.num_rows, self.row_len = self.ids.shape

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray | None]:
        return self.ids[row], self.mask[row]


@dataclass(frozen=True)
class Batch:
    """This rank's part of a global batch."""

    ids: torch.Tensor
    """(rows, T) int64 inputs."""
    targets: torch.Tensor
    """(rows, T) int64: the next id, or IGNORED."""
    num_targets: int
    """Targets that count in the whole global batch, over all ranks: what the summed loss is divided by."""

    def to(self, device: torch.device) -> "Batch":
        """On `device`; to a GPU from pinned memory, without waiting for it."""
        if device.type != "cuda":
            return Batch(self.ids.to(device), self.targets.to(device), self.num_targets)
        ids, targets = (each.pin_memory().to(device, non_blocking=True) for each in (self.ids, self.targets))
        return Batch(ids, targets, self.num_targets)


class Order(Protocol):
    """Which rows each step trains on."""

    @property
    def total_batch_rows(self) -> int: ...

    def rows_at(self, step: int) -> np.ndarray:
        """(total_batch_rows,) row numbers of the global batch at `step`."""
        ...


def order_of(rows: RowSource, *, total_batch_rows: int, seed: int, mix: Mapping[str, Any] | None) -> Order:
    """The order of a training; `mix`: the weights and caps of several sources (steps/pretrain.py)."""
    if not isinstance(rows, SeveralSources):
        return BatchOrder(num_rows=rows.num_rows, total_batch_rows=total_batch_rows, seed=seed)
    assert mix is not None, "rows of several sources without weights"
    return mix_order(
        {name: part.num_rows for name, part in rows.parts.items()},
        row_tokens=rows.row_len - 1,
        total_batch_rows=total_batch_rows,
        seed=seed,
        mix=mix,
    )


@dataclass(frozen=True, kw_only=True)
class BatchOrder:
    """Which rows each step trains on."""

    num_rows: int
    total_batch_rows: int
    seed: int

    def rows_at(self, step: int) -> np.ndarray:
        """(total_batch_rows,) row numbers of the global batch at `step`."""
        first = step * self.total_batch_rows
        positions = np.arange(first, first + self.total_batch_rows)
        epochs = positions // self.num_rows
        rows = np.empty(self.total_batch_rows, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            rows[chosen] = _permutation(self.num_rows, self.seed, epoch)[positions[chosen] % self.num_rows]
        return rows


@lru_cache(maxsize=2)  # two: a batch may straddle two epochs
def _permutation(num_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, epoch])).permutation(num_rows)


def read_batch(source: RowSource, rows: np.ndarray, *, rank: int = 0, world_size: int = 1) -> Batch:
    """Rank's strided slice of the global batch made of `rows`."""
    if len(rows) % world_size:
        raise ConfigError(
            f"a batch of {len(rows)} rows does not divide over {world_size} processes",
            hint="lower runtime.num_processes, or choose a total_batch_tokens that divides",
        )
    own = [source.read(int(row)) for row in rows[rank::world_size]]
    ids = torch.from_numpy(np.stack([row for row, _ in own]).astype(np.int64))
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].clone()  # a view would not stay in pinned memory
    if own[0][1] is None:
        return Batch(inputs, targets, num_targets=len(rows) * (source.row_len - 1))
    mask = torch.from_numpy(np.stack([row_mask for _, row_mask in own if row_mask is not None]))
    targets[mask[:, 1:] == 0] = IGNORED
    return Batch(inputs, targets, num_targets=_count_targets(source, rows))


def _count_targets(source: RowSource, rows: np.ndarray) -> int:
    """Every rank counts the global batch by itself: cheaper than a collective, and the same everywhere."""
    masks = (source.read(int(row))[1] for row in rows)
    return max(1, sum(int(mask[1:].sum()) for mask in masks if mask is not None))
