"""From scores to accuracies to CORE, and the files that say so: core.json, outcomes.jsonl.

An accuracy is centred so that guessing is 0 and perfection 1: (accuracy - baseline) / (1 - baseline). CORE is the plain
mean over the benchmarks. Standard errors are binomial per benchmark and go into CORE's as independent ones; two
benchmarks share their items (HellaSwag with and without examples), which makes CORE's error a little too small.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_core.base.intervals import Z_95, wilson_interval
from nanochat_core.evals.core.bundle import Benchmark
from nanochat_core.evals.core.published import BY_LABEL

CORE_NAME, OUTCOMES_NAME = "core.json", "outcomes.jsonl"
LOSS_DIGITS = 6


@dataclass(frozen=True)
class Outcome:
    """One answered item, kept so that a score can be checked."""

    benchmark: str
    index: int
    """Its place in the shuffled order."""
    is_right: bool
    gold: int | None
    chosen: int | None
    """None in language modelling, as is `gold`."""
    losses: list[float]
    """Mean loss per choice in nats; infinite where nothing could be scored."""
    num_tokens: int
    """Scored tokens of the longest choice."""

    def record(self) -> dict[str, Any]:
        """As a line of outcomes.jsonl; JSON has no infinity, so that is null."""
        record: dict[str, Any] = {"benchmark": self.benchmark, "index": self.index, "is_right": self.is_right}
        record |= {"gold": self.gold, "chosen": self.chosen}
        if self.gold is None:
            return record | {"num_tokens": self.num_tokens}
        losses = [round(loss, LOSS_DIGITS) if math.isfinite(loss) else None for loss in self.losses]
        return record | {"losses": losses}


@dataclass(frozen=True)
class Accuracy:
    """One benchmark's result."""

    benchmark: Benchmark
    num_right: int
    num_items: int

    @property
    def accuracy(self) -> float:
        return self.num_right / self.num_items

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.num_items)

    @property
    def centered(self) -> float:
        return centered(self.accuracy, self.benchmark.baseline_percent)

    @property
    def centered_error(self) -> float:
        return self.standard_error / (1 - self.benchmark.baseline_percent / 100)

    def record(self) -> dict[str, Any]:
        """As an entry of core.json."""
        return {
            "accuracy": self.accuracy,
            "standard_error": self.standard_error,
            "interval_95": list(wilson_interval(self.accuracy, self.num_items)),
            "centered": self.centered,
            "baseline_percent": self.benchmark.baseline_percent,
            "num_items": self.num_items,
            "num_fewshot": self.benchmark.num_fewshot,
            "type": self.benchmark.kind,
            "category": self.benchmark.category,
        }


def centered(accuracy: float, baseline_percent: float) -> float:
    """0 for guessing, 1 for all right."""
    baseline = baseline_percent / 100
    return (accuracy - baseline) / (1 - baseline)


def core_of(accuracies: Sequence[Accuracy]) -> tuple[float, float]:
    """(CORE, its standard error)."""
    value = sum(entry.centered for entry in accuracies) / len(accuracies)
    return value, math.sqrt(sum(entry.centered_error**2 for entry in accuracies)) / len(accuracies)


def is_complete(accuracies: Sequence[Accuracy]) -> bool:
    """All 22 benchmarks, with as many items as are published, and no other: CORE compares with other people's."""
    measured = {entry.benchmark.label: entry.num_items for entry in accuracies}
    return measured == {label: published.num_items for label, published in BY_LABEL.items()}


def summary(
    accuracies: Sequence[Accuracy], *, max_per_benchmark: int | None, missing: list[str], bundle_digest: str
) -> dict[str, Any]:
    """The content of core.json."""
    core, error = core_of(accuracies)
    return {
        "core": core,
        "standard_error": error,
        "interval_95": [core - Z_95 * error, core + Z_95 * error],
        "num_items": sum(entry.num_items for entry in accuracies),
        "max_per_benchmark": max_per_benchmark,
        "is_complete": is_complete(accuracies),
        "missing": missing,
        "bundle_digest": bundle_digest,
        "benchmarks": {entry.benchmark.label: entry.record() for entry in accuracies},
    }


def headline(content: dict[str, Any]) -> dict[str, Any]:
    """What of core.json a run shows."""
    return {
        "core": content["core"],
        "core_standard_error": content["standard_error"],
        "num_benchmarks": len(content["benchmarks"]),
        "num_items": content["num_items"],
        "is_complete": content["is_complete"],
        "max_per_benchmark": content["max_per_benchmark"],
        "benchmarks": {
            label: {"accuracy": entry["accuracy"], "centered": entry["centered"]}
            for label, entry in content["benchmarks"].items()
        },
    }


def write_results(out: Path, content: dict[str, Any], outcomes: Sequence[Outcome]) -> None:
    """core.json and outcomes.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    (out / CORE_NAME).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    lines = (json.dumps(outcome.record(), allow_nan=False) + "\n" for outcome in outcomes)
    (out / OUTCOMES_NAME).write_text("".join(lines), encoding="utf-8")
