"""Which rows of several sources each step trains on: a pure function of (rows, seed, step), as for one source.

Weights are shares of the tokens, and every row has the same number of them, so rows are drawn. Of the first k draws of
a phase each source has its share, rounded: each batch is the mix, not only the sum of all, and there is no counter to
restore. A source goes through its rows in the order of its own permutation, anew in each epoch, and on from phase to
phase. A generator of a name's own keeps the order of a source when another one is added.
"""

import itertools
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from nanochat_core.base.errors import MissingError

Weights = Mapping[str, int]


def shared_out(draws: int, weights: Weights) -> dict[str, int]:
    """How many of the first `draws` are each source's; of one draw more no source has less.

    By name: the first has its share, rounded, of what is left each next one has its share of the weights that are left.
    """
    left, total, found = draws, sum(weights.values()), {}
    for name in sorted(weights):
        found[name] = (2 * left * weights[name] + total) // (2 * total)
        left, total = left - found[name], total - weights[name]
    return found


@dataclass(frozen=True, kw_only=True)
class MixOrder:
    """The rows of each step. Rows are numbered source after source, by name."""

    num_rows: Mapping[str, int]
    """Source -> rows that may be drawn, of which `offsets` has the first."""
    offsets: Mapping[str, int]
    phases: Sequence[tuple[int, Weights]]
    """(steps, weights) one after the other; the last goes on for ever."""
    total_batch_rows: int
    seed: int

    def taken(self, step: int) -> dict[str, int]:
        """Rows of each source that the steps before `step` train on."""
        found = dict.fromkeys(sorted(self.num_rows), 0)
        for steps, weights in self._until(step):
            for name, draws in shared_out(steps * self.total_batch_rows, weights).items():
                found[name] += draws
        return found

    def _until(self, step: int) -> Iterator[tuple[int, Weights]]:
        left = step
        for number, (num_steps, weights) in enumerate(self.phases, start=1):
            steps = left if number == len(self.phases) else min(left, num_steps)
            yield steps, weights
            left -= steps

    def rows_at(self, step: int) -> np.ndarray:
        """(total_batch_rows,) row numbers of the global batch at `step`."""
        before, after = self.taken(step), self.taken(step + 1)
        rows = np.concatenate([self._rows_of(name, before[name], after[name]) for name in before])
        return np.random.Generator(np.random.PCG64([self.seed, step, 1])).permutation(rows)

    def _rows_of(self, name: str, first: int, end: int) -> np.ndarray:
        """The rows that are this source's draws `first` to `end`."""
        num_rows = self.num_rows[name]
        positions = np.arange(first, end)
        epochs = positions // max(1, num_rows)
        rows = np.empty(end - first, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            chosen = epochs == epoch
            rows[chosen] = _permutation(name, num_rows, self.seed, epoch)[positions[chosen] % num_rows]
        return rows + self.offsets[name]


def mix_order(
    num_rows: Mapping[str, int], *, row_tokens: int, total_batch_rows: int, seed: int, mix: Mapping[str, Any]
) -> MixOrder:
    """The order of a mix whose sources have so many rows of `row_tokens`; MissingError for a source without any."""
    names = sorted(num_rows)
    starts = itertools.accumulate((num_rows[name] for name in names), initial=0)
    offsets = dict(zip(names, starts, strict=False))
    drawn = sorted({name for phase in mix["phases"] for name in phase["weights"]})
    caps = mix.get("max_tokens") or {}
    capped = {name: min(num_rows.get(name, 0), caps.get(name, sys.maxsize) // row_tokens) for name in drawn}
    if empty := [name for name in drawn if not capped[name]]:
        raise MissingError(
            f"the source {empty[0]} has no row of {row_tokens:,} tokens to train on",
            hint="more of its text, a larger max_tokens, or a smaller pretrain.sequence_len_tokens",
        )
    return MixOrder(
        num_rows=capped,
        offsets=offsets,
        phases=[(phase["num_steps"], phase["weights"]) for phase in mix["phases"]],
        total_batch_rows=total_batch_rows,
        seed=seed,
    )


@lru_cache(maxsize=64)  # two of each source, as a batch may straddle two epochs
def _permutation(name: str, num_rows: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.Generator(np.random.PCG64([seed, epoch, zlib.crc32(name.encode())])).permutation(num_rows)


def in_turn(num_rows: Mapping[str, int], most: int) -> dict[str, int]:
    """How many of at most `most` rows are each source's, when they take turns until they have none: for what is held
    out, which no weight is to change."""
    found, left = dict[str, int](), most
    for number, name in enumerate(sorted(num_rows, key=lambda name: (num_rows[name], name))):
        found[name] = min(num_rows[name], left // (len(num_rows) - number))  # who has fewest first: the rest is shared
        left -= found[name]
    return found
