"""Where a metric of the baseline lies and how much it scatters from seed to seed.

Location and scale are robust in one step: runs further than `CUT` scaled MADs from the median are left out, of the rest
mean and standard deviation count. Median and MAD alone would throw away a third and two thirds of what the runs say
(their efficiency for a normal law is 64% and 37%), and a night with a hiccup must still not widen the gate. Of fewer
than twelve runs none is left out. Replicates elsewhere in the history tell of the scale as well: each group of equal
recipe adds its degrees of freedom. A floor keeps a lucky pair of equal runs from making everything else significant.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median

CUT = 8.0  # by simulation: at 3.5 a small baseline loses good runs and looks calmer than it is
MAD_TO_SD = 1.4826  # for a normal law
MAD_BIAS = 0.8  # n / (n - 0.8): what MAD misses in n values (Croux and Rousseeuw 1992)
MIN_RUNS_TO_CUT = 12
SMALL = 4  # the limit is wider by 4 / n: MAD itself scatters
FLOOR_FRAC = 3e-5  # relative standard deviation between seeds: 3e-5 to 8e-5 was measured for bits per byte at depth 24


@dataclass(frozen=True, kw_only=True)
class Level:
    """A metric's location and scale, and how well they are known."""

    location: float
    scale: float
    """Standard deviation between seeds."""
    num_runs: int
    """That the location rests on."""
    degrees: int
    """Of freedom, of the scale."""

    def standard_error(self, num_looks: int) -> float:
        """Of the mean of so many new runs minus the location."""
        return self.scale * math.sqrt(1 / num_looks + 1 / self.num_runs)


def estimate_level(
    values: Sequence[float], replicates: Iterable[Sequence[float]] = (), *, floor_frac: float = FLOOR_FRAC
) -> Level | None:
    """The level of `values`; None with fewer than two. `replicates`: groups of further runs, for the scale alone."""
    if len(values) < 2:
        return None
    kept = without_outliers(values)
    location = fmean(kept)
    groups = [kept, *(without_outliers(group) for group in replicates if len(group) > 1)]
    degrees = sum(len(group) - 1 for group in groups)
    squares = sum(_squares(group) for group in groups)
    scale = max(math.sqrt(squares / degrees), floor_frac * abs(location))
    return Level(location=location, scale=scale, num_runs=len(kept), degrees=degrees)


def without_outliers(values: Sequence[float]) -> list[float]:
    """The values that are not far from the median of them all."""
    number = len(values)
    if number < MIN_RUNS_TO_CUT:
        return list(values)
    middle = median(values)
    deviation = MAD_TO_SD * median(abs(value - middle) for value in values) * number / (number - MAD_BIAS)
    if deviation == 0:
        return list(values)
    limit = CUT * deviation * (1 + SMALL / number)
    return [value for value in values if abs(value - middle) <= limit]


def _squares(values: Sequence[float]) -> float:
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)
