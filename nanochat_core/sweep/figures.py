"""The charts of a sweep, in the style of the run report: loss and score over what they cost, and iso-FLOP curves.

Costs span decades, so their axes are logarithmic. Every point carries its name beside it: a series has few points, and
a legend would send the eye away. Budgets differ in colour and in mark, for those who do not see the colour.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator
from matplotlib.transforms import blended_transform_factory

from nanochat_core.base.units import count, dollars
from nanochat_core.evals.core.gpt2 import GPT2_CORE
from nanochat_core.report.canvas import INK, SERIES_A, SERIES_B, SERIES_C, Chart, draw_chart, label_end
from nanochat_core.sweep.cells import budget_name
from nanochat_core.sweep.fits import LEVEL, Interval
from nanochat_core.sweep.laws import COUNTS, TOKENS, BudgetFit, Laws, Point, PowerLaw
from nanochat_core.sweep.results import CellResult

STYLES = ((SERIES_A, "o"), (SERIES_B, "s"), (SERIES_C, "^"))
MIN_TICKS, MAX_TICKS = 3, 7
MARGIN = 0.09  # of the range of a log axis, on either side
CURVE_MARGIN = 0.06
LABEL_GAP = 0.1  # of the axis: a line of text and some air
Format = Callable[[float], str]
Found = list[tuple[float, Interval]]
"""FLOPs of a budget, and the best value there."""


@dataclass(frozen=True)
class Cost:
    """Something that a model takes, to draw results over."""

    key: str
    label: str
    value: Callable[[CellResult], float]
    format: Format


COSTS = (
    Cost("flops", "training FLOPs", lambda r: r.flops, budget_name),
    Cost("params", "parameters", lambda r: float(r.params["all"]), count),
    Cost("time", "hours of training", lambda r: r.train_s / 3600, "{:.3g}".format),
    Cost(
        "dollars", "dollars of training", lambda r: r.usd, lambda usd: f"${usd:.3g}" if usd < 10 else dollars(usd)[:-3]
    ),
)


def render_charts(charts: Sequence[Chart]) -> list[tuple[str, str]]:
    """(title, SVG element) of each chart."""
    drawn = []
    with TemporaryDirectory() as folder:
        for chart in charts:
            path = Path(folder) / f"{chart.name}.svg"
            draw_chart(path, chart)
            drawn.append((chart.title, path.read_text(encoding="utf-8")))
    return drawn


# --- a series over depth ---


def series_charts(results: Sequence[CellResult]) -> list[Chart]:
    """Bits per byte and, where it was measured, CORE over FLOPs, parameters, time and dollars unless these are 0."""
    chosen = [_in_minutes(cost) if cost.key == "time" and _is_short(results) else cost for cost in COSTS]
    costs = [cost for cost in chosen if all(cost.value(result) > 0 for result in results)]
    measured = [result for result in results if result.core is not None]
    charts = [_series_chart(cost, "bpb", "Bits per byte", results) for cost in costs]
    if measured:
        charts += [_series_chart(cost, "core", "CORE", measured) for cost in costs]
    return charts


def _is_short(results: Sequence[CellResult]) -> bool:
    return max(result.train_s for result in results) < 3600


def _in_minutes(cost: Cost) -> Cost:
    return replace(cost, label="minutes of training", value=lambda result: result.train_s / 60)


def _series_chart(cost: Cost, key: str, name: str, results: Sequence[CellResult]) -> Chart:
    ordered = sorted(results, key=cost.value)
    is_core = key == "core"
    values = [(result.core or 0.0) if is_core else result.bits_per_byte for result in ordered]
    said = ", ".join(f"{r.name} {value:.4f}" for r, value in zip(ordered, values, strict=True))

    def draw(axes: Axes) -> None:
        x = [cost.value(result) for result in ordered]
        colour, marker = (SERIES_C, "s") if is_core else (SERIES_A, "o")
        axes.plot(x, values, color=colour, linewidth=2.0, marker=marker, markersize=5.5)
        if is_core:
            errors = [2 * (result.core_standard_error or 0.0) for result in ordered]
            axes.errorbar(x, values, yerr=errors, fmt="none", ecolor=colour, elinewidth=1.1, capsize=3, alpha=0.6)
        for result, at_x, at_y in zip(ordered, x, values, strict=True):
            axes.annotate(
                result.name,
                (at_x, at_y),
                xytext=(-6 if is_core else 5, 6),
                ha="right" if is_core else "left",
                textcoords="offset points",
            )
        if is_core and all(result.core_is_whole for result in ordered):
            _level(axes, GPT2_CORE, "GPT-2")
        axes.margins(y=0.16)
        _log_axis(axes.xaxis, x, cost.format)
        _name(axes, x=cost.label, y="CORE; bars: two standard errors" if is_core else "bits per byte on held-out text")

    return Chart(f"{key}_{cost.key}", key, f"{name} over {cost.label}", said, draw)


def _level(axes: Axes, value: float, label: str) -> None:
    axes.axhline(value, color=INK, linewidth=1.2, linestyle=(0, (4, 3)), alpha=0.7)
    place = blended_transform_factory(axes.transAxes, axes.transData)
    axes.annotate(f"{label} {value:.4f}", (0.0, value), xycoords=place, xytext=(4, 4), textcoords="offset points")


# --- a grid of budgets and depths ---


def law_charts(points: Sequence[Point], laws: Laws) -> list[Chart]:
    """Iso-FLOP curves over size and length, and the best size and length over compute."""
    charts = [
        _curve_chart(points, laws, "scaling", "parameters in matrices and head"),
        _curve_chart(points, laws, TOKENS, "training tokens"),
    ]
    if any(optimum.best for fit in laws.budgets for optimum in fit.optima.values()):
        charts.append(_growth_chart(laws, tuple(COUNTS), "Best size over compute", "parameters"))
        charts.append(_growth_chart(laws, (TOKENS,), "Best length over compute", "tokens"))
    return charts


def _curve_chart(points: Sequence[Point], laws: Laws, axis: str, label: str) -> Chart:
    def draw(axes: Axes) -> None:
        for place, fit in enumerate(laws.budgets):
            group = sorted((p for p in points if p.budget_flops == fit.budget_flops), key=lambda p: p.on(axis))
            _draw_budget(axes, fit, group, axis, *STYLES[place % len(STYLES)])
        axes.margins(y=0.12)
        _log_axis(axes.xaxis, [10 ** point.on(axis) for point in points], count, right=0.16)
        _name(axes, x=label, y="bits per byte; rings: lowest point of each curve")

    said = "; ".join(
        f"{budget_name(fit.budget_flops)} FLOPs: best at "
        + (count(best.value) if (optimum := fit.optima.get(axis)) and (best := optimum.best) else "no point seen")
        for fit in laws.budgets
    )
    return Chart(f"iso_{axis}", "laws", f"Bits per byte over {label}", said, draw)


def _draw_budget(axes: Axes, fit: BudgetFit, group: Sequence[Point], axis: str, colour: str, marker: str) -> None:
    x, y = [10 ** point.on(axis) for point in group], [point.bits_per_byte for point in group]
    axes.plot(x, y, color=colour, marker=marker, markersize=5.5, linestyle="", zorder=3)
    end, optimum = (x[-1], y[-1]), fit.optima.get(axis)
    if optimum is not None:
        margin = CURVE_MARGIN * (optimum.curve.last - optimum.curve.first)
        grid = np.linspace(optimum.curve.first - margin, optimum.curve.last + margin, 100)
        curve = optimum.curve.at(grid)
        axes.plot(10**grid, curve, color=colour, linewidth=1.6, alpha=0.7)
        end = (float(10 ** grid[-1]), float(curve[-1]))
    if optimum is not None and optimum.best is not None:
        best = optimum.best.value
        lowest = float(optimum.curve.at(np.log10(best)))
        ring = {"markersize": 11, "color": colour, "markerfacecolor": "none", "markeredgewidth": 1.6}
        axes.plot(best, lowest, marker="o", zorder=4, **ring)  # type: ignore[arg-type]
    label_end(axes, budget_name(fit.budget_flops), at=end, colour=colour)


def _growth_chart(laws: Laws, names: Sequence[str], title: str, label: str) -> Chart:
    found = {
        name: [(fit.flops, best) for fit in laws.budgets if name in fit.optima and (best := fit.optima[name].best)]
        for name in names
    }

    def draw(axes: Axes) -> None:
        bests = [best for pairs in found.values() for _, best in pairs]
        _log_axis(axes.xaxis, [flops for pairs in found.values() for flops, _ in pairs], budget_name, right=0.42)
        _log_axis(axes.yaxis, [end for best in bests for end in (best.value, best.low, best.high) if end], count)
        for name, (colour, marker) in zip(names, STYLES, strict=False):
            _draw_growth(axes, found[name], laws.laws.get(name), colour, marker)
        _label_ends(axes, found, laws)
        _name(axes, x="FLOPs", y=f"{label} at the lowest point; bars: {LEVEL:.0%} interval")

    said = "; ".join(f"{COUNTS.get(name, 'tokens')}: {exponent_text(laws, name)}" for name in names)
    return Chart(f"growth_{names[0]}", "laws", title, said, draw)


def _draw_growth(axes: Axes, found: Found, law: PowerLaw | None, colour: str, marker: str) -> None:
    """Points, intervals and the line of one axis."""
    for flops, best in found:
        axes.plot(flops, best.value, color=colour, marker=marker, markersize=6, linestyle="")
        if best.low is not None and best.high is not None:
            ends = [[best.value - best.low], [best.high - best.value]]
            axes.errorbar(flops, best.value, yerr=ends, fmt="none", ecolor=colour, elinewidth=1.2, capsize=3, alpha=0.7)
    if law is not None:
        x = [found[0][0], found[-1][0]]
        axes.plot(x, [law.at(flops) for flops in x], color=colour, linewidth=1.6, alpha=0.7)


def _label_ends(axes: Axes, found: dict[str, Found], laws: Laws) -> None:
    """Names and exponents behind the last points, pushed apart where lines end close together."""
    low, high = np.log10(axes.get_ylim())
    last = sorted((pairs[-1][1].value, name) for name, pairs in found.items() if pairs)
    floor = -math.inf
    for value, name in last:
        floor = max(math.log10(value), floor + LABEL_GAP * (high - low))
        law, place = laws.laws.get(name), list(found).index(name)
        text = COUNTS.get(name, "tokens") + (f", C^{law.exponent.value:.2f}" if law else "")
        label_end(axes, text, at=(found[name][-1][0], 10**floor), colour=STYLES[place][0])


def exponent_text(laws: Laws, axis: str) -> str:
    """ "0.49 (0.45 to 0.53)", or that there is none."""
    law = laws.laws.get(axis)
    if law is None:
        return "not found"
    low, high = law.exponent.low, law.exponent.high
    return f"{law.exponent.value:.2f}" + (f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else "")


# --- axes ---


def _name(axes: Axes, *, x: str, y: str) -> None:
    """The y axis is named level and above it, where it is read first."""
    axes.set_xlabel(x)
    axes.set_title(y)


def _log_axis(axis: Axis, values: Sequence[float], form: Format, *, right: float = MARGIN) -> None:
    """A logarithmic axis around the values, with room after them for labels, and few round ticks."""
    low, high = math.log10(min(values)), math.log10(max(values))
    width = max(high - low, 0.3)
    first, last = low - MARGIN * width, high + right * width
    axis.axes.set(**{f"{axis.axis_name}scale": "log", f"{axis.axis_name}lim": (10**first, 10**last)})  # type: ignore[attr-defined]
    ticks = round_ticks(10**first, 10**last)
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([form(tick) for tick in ticks]))
    axis.set_minor_locator(NullLocator())


def round_ticks(low: float, high: float) -> list[float]:
    """Round values between the ends of a log axis: the coarsest ones that are enough to read it by."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for mantissas in (
        (1.0,),
        (1.0, 3.0),
        (1.0, 2.0, 5.0),
        (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
        tuple(np.arange(1, 10, 0.5)),
    ):
        ticks = [float(m * 10.0**e) for e in decades for m in mantissas if low <= m * 10.0**e <= high]
        if len(ticks) > MAX_TICKS:
            break
        found = ticks
        if len(ticks) >= MIN_TICKS:
            break
    return found or [low, high]
