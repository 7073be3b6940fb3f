"""Where a metric of the baseline lies, how much it scatters, and which part of the scatter a whole night shares.

Noise has two parts: what another seed changes, and what a night changes for all of its trainings (the machine, a
library's choice, the day). A second training averages the first part only, so its share decides how much a confirming
seed confirms. It is the slope of second trainings on first ones, which the choice of nights that get a second one does
not bend. What one night carries over to the next comes from successive first trainings.

The location is that of the newest part of the baseline: where its runs show that the level moved (an improvement that
was promoted), what came before counts for the spread alone. Spread is pooled within those parts, with differences of
later first trainings (three nights apart, so that a creep hardly counts) and with a prior that fades: what models of
this depth are known to scatter. All shapes and thresholds are by simulation: benchmarks/gate.py.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

CUT = 8.0  # by simulation: at 3.5 a small baseline loses good runs and looks calmer than it is
MAD_TO_SD = 1.4826  # for a normal law
MAD_BIAS = 0.8  # n / (n - 0.8): what MAD misses in n values (Croux and Rousseeuw 1992)
MIN_RUNS_TO_CUT = 12
SMALL = 4  # the limit is wider by 4 / n: MAD itself scatters
FLOOR_FRAC = 3e-5  # relative standard deviation between seeds: 3e-5 to 8e-5 was measured for bits per byte at depth 24

KNOWN_SD_FRAC = ((2, 5.4e-3), (12, 4.0e-4), (24, 6.0e-5))
"""Depth, relative standard deviation of bits per byte between seeds: docs/nightly.md says who measured it."""
PRIOR_DEGREES = 8.0
LAG = 3  # nights between first trainings whose difference tells of the scatter
LAG_DEGREES = 0.6  # of freedom that each such difference is worth; they overlap
HISTORY = 180  # nights, at most, that tell of the noise
HOLD = 3.0  # standard deviations: what is further counts as this much
SHARE, SHARE_WEIGHT = 0.3, 12.0  # of the noise that a night shares, before anything is known of it
CARRY, CARRY_WEIGHT = 0.1, 20.0  # correlation of a night with the next one, likewise
FAR = 4  # nights that carry little to each other
MAX_SHARE, MAX_CARRY, MAX_DECAY = 0.9, 0.6, 0.7
NEAR = 20  # nights whose mean a night's trainings are compared about, so that a shift is nothing they share
MOVED_SD = 2.8  # standard errors between two parts of a baseline that are two levels


@dataclass(frozen=True)
class Looks:
    """The trainings of one recipe in one night, in their order."""

    recipe: str
    values: tuple[float, ...]
    is_red: bool = False
    effect_sd: float | None = None
    """Of a red night: by how much the level was found to be worse."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """A metric's location and scale, and how well they are known."""

    location: float
    scale: float
    """Standard deviation of one training."""
    num_runs: int
    """That the location rests on."""
    degrees: float
    """Of freedom, of the scale."""
    location_error: float = 0.0
    """Standard deviation of the location."""
    share: float = 0.0
    """Of the variance, what all trainings of a night have in common."""
    carry: float = 0.0
    """Correlation of the first trainings of successive nights."""

    @property
    def decay(self) -> float:
        """From night to night, of what nights carry over."""
        return min(self.carry / max(self.share, 0.25), MAX_DECAY)

    @property
    def inflation(self) -> float:
        """Of the variance of a mean of many nights, over that of as many independent ones."""
        return 1 + 2 * self.carry / (1 - self.decay)

    def standard_error(self, num_looks: int) -> float:
        """Of the mean of so many new trainings of a night minus the location."""
        return math.sqrt(self.scale**2 * (self.share + (1 - self.share) / num_looks) + self.location_error**2)


def plain_level(values: Sequence[float]) -> Level | None:
    """Mean and standard deviation of what has no history: the other metrics. None with fewer than two values."""
    if len(values) < 2:
        return None
    kept = without_outliers(values)
    scale = math.sqrt(_squares(kept) / (len(kept) - 1))
    error = scale / math.sqrt(len(kept))
    return Level(
        location=fmean(kept), scale=scale, num_runs=len(kept), degrees=len(kept) - 1, location_error=error
    )  # fmt: skip


def estimate_level(
    baseline: Sequence[Looks], later: Sequence[Looks] = (), *, prior_frac: float | None = None
) -> Level | None:
    """The level of a baseline's nights, oldest first, with what the nights after them tell of the noise.

    `prior_frac`: relative standard deviation that is expected of one training. None with fewer than two runs.
    """
    nights = _kept(baseline)
    if sum(len(night.values) for night in nights) < 2:
        return None
    parts = _parts(nights, SHARE)
    newest = [value for night in parts[-1] for value in night.values]
    location = fmean(newest)
    floor = FLOOR_FRAC * abs(location)
    prior = PRIOR_DEGREES if prior_frac else 0.0
    expected = (prior_frac or 0.0) * abs(location)

    def pooled(share: float, differences: Sequence[float] = ()) -> tuple[float, float]:
        squares, weight = prior * expected**2, prior
        for part in parts:
            of_it, its_weight = _spread(part, share)
            squares, weight = squares + of_it, weight + its_weight
        squares += LAG_DEGREES * math.fsum(differences)
        weight += LAG_DEGREES * len(differences)
        return max(math.sqrt(squares / weight) if weight > 0 else 0.0, floor), weight

    scale, _ = pooled(SHARE)
    later = later[-HISTORY:]
    firsts = [night.values[0] for night in later]
    most = (HOLD * scale) ** 2
    differences = [min((new - old) ** 2 / 2, most) for old, new in zip(firsts, firsts[LAG:], strict=False)][-60:]
    share = _share(later, location, scale)
    scale, degrees = pooled(share, differences)
    carry = _carry([*parts[-1], *later], scale)
    level = Level(location=location, scale=scale, num_runs=len(newest), degrees=degrees, share=share, carry=carry)
    between = share * level.inflation / len(parts[-1])
    error = scale * math.sqrt(between + (1 - share) / len(newest))
    return replace(level, location_error=error)


def known_sd_frac(depth: int) -> float:
    """Relative standard deviation of bits per byte between seeds at a depth, between and beyond what was measured."""
    points = [(math.log(at), math.log(frac)) for at, frac in KNOWN_SD_FRAC]
    where = math.log(max(1, depth))
    low = max((each for each in points[:-1] if each[0] <= where), default=points[0])
    high = points[points.index(low) + 1]
    return math.exp(low[1] + (high[1] - low[1]) * (where - low[0]) / (high[0] - low[0]))


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


def _kept(nights: Sequence[Looks]) -> list[Looks]:
    kept = set(without_outliers([value for night in nights for value in night.values]))
    left = [Looks(night.recipe, tuple(value for value in night.values if value in kept)) for night in nights]
    return [night for night in left if night.values]


def _parts(nights: list[Looks], share: float) -> list[list[Looks]]:
    """The baseline, cut once where its level moved: never within a recipe, which is one level by what it is."""
    best, cut = MOVED_SD, 0
    for place in range(1, len(nights)):
        if nights[place - 1].recipe == nights[place].recipe:
            continue
        before, after = nights[:place], nights[place:]
        degrees = sum(len(night.values) for night in nights) - 2
        if degrees < 2 or sum(len(night.values) for night in after) < 2:
            continue
        spreads = [_spread(part, share) for part in (before, after)]
        weight = sum(each for _, each in spreads)
        scale = math.sqrt(sum(squares for squares, _ in spreads) / weight) if weight > 0 else 0.0
        error = scale * math.sqrt(sum(_mean_variance(part, share) for part in (before, after)))
        means = [fmean(value for night in part for value in night.values) for part in (before, after)]
        apart = abs(means[1] - means[0])
        moved = apart / error if error > 0 else math.inf if apart else 0.0
        few = 1 + 4 / degrees  # Student's t has heavier tails where little is known
        if moved > best * few:
            best, cut = moved / few, place
    return [nights[:cut], nights[cut:]] if cut else [nights]


def _mean_variance(part: Sequence[Looks], share: float) -> float:
    """Of the mean of a part's runs, in units of the variance of one."""
    sizes = [len(night.values) for night in part]
    return share * sum(size**2 for size in sizes) / sum(sizes) ** 2 + (1 - share) / sum(sizes)


def _spread(part: Sequence[Looks], share: float) -> tuple[float, float]:
    """Squares about the part's mean, and how many times the variance of one training they are on average."""
    sizes = [len(night.values) for night in part]
    number = sum(sizes)
    weight = (1 - share) * (number - 1) + share * (number - sum(size**2 for size in sizes) / number)
    return _squares([value for night in part for value in night.values]), weight


def _share(later: Sequence[Looks], location: float, scale: float) -> float:
    """By regression of second trainings on first ones, about the nights before; red nights are no noise."""
    both, first, near = SHARE * SHARE_WEIGHT, SHARE_WEIGHT, deque[float](maxlen=NEAR)
    for night in later:
        if len(night.values) > 1 and not night.is_red:
            about = fmean(near) if len(near) == NEAR else location
            one, two = (_held((value - about) / scale) for value in night.values[:2])
            both, first = both + one * two, first + one * one
        near.append(night.values[0])
    return min(max(both / first, 0.0), MAX_SHARE)


def _carry(nights: Sequence[Looks], scale: float) -> float:
    """By differences of successive first trainings against those of nights apart; a lasting shift is one of each."""
    firsts, most = [night.values[0] for night in nights], (HOLD * scale) ** 2

    def mean_square(lag: int, expected: float) -> float:
        squares = [min((new - old) ** 2 / 2, most) for old, new in zip(firsts, firsts[lag:], strict=False)]
        return (math.fsum(squares) + CARRY_WEIGHT * expected) / (len(squares) + CARRY_WEIGHT)

    if scale == 0:
        return CARRY
    near, far = mean_square(1, (1 - CARRY) * scale**2), mean_square(FAR, scale**2)
    return min(max(1 - near / far, 0.0), MAX_CARRY)


def _held(deviation: float) -> float:
    return max(-HOLD, min(HOLD, deviation))


def _squares(values: Sequence[float]) -> float:
    mean = fmean(values)
    return math.fsum((value - mean) ** 2 for value in values)
