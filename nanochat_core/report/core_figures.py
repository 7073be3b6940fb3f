"""CORE's charts: the score beside GPT-2's four sizes, and every benchmark with its interval, chance at zero.

GPT-2 1.6B stands in a benchmark's row only where its score there is published (references.py).
"""

from typing import Any

from matplotlib.axes import Axes

from nanochat_core.evals.core.gpt2 import GPT2_CORE, GPT2_CORE_BY_SIZE
from nanochat_core.report.canvas import INK, SERIES_A, SERIES_B, Chart, Marks, draw_legend, whisker
from nanochat_core.report.core_table import CoreRow, core_rows

ROW_IN = 0.265  # height of a benchmark's row
OURS = Marks("this model", SERIES_A, "o")
REFERENCE = Marks("GPT-2 1.6B, where published", SERIES_B, "D", is_filled=False)
Core = dict[str, Any]


def core_charts(core: Core) -> list[Chart]:
    """Both charts; none when CORE was not measured."""
    if not core:
        return []
    score, error = core["core"], core["standard_error"]
    title, about = "The score", f"{score:.4f} plus or minus {error:.4f}"
    if core.get("is_complete", True):
        title += " beside GPT-2 in its four sizes"
        about += f", {'above' if score > GPT2_CORE else 'below'} GPT-2's {GPT2_CORE:.4f}"
    charts = [Chart("core", "core", title, about, lambda axes: _draw_score(axes, core), height_in=1.5)]
    if rows := core_rows(core):
        about = ", ".join(f"{row.name} {row.centered:.2f}" for group in rows.values() for row in group)
        lines = sum(len(group) + 1 for group in rows.values())
        charts.append(
            Chart("core_benchmarks", "core", "CORE by benchmark: accuracy above chance", about,
                  lambda axes: _draw_benchmarks(axes, rows), height_in=1.1 + ROW_IN * lines)
        )  # fmt: skip
    return charts


def _draw_score(axes: Axes, core: Core) -> None:
    score, error = core["core"], core["standard_error"]
    low, high = core.get("interval_95") or (score - 1.96 * error, score + 1.96 * error)
    axes.barh([0], [score], height=0.5, color=SERIES_A, alpha=0.85)
    axes.errorbar(score, 0, xerr=[[max(0, score - low)], [max(0, high - score)]], fmt="none", ecolor=INK,
                  elinewidth=1.3, capsize=4)  # fmt: skip
    if core.get("is_complete", True):  # another mean than GPT-2's is no score to hold against it
        _draw_gpt2(axes)
    axes.set_ylim(-0.5, 0.95 if core.get("is_complete", True) else 0.5)
    axes.set_xlim(min(0.0, low), max(0.3, high * 1.05))
    axes.set_yticks([])
    axes.grid(False)
    axes.set_xlabel("CORE, with its 95% interval")


def _draw_gpt2(axes: Axes) -> None:
    """A line per size, the target strong; the labels of neighbours lean away from each other."""
    leans = {"355M": "right", "1.6B": "left"}
    for name, value in GPT2_CORE_BY_SIZE.items():
        is_target = value == GPT2_CORE
        style: dict[str, Any] = (
            {"linewidth": 2.2, "linestyle": "-"} if is_target else {"linewidth": 1.2, "linestyle": (0, (3, 2))}
        )
        axes.plot([value, value], [-0.42, 0.5], color=SERIES_B, **style)
        text = f"GPT-2  {name}" if name == "124M" else name
        axes.annotate(text, (value, 0.5), xytext=(0, 3), textcoords="offset points",
                      ha=leans.get(name, "center"), color=SERIES_B)  # fmt: skip


def _draw_benchmarks(axes: Axes, groups: dict[str, list[CoreRow]]) -> None:
    names: list[str] = []
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    headings: list[int] = []
    for heading, group in groups.items():
        headings.append(len(names))
        names.append(heading)
        for row in group:
            place = float(len(names))
            names.append(row.name)
            ours.append((row.centered, place))
            if row.interval:
                whisker(axes, place, row.interval, colour=SERIES_A)
            if row.gpt2 is not None:
                theirs.append((row.gpt2, place))
    axes.axvline(0, color=INK, linewidth=1.1, alpha=0.75)
    REFERENCE.draw(axes, theirs)
    OURS.draw(axes, ours)
    axes.set_yticks(range(len(names)), names)
    for place in headings:
        axes.get_yticklabels()[place].set_fontweight("bold")
    axes.set_ylim(len(names) - 0.4, -0.6)
    low, high = axes.get_xlim()
    axes.set_xlim(low, max(high, 0.5))
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.set_xlabel("0: chance, 1: all right; with 95% intervals")
    draw_legend(axes, num_columns=2)
