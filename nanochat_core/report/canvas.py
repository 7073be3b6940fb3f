"""A small chart as an SVG that fits any page: transparent, in the page's font, in colours that the page may change.

Matplotlib draws without pyplot, so there is no global figure and no display. While a chart is drawn its own defaults
apply, not the user's matplotlibrc: the same data gives the same bytes. Colours go through stand-ins that become CSS:
text and axes take `currentColor`, series take `var(--figure-a)` and so on, with a fallback that reads on white and on
near-black when the file is opened alone. Text stays text (measured in DejaVu Sans, which is wide: other fonts fit in).
Each chart says in words what it shows, for those who do not see it; a series has a mark of its own besides a colour.
"""

import io
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nanochat_core.base.units import count
from nanochat_core.store.manifest import LOG_FOLDER

# Two charts stand side by side on a page of 960 px and one fills a phone's 360: type of this size reads in both.
WIDTH_IN, HEIGHT_IN = 6.0, 3.6
FONT_PT = 11.5

INK, SERIES_A, SERIES_B, SERIES_C = "#010101", "#010102", "#010103", "#010104"  # stand-ins that nothing else uses
CSS_COLOURS = {
    INK: "currentColor",
    SERIES_A: "var(--figure-a, #4a86e0)",
    SERIES_B: "var(--figure-b, #d9772b)",
    SERIES_C: "var(--figure-c, #2f9e77)",
}
FONT_FAMILY = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
STYLE: Any = {  # rcParams
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": FONT_PT,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": FONT_PT,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlepad": 12.0,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": INK,
    "grid.alpha": 0.13,
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 3.5,
    "ytick.major.size": 0.0,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


@dataclass(frozen=True)
class Chart:
    """One figure and the words around it."""

    name: str
    section: str
    """Where on the page: core, chat, questions, pretrain, sft, rl or tokenizer."""
    title: str
    about: str
    """What it shows, in words."""
    draw: Callable[[Axes], None]
    height_in: float = HEIGHT_IN
    is_timed: bool = False
    """It shows how fast a machine was: it is kept with the logs, as the same run elsewhere has another one."""

    @property
    def file(self) -> str:
        """Where it is kept in the artifact."""
        return f"{LOG_FOLDER}/{self.name}.svg" if self.is_timed else f"{self.name}.svg"

    def record(self) -> dict[str, str]:
        return {"file": self.file, "section": self.section, "title": self.title}


def draw_chart(path: Path, chart: Chart) -> None:
    """Write the chart; the file's name becomes part of the ids in it."""
    path.parent.mkdir(exist_ok=True)
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        # The salt replaces a random one; one per chart, since several charts stand in one page.
        matplotlib.rcParams.update({**STYLE, "svg.hashsalt": path.stem})
        figure = Figure(figsize=(WIDTH_IN, chart.height_in), layout="constrained")
        FigureCanvasSVG(figure)
        chart.draw(figure.add_subplot())
        buffer = io.StringIO()
        nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = f"{chart.title}: {chart.about}" if chart.about else chart.title
    path.write_text(adapt_to_page(buffer.getvalue(), text=text), encoding="utf-8")


def adapt_to_page(svg: str, *, text: str) -> str:
    """Matplotlib's SVG as an element for a page: CSS colours and font, any width, no style or id that leaks."""
    svg = svg[svg.index("<svg") :]
    head, rest = svg.split(">", 1)
    # Its size in points goes: the viewBox alone lets the page decide. Its style rule "*" would hit the whole page.
    head = re.sub(r'\s(width|height|version)="[^"]*"', "", head)
    rest = re.sub(r"\s*<defs>\s*<style[^>]*>.*?</style>\s*</defs>", "", rest, count=1, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', rest))
    rest = re.sub(r'\sid="([^"]*)"', lambda match: match[0] if match[1] in used else "", rest)
    rest = re.sub(r"<!--.*?-->\s*", "", rest, flags=re.DOTALL)
    rest = re.sub(r"'DejaVu Sans'(, [\w' -]+)*", FONT_FAMILY.replace('"', "'"), rest)
    for stand_in, colour in CSS_COLOURS.items():
        rest = rest.replace(stand_in, colour)
    label = escape(" ".join(text.split()))
    head = f'{head} role="img" aria-label="{label}" stroke-linejoin="round" stroke-linecap="butt"'
    return f"{head}>\n <title>{label}</title>{rest}"


def name_axes(axes: Axes, *, x: str, y: str, x_end: float) -> None:
    """Names, and few ticks, once the data is drawn. The y axis is named level and above it, where it is read first.

    The x axis starts at 0 and its line ends at `x_end`; the room after it is for a label of the last point.
    """
    axes.set_title(y)
    axes.set_xlabel(x)
    axes.set_xlim(0, x_end * 1.11)
    axes.spines["bottom"].set_bounds(0, x_end)
    _set_ticks(axes.xaxis, 0, x_end)
    _set_ticks(axes.yaxis, *axes.get_ylim())


def _set_ticks(axis: Axis, low: float, high: float) -> None:
    """Round values with as many decimals as their distance needs, and 2M instead of 2000000."""
    ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    distance = float(ticks[1] - ticks[0])
    decimals = next((places for places in range(8) if math.isclose(round(distance, places), distance)), 8)
    shown = [float(tick) for tick in ticks if low <= tick <= high]
    axis.set_ticks(shown, [count(tick) if abs(tick) >= 1000 else f"{tick:.{decimals}f}" for tick in shown])


def label_end(axes: Axes, text: str, *, at: tuple[float, float], colour: str) -> None:
    """A direct label behind the last point of a line, in the line's colour."""
    axes.annotate(text, at, xytext=(6, 0), textcoords="offset points", color=colour, va="center", annotation_clip=False)


@dataclass(frozen=True)
class Marks:
    """A series in a chart of scores: its name, and the mark that tells it from others without colour."""

    name: str
    colour: str
    marker: str
    is_filled: bool = True

    def draw(self, axes: Axes, points: list[tuple[float, float]], *, label: bool = True) -> None:
        """Marks at (value, place)."""
        if points:
            axes.plot(
                *zip(*points, strict=True),
                linestyle="",
                marker=self.marker,
                markersize=7,
                color=self.colour,
                markerfacecolor=self.colour if self.is_filled else "none",
                markeredgewidth=1.5,
                label=self.name if label else None,
                zorder=3,
                clip_on=False,
            )


def whisker(axes: Axes, place: float, interval: tuple[float, float], *, colour: str) -> None:
    """An interval around a mark: a line with caps."""
    axes.plot(interval, [place, place], color=colour, linewidth=1.3, alpha=0.8, zorder=2, clip_on=False)
    axes.plot(interval, [place, place], color=colour, linestyle="", marker="|", markersize=7, alpha=0.8, clip_on=False)


def draw_legend(axes: Axes, *, num_columns: int) -> None:
    """The series' marks and names, above the chart and level with the left edge of the whole figure."""
    figure = axes.figure
    figure.legend(
        loc="outside upper left", ncols=num_columns, frameon=False, borderaxespad=0.2, borderpad=0.0,
        handletextpad=0.3, columnspacing=1.3,
    )  # fmt: skip


def draw_bars(
    axes: Axes, values: dict[str, float], *, labels: list[str], colour: str, errors: list[float] | None = None
) -> None:
    """Horizontal bars, first on top, each with its label behind it: an axis of numbers would say it twice."""
    names = list(values)
    places = range(len(names))
    axes.barh(places, list(values.values()), height=0.56, color=colour, alpha=0.85)
    ends = [value + error for value, error in zip(values.values(), errors or [0.0] * len(names), strict=True)]
    for place, value, error in zip(places, values.values(), errors or [], strict=False):
        if error > 0:  # a score of 0 or 100% has none, and its caps would look like a bar
            axes.errorbar(value, place, xerr=error, fmt="none", ecolor=INK, elinewidth=1.1, capsize=3, alpha=0.75)
    for place, end, label in zip(places, ends, labels, strict=True):
        axes.annotate(
            label, (end, place), xytext=(6, 0), textcoords="offset points", va="center", annotation_clip=False
        )
    axes.set_yticks(places, names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False)
