"""All benchmarks of CORE with one scorer: items shared out over the ranks, one answer each, results on every rank.

Ranks take every n-th item of a benchmark sorted by length, so that each has about the same work, and add up arrays that
are zero where they did not answer. No object travels between ranks, only numbers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nanochat_core.base.distributed import World, sum_over_ranks
from nanochat_core.evals.core.prompts import BenchmarkPrompts, Prompts
from nanochat_core.evals.core.results import Accuracy, Outcome, summary
from nanochat_core.evals.core.scoring import Score, Scorer

REPORT_EVERY_S = 0.3
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Measured:
    """Every answer, and what they come to."""

    outcomes: list[Outcome]
    summary: dict[str, Any]


def measure(scorer: Scorer, prompts: Prompts, progress: Progress, *, world: World | None = None) -> Measured:
    """Answer all items. `progress` hears items done by this rank, items it has, and the benchmark."""
    world = world or World()
    lengths = prompts.num_tokens()
    shares = [_share(entry, lengths, world) for entry in prompts.benchmarks]
    teller = _Teller(progress, total=sum(map(len, shares)))
    tables = []
    for entry, share in zip(prompts.benchmarks, shares, strict=True):
        mine = [prompts.prompt(entry.first + index) for index in share]
        teller.start(entry.benchmark.label)
        tables.append(_table(entry, prompts, share, scorer.score(mine, teller.tell)))
        teller.finish(len(mine))
    outcomes: list[Outcome] = []
    accuracies = []
    for entry, table in zip(prompts.benchmarks, tables, strict=True):  # only now: no rank waits between benchmarks
        found = _outcomes(entry, prompts, sum_over_ranks(table, world))
        outcomes += found
        accuracies.append(Accuracy(entry.benchmark, sum(o.is_right for o in found), len(found)))
    content = summary(
        accuracies,
        max_per_benchmark=prompts.max_per_benchmark,
        missing=prompts.missing,
        bundle_digest=prompts.bundle_digest,
    )
    return Measured(outcomes, content)


def _share(entry: BenchmarkPrompts, lengths: np.ndarray, world: World) -> list[int]:
    """Places of this rank's items in the benchmark."""
    order = np.argsort(-lengths[entry.first : entry.first + entry.num_items], kind="stable")
    return [int(index) for index in order[world.rank :: world.size]]


def _table(entry: BenchmarkPrompts, prompts: Prompts, share: list[int], scores: list[Score]) -> torch.Tensor:
    """(items, 1 + choices): whether the first choice is greedy, then every choice's loss; 0 for other ranks' items."""
    width = 1 + max(prompts.num_choices(entry.first + index) for index in range(entry.num_items))
    table = torch.zeros(entry.num_items, width, dtype=torch.float64)
    for index, score in zip(share, scores, strict=True):
        table[index, 0] = float(score.is_greedy[0])
        table[index, 1 : 1 + len(score.losses)] = torch.tensor(score.losses, dtype=torch.float64)
    return table


def _outcomes(entry: BenchmarkPrompts, prompts: Prompts, table: torch.Tensor) -> list[Outcome]:
    outcomes = []
    for index, values in enumerate(table.tolist()):
        prompt = prompts.prompt(entry.first + index)
        score = Score(values[1 : 1 + len(prompt.suffixes)], [bool(values[0])])
        chosen = None if prompt.gold is None else score.chosen
        is_right = score.is_greedy[0] if prompt.gold is None else chosen == prompt.gold
        outcome = Outcome(
            entry.benchmark.label, index, is_right, prompt.gold, chosen, score.losses, max(prompt.num_scored)
        )
        outcomes.append(outcome)
    return outcomes


class _Teller:
    """Passes progress on, a few times a second at most."""

    def __init__(self, progress: Progress, *, total: int) -> None:
        self._progress, self._total = progress, total
        self._before, self._label, self._told_at = 0, "", -REPORT_EVERY_S

    def start(self, label: str) -> None:
        self._label = label

    def tell(self, done: int) -> None:
        if time.monotonic() - self._told_at >= REPORT_EVERY_S:
            self._told_at = time.monotonic()
            self._progress(self._before + done, self._total, self._label)

    def finish(self, num_items: int) -> None:
        self._before += num_items
        if self._before == self._total:
            self._progress(self._total, self._total, self._label)
