"""The history as one picture: bits per byte of every comparable night, and the band of the baseline.

A PNG, since it is linked from Prefect's page and sent around alone. Verdicts differ by mark as well as by colour.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat_core.gate import rule
from nanochat_core.gate.level import Level, estimate_level
from nanochat_core.gate.metrics import PRIMARY
from nanochat_core.gate.verdict import NightRun

NUM_NIGHTS = 90
LOOKS = {
    "green": ("o", "#2f9e77", "green"),
    "red": ("X", "#c92a2a", "red"),
    "unjudged": ("s", "#868e96", "not judged"),
}


def draw_history(path: Path, nights: Sequence[dict[str, Any]], baseline: Sequence[NightRun]) -> bool:
    """Draw the nights that are comparable with the last one; False when there is nothing to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = comparable(nights)
    if not shown:
        return False
    figure = Figure(figsize=(9, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for state, (marker, colour, label) in LOOKS.items():
        points = [
            (place, run["metrics"][PRIMARY])
            for place, night in enumerate(shown)
            for run in night["runs"]
            if night["state"] == state
        ]
        if points:
            axes.plot(*zip(*points, strict=True), linestyle="", marker=marker, color=colour, label=label)
    level = estimate_level([run.metrics[PRIMARY] for run in baseline])
    if level is not None:
        _draw_band(axes, level)
    axes.set_xticks(range(len(shown)), [_tick(night) for night in shown], rotation=60, ha="right", fontsize=7)
    axes.set_ylabel("bits per byte")
    axes.set_title(f"nightly {shown[-1]['preset']}", loc="left")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, format="png", dpi=120)
    return True


def comparable(nights: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The newest finished nights under the conditions of the last one."""
    done = [night for night in nights if night["runs"] and night["state"] in LOOKS]
    if not done:
        return []
    conditions = done[-1]["runs"][0]["conditions"]
    return [night for night in done if night["runs"][0]["conditions"] == conditions][-NUM_NIGHTS:]


def _draw_band(axes: Any, level: Level) -> None:
    """The baseline, and where a night begins to be doubtful."""
    doubt = rule.limits(level).doubt
    axes.axhline(level.location, color="#495057", linewidth=1)
    axes.axhspan(level.location - doubt, level.location + doubt, color="#495057", alpha=0.12, label="baseline")


def _tick(night: dict[str, Any]) -> str:
    return f"{str(night['started_at'])[5:10]} {(night['source'].get('git_commit') or '')[:7]}"
