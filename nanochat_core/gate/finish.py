"""What a finished night leaves for people: its verdict as markdown and the history's picture, in the night's folder.

The picture is a PNG, since it is linked from Prefect's page and sent around alone: bits per byte of every comparable
night, and the band of the baseline. Verdicts differ by mark as well as by colour.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_core import workspace
from nanochat_core.gate import baseline
from nanochat_core.gate.level import Level, estimate_level
from nanochat_core.gate.metrics import PRIMARY, NightRun
from nanochat_core.gate.night import Night, identity_overrides, nights
from nanochat_core.gate.verdict import RegressionError, looks_of, markdown

NUM_NIGHTS = 90
LOOKS = {
    "green": ("o", "#2f9e77", "green"),
    "red": ("X", "#c92a2a", "red"),
    "unjudged": ("s", "#868e96", "not judged"),
}


@dataclass(frozen=True)
class FinishedNight:
    """A night's results for those who called it."""

    run_id: str
    record: Night
    markdown: str
    plot: Path | None
    search: str
    """The command that finds what made a red night red."""

    @property
    def is_red(self) -> bool:
        return bool(self.record["state"] == "red")

    @property
    def num_steps(self) -> int:
        """Steps that its trainings ran or found."""
        return len(self.record["steps"])


def finish_night(night: Night) -> FinishedNight:
    """Write the page and the picture."""
    space = workspace.current()
    folder = space.run(night["run_id"])
    history = nights(space.store)
    search = search_command(night, history)
    text = markdown(night) + (f"\nFind the change: `{search}`\n" if night["state"] == "red" else "")
    (folder / "verdict.md").write_text(text, encoding="utf-8")
    runs: list[NightRun] = []
    if night["baseline"] is not None:
        name, _, version = night["baseline"].partition("@")
        runs = baseline.read(space.store, space.store.ref(name, version))
    path = folder / "history.png"
    plot = path if draw_history(path, history, runs) else None
    return FinishedNight(night["run_id"], night, text, plot, search)


def search_command(night: Night, history: Sequence[Night]) -> str:
    """The bisection between the newest earlier night of this kind that was no regression and this one."""

    def task(one: Night) -> tuple[str, list[str]]:
        return one["preset"], identity_overrides(one["overrides"])

    def commit(one: Night | None) -> str:
        return str((one or {"source": {}})["source"].get("git_commit") or "COMMIT")[:12]

    earlier = [one for one in history if one["started_at"] < night["started_at"] and task(one) == task(night)]
    good = next((one for one in reversed(earlier) if one["state"] in ("green", "unjudged")), None)
    words = [
        "nanochat",
        "nightly",
        "bisect",
        "--good",
        commit(good),
        "--bad",
        commit(night),
        "--preset",
        night["preset"],
    ]
    return shlex.join([*words, *(word for setting in night["overrides"] for word in ("--set", setting))])


def raise_if_red(finished: FinishedNight) -> None:
    """A regression ends the run with its own exit code."""
    if finished.is_red:
        raise RegressionError(
            f"{finished.run_id} is red: {finished.record['verdict']['summary']}",
            hint=f"{finished.search} finds the change",
        )


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
    level = estimate_level(looks_of(baseline))
    for state, (marker, colour, label) in LOOKS.items():
        of_state = [(place, night) for place, night in enumerate(shown) if night["state"] == state]
        points = [(place, run["metrics"][PRIMARY]) for place, night in of_state for run in night["runs"]]
        short = [(place, _by_probe(night, level)) for place, night in of_state if level and not night["runs"]]
        for where, told, inside in ((points, label, colour), (short, f"{label}, by a probe", "none")):
            if where:
                axes.plot(
                    *zip(*where, strict=True), linestyle="", marker=marker, color=colour, markerfacecolor=inside,
                    label=told,
                )  # fmt: skip
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
    done = [(_conditions(night), night) for night in nights if night["state"] in LOOKS]
    known = [(conditions, night) for conditions, night in done if conditions is not None]
    return [night for conditions, night in known if conditions == known[-1][0]][-NUM_NIGHTS:]


def _conditions(night: dict[str, Any]) -> dict[str, Any] | None:
    """Of a night's first training, in full or short; None: it has none that was measured."""
    runs = night["runs"] or (night.get("probe") or {}).get("runs") or [{"conditions": None}]
    return runs[0]["conditions"]  # type: ignore[no-any-return]


def _by_probe(night: dict[str, Any], level: Level) -> float:
    """Bits per byte that a probe stands for: the baseline's, or as much worse as its pairs are."""
    return level.location * (1 + (night["verdict"].get("effect_frac") or 0.0))


def _draw_band(axes: Any, level: Level) -> None:
    """The baseline, and where a night begins to be doubtful."""
    error = level.standard_error(1)
    axes.axhline(level.location, color="#495057", linewidth=1)
    axes.axhspan(level.location - error, level.location + error, color="#495057", alpha=0.12, label="baseline, 1 sd")
    axes.axhline(level.location + 3 * error, color="#c92a2a", linewidth=1, linestyle=":", label="3 sd worse")


def _tick(night: dict[str, Any]) -> str:
    return f"{str(night['started_at'])[5:10]} {(night['source'].get('git_commit') or '')[:7]}"
