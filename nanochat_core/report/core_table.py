"""CORE's benchmarks as rows, grouped by category: what the chart draws and the page's table says.

A benchmark's accuracy is centred, (accuracy - chance) / (1 - chance), so that 0 is guessing and 1 is perfect in all of
them; CORE is the mean (DCLM, arXiv 2406.11794). Intervals are given for accuracies and are centred in the same way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanochat_core.report.references import GPT2_XL_CENTERED, core_name


@dataclass(frozen=True)
class CoreRow:
    """One benchmark."""

    label: str
    name: str
    centered: float
    interval: tuple[float, float] | None
    """Of 95%, centred."""
    accuracy: float
    chance: float
    num_items: int
    num_fewshot: int
    gpt2: float | None
    """GPT-2 1.6B's centred score, where it is published."""


def core_rows(core: Mapping[str, Any]) -> dict[str, list[CoreRow]]:
    """Benchmarks by category, the best first in each; categories in the bundle's order, so that two reports compare."""
    groups: dict[str, list[CoreRow]] = {}
    for label, score in core.get("benchmarks", {}).items():
        groups.setdefault(str(score["category"] or "other").replace("_", " "), []).append(_row(label, score))
    return {name: sorted(group, key=lambda row: (-row.centered, row.label)) for name, group in groups.items()}


def _row(label: str, score: Mapping[str, Any]) -> CoreRow:
    chance = score["baseline_percent"] / 100
    interval = None
    if score.get("interval_95"):
        low, high = ((value - chance) / (1 - chance) for value in score["interval_95"])
        interval = (low, high)
    return CoreRow(
        label=label,
        name=core_name(label),
        centered=score["centered"],
        interval=interval,
        accuracy=score["accuracy"],
        chance=chance,
        num_items=score["num_items"],
        num_fewshot=score["num_fewshot"],
        gpt2=GPT2_XL_CENTERED.get(label),
    )
