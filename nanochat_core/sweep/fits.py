"""Parabolas, power laws and their bootstrap: the numbers behind iso-FLOP curves, as pure functions of arrays.

Approach 2 of Hoffmann et al. (arXiv 2203.15556): at a fixed budget of FLOPs the loss is near a parabola in the log of
the model's size, its lowest point is the best size, and the best sizes of several budgets follow a power law. The
parabola is an approximation: on wide or off-centre grids it biases the optimum even without noise (arXiv 2603.22339),
which no interval here can show. Only the scatter of the losses goes into the intervals: losses are drawn again around
the fitted curves, with the variance itself drawn from what the residuals tell of it, so that few cells give wide
intervals instead of confident ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.9  # of every interval
NUM_REPLICATES = 2000
MIN_VALID_FRAC = 0.9  # of the replicates: below this the interval would speak of the well-behaved ones alone
PARABOLA_COEFFICIENTS = 3
Arrays = Sequence[np.ndarray]


@dataclass(frozen=True)
class Interval:
    """A value and the range that holds it at LEVEL; None where the data cannot tell one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Parabola:
    """y = a x^2 + b x + c, fitted to points between `first` and `last`."""

    a: float
    b: float
    c: float
    first: float
    last: float

    def at(self, x: np.ndarray) -> np.ndarray:
        return np.asarray(np.polyval([self.a, self.b, self.c], x))

    @property
    def lowest(self) -> float | None:
        """Where it is lowest; None when it opens downward."""
        return -self.b / (2 * self.a) if self.a > 0 else None

    @property
    def is_bracketed(self) -> bool:
        """The lowest point lies among the points that were measured."""
        return self.lowest is not None and self.first <= self.lowest <= self.last


@dataclass(frozen=True)
class Noise:
    """The scatter of one measured loss, and how well it is known."""

    sigma: float
    degrees: int | None
    """Of freedom, that the residuals left; None: sigma is known from elsewhere."""

    def draw_sigma(self, generator: np.random.Generator, size: int) -> np.ndarray:
        if self.degrees is None:
            return np.full(size, self.sigma)
        return self.sigma * np.sqrt(self.degrees / generator.chisquare(self.degrees, size))


def fit_parabola(x: np.ndarray, y: np.ndarray) -> Parabola | None:
    """Least squares; None below three different x."""
    if len(np.unique(x)) < PARABOLA_COEFFICIENTS:
        return None
    a, b, c = _solver(x) @ y
    return Parabola(float(a), float(b), float(c), float(x.min()), float(x.max()))


def residual_noise(xs: Arrays, ys: Arrays) -> Noise | None:
    """The scatter around all parabolas together; None when they go through every point."""
    squares, degrees = 0.0, 0
    for x, y in zip(xs, ys, strict=True):
        curve = fit_parabola(x, y)
        if curve is not None:
            squares += float(np.sum((y - curve.at(x)) ** 2))
            degrees += len(x) - PARABOLA_COEFFICIENTS
    return Noise(float(np.sqrt(squares / degrees)), degrees) if degrees > 0 else None


def lowest_replicates(xs: Arrays, ys: Arrays, noise: Noise, *, seed: int, num: int = NUM_REPLICATES) -> np.ndarray:
    """(num, curves): where each curve is lowest when its losses are drawn again; NaN where it opens downward.

    The same seed gives the same draws, whatever the x: optima along several axes of one grid then vary together.
    """
    generator = np.random.default_rng(seed)
    sigma = noise.draw_sigma(generator, num)[:, None]
    columns = []
    for x, y in zip(xs, ys, strict=True):
        solve, draws = _solver(x), generator.standard_normal((num, len(y)))
        fitted = np.vander(x, PARABOLA_COEFFICIENTS) @ (solve @ y)
        a, b, _ = solve @ (fitted + sigma * draws).T
        columns.append(np.where(a > 0, -b / (2 * np.where(a > 0, a, 1.0)), np.nan))
    return np.stack(columns, axis=1)


def fit_line(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Slopes and intercepts of y (..., n) over x (n,)."""
    centred = x - x.mean()
    slope = (y - y.mean(axis=-1, keepdims=True)) @ centred / (centred @ centred)
    return slope, y.mean(axis=-1) - slope * x.mean()


def interval(value: float, replicates: np.ndarray | None) -> Interval:
    """`value` with the central LEVEL of its replicates, where enough of them exist."""
    if replicates is None:
        return Interval(value)
    valid = replicates[np.isfinite(replicates)]
    if len(valid) < MIN_VALID_FRAC * len(replicates):
        return Interval(value)
    low, high = np.quantile(valid, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _solver(x: np.ndarray) -> np.ndarray:
    """(3, n): coefficients are a linear function of the losses, so thousands of fits are one product."""
    return np.linalg.pinv(np.vander(x, PARABOLA_COEFFICIENTS))
