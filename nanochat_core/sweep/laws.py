"""Iso-FLOP analysis: the best size and length at each budget, and how they grow with compute.

What counts as a parameter decides the exponent that one finds, so three counts are fitted side by side:

* all parameters, as Hoffmann et al. (arXiv 2203.15556) count them; they found N ~ C^0.50 and about 20 tokens for
  each parameter.
* without embeddings: no table that is as large as the vocabulary, neither the token and value embeddings nor the head
  (in Kaplan et al., arXiv 2001.08361, the head is the embedding). Kaplan et al. found N ~ C^0.73.
* matrices and head, nanochat's "scaling parameters": everything that costs FLOPs.

Porian et al. (arXiv 2406.19146) traced the gap between the two papers to three causes: the FLOPs of the head left out,
a warm-up too long for small models, and optimizer settings not tuned to scale. Here FLOPs count the head; the third
cause is the user's to rule out, and docs/sweeps.md says how.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nanochat_core.sweep.fits import (
    NUM_REPLICATES,
    PARABOLA_COEFFICIENTS,
    Interval,
    Noise,
    Parabola,
    fit_line,
    fit_parabola,
    interval,
    lowest_replicates,
    residual_noise,
)

COUNTS = {  # how parameters are counted -> what that is
    "all": "all parameters",
    "without_embeddings": "without embeddings",
    "scaling": "matrices and head",
}
TOKENS = "tokens"
AXES = (*COUNTS, TOKENS)
MIN_BUDGETS = 2  # for an exponent; with two it is a ratio, and nothing is left to judge it by


@dataclass(frozen=True, kw_only=True)
class Point:
    """One trained cell, as the fit sees it."""

    budget_flops: float
    flops: float
    """What it really used: whole steps."""
    params: dict[str, int]
    """By every count in COUNTS."""
    tokens: int
    bits_per_byte: float

    def on(self, axis: str) -> float:
        return float(np.log10(self.tokens if axis == TOKENS else self.params[axis]))


@dataclass(frozen=True, kw_only=True)
class Optimum:
    """The best cell of one budget along one axis."""

    curve: Parabola
    """bits per byte over log10 of parameters or tokens."""
    best: Interval | None
    """Parameters or tokens; None where the curve has no lowest point among the cells."""
    bits_per_byte: float | None
    problem: str = ""
    """Why there is no `best`."""


@dataclass(frozen=True, kw_only=True)
class BudgetFit:
    """All that one budget tells."""

    budget_flops: float
    flops: float
    num_cells: int
    optima: dict[str, Optimum]
    """By axis; empty below three cells."""
    tokens_per_param: dict[str, Interval]
    """Best tokens over best parameters, by count."""


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """best = 10^log10_factor x FLOPs^exponent."""

    exponent: Interval
    log10_factor: float
    num_budgets: int

    def at(self, flops: float) -> float:
        return float(10 ** (self.log10_factor + self.exponent.value * np.log10(flops)))


@dataclass(frozen=True, kw_only=True)
class Laws:
    """The fit of a whole grid."""

    budgets: list[BudgetFit]
    laws: dict[str, PowerLaw]
    """By axis; an axis with fewer than two usable budgets has none."""
    tokens_per_param: dict[str, Interval]
    """Geometric mean over the budgets, by count."""
    noise: Noise | None
    """Of bits per byte, around the curves over matrices and head; None: the grid leaves nothing to judge it by."""


@dataclass(frozen=True)
class _Axis:
    """One axis of the grid, while it is fitted. Budgets without three cells are not in it."""

    curves: list[Parabola]
    replicates: np.ndarray | None
    """(replicates, budgets) of log10 of the best value."""


def fit_laws(
    points: Sequence[Point], *, noise_bpb: float | None = None, seed: int = 0, num_replicates: int = NUM_REPLICATES
) -> Laws:
    """Fit a grid. `noise_bpb` is the scatter from seed to seed where it is known; else the residuals tell it."""
    groups = _by_budget(points)
    fitted = [group for group in groups if _is_enough(group)]
    axes: dict[str, _Axis] = {}
    for axis in AXES if fitted else ():
        noise = _noise(fitted, axis, noise_bpb)
        axes[axis] = _fit_axis(*_columns(fitted, axis), noise, seed=seed, num=num_replicates)
    budgets = [_budget_fit(group, fitted, axes) for group in groups]
    return Laws(
        budgets=budgets,
        laws={axis: law for axis in axes if (law := _power_law(axis, fitted, axes[axis])) is not None},
        tokens_per_param=_mean_ratios(axes),
        noise=_noise(fitted, "scaling", noise_bpb),
    )


def _by_budget(points: Sequence[Point]) -> list[list[Point]]:
    budgets = sorted({point.budget_flops for point in points})
    return [[point for point in points if point.budget_flops == budget] for budget in budgets]


def _is_enough(group: list[Point]) -> bool:
    return all(len({point.on(axis) for point in group}) >= PARABOLA_COEFFICIENTS for axis in AXES)


def _columns(groups: list[list[Point]], axis: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    xs = [np.array([point.on(axis) for point in group]) for group in groups]
    return xs, [np.array([point.bits_per_byte for point in group]) for group in groups]


def _noise(groups: list[list[Point]], axis: str, noise_bpb: float | None) -> Noise | None:
    return residual_noise(*_columns(groups, axis)) if noise_bpb is None else Noise(noise_bpb, None)


def _fit_axis(xs: list[np.ndarray], ys: list[np.ndarray], noise: Noise | None, *, seed: int, num: int) -> _Axis:
    curves = [curve for x, y in zip(xs, ys, strict=True) if (curve := fit_parabola(x, y)) is not None]
    return _Axis(curves, lowest_replicates(xs, ys, noise, seed=seed, num=num) if noise else None)


def _flops(group: list[Point]) -> float:
    """Geometric mean of what the cells used: whole steps stay a little below the budget."""
    return float(np.exp(np.mean([np.log(point.flops) for point in group])))


def _budget_fit(group: list[Point], fitted: list[list[Point]], axes: dict[str, _Axis]) -> BudgetFit:
    optima, ratios = {}, {}
    if group in fitted:
        place = fitted.index(group)
        optima = {axis: _optimum(axes[axis], place) for axis in AXES}
        for name in COUNTS:
            if optima[name].best and optima[TOKENS].best:
                ratios[name] = _ratio([place], axes[name], axes[TOKENS])
    return BudgetFit(
        budget_flops=group[0].budget_flops,
        flops=_flops(group),
        num_cells=len(group),
        optima=optima,
        tokens_per_param=ratios,
    )


def _optimum(axis: _Axis, place: int) -> Optimum:
    curve = axis.curves[place]
    if curve.lowest is None:
        return Optimum(curve=curve, best=None, bits_per_byte=None, problem="opens downward")
    if not curve.is_bracketed:
        side = "smallest" if curve.lowest < curve.first else "largest"
        return Optimum(curve=curve, best=None, bits_per_byte=None, problem=f"beyond the {side}")
    column = None if axis.replicates is None else axis.replicates[:, place]
    best = _power_of_ten(interval(curve.lowest, column))
    return Optimum(curve=curve, best=best, bits_per_byte=float(curve.at(np.array(curve.lowest))))


def _power_of_ten(log10: Interval) -> Interval:
    low, high = (None if end is None else float(10**end) for end in (log10.low, log10.high))
    return Interval(float(10**log10.value), low, high)


def _usable(axis: _Axis) -> list[int]:
    """Budgets whose lowest point was measured around: beyond the cells a parabola says little."""
    return [place for place, curve in enumerate(axis.curves) if curve.is_bracketed]


def _lowest(axis: _Axis, places: list[int]) -> np.ndarray:
    return np.array([axis.curves[place].lowest for place in places], dtype=np.float64)


def _power_law(name: str, groups: list[list[Point]], axis: _Axis) -> PowerLaw | None:
    places = _usable(axis)
    if len(places) < MIN_BUDGETS:
        return None
    log_flops = np.log10([_flops(groups[place]) for place in places])
    slope, intercept = fit_line(log_flops, _lowest(axis, places))
    slopes = None if axis.replicates is None else fit_line(log_flops, axis.replicates[:, places])[0]
    return PowerLaw(exponent=interval(float(slope), slopes), log10_factor=float(intercept), num_budgets=len(places))


def _ratio(places: list[int], params: _Axis, tokens: _Axis) -> Interval:
    """Tokens per parameter at the best points of these budgets, as their geometric mean."""
    value = float(np.mean(_lowest(tokens, places) - _lowest(params, places)))
    if params.replicates is None or tokens.replicates is None:
        return _power_of_ten(Interval(value))
    differences = tokens.replicates[:, places] - params.replicates[:, places]
    return _power_of_ten(interval(value, differences.mean(axis=1)))


def _mean_ratios(axes: dict[str, _Axis]) -> dict[str, Interval]:
    if not axes:
        return {}
    common = {name: sorted(set(_usable(axes[name])) & set(_usable(axes[TOKENS]))) for name in COUNTS}
    return {name: _ratio(places, axes[name], axes[TOKENS]) for name, places in common.items() if places}
