"""The evidence of many nights: a shift that no single night shows is there every night.

Two questions. Whether the last nights together are worse than the baseline by more than chance (`evidence`): means of
the last 3 to 14 nights, each weighted by what is known of it, the worst of them counts. And whether a regression that
was found is over (`is_over`): by the likelihood of the nights since under the baseline's level against the shifted one,
so that a lasting shift stays red and a false alarm is gone with the next good nights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nanochat_core.gate import rule
from nanochat_core.gate.level import Level, Looks
from nanochat_core.record.significance import student_t_tail

MIN_NIGHTS, MAX_NIGHTS = 3, 14
ALARM = 0.028  # for rule.BUDGET, where nights are independent
SUSPECT = 0.3  # nights together that look so bad train further seeds
CARRIED = 2.0  # exponent of what is not carried over
HOLD = 2.0  # standard deviations above the baseline that a night counts at most: one night is no trend
LIKELY = 20.0  # a shift may have begun where the mean since then is at most so many times as likely by chance
OVER = 4.0  # log of the odds that a regression is over
LEAST_SD = 0.5  # a shift below it is not told from none in a month


@dataclass(frozen=True)
class Trend:
    """The worst of the last nights' means."""

    p_value: float
    num_nights: int
    """That it is the mean of."""
    effect: float
    """Above the location, in the metric's own unit."""
    first: tuple[int, int]
    """The nights between which the shift began, counted back from tonight (0); both are possible."""


def evidence(nights: Sequence[Looks], level: Level, *, hold: float = HOLD) -> Trend | None:
    """What the last nights say together; `nights`: those since the baseline, tonight last. None: too few."""
    weighted = _weighted(nights, level, hold)
    if len(weighted) < MIN_NIGHTS:
        return None
    chances, weights, sums = list[float](), 0.0, 0.0
    means = []
    for weight, effect in weighted:
        weights, sums = weights + weight, sums + weight * effect
        error = math.sqrt(level.scale**2 * weights + (weights * level.location_error) ** 2)
        chances.append(student_t_tail(sums / error, level.degrees) if error else 0.5)
        means.append(sums / weights)
    places = range(MIN_NIGHTS - 1, len(chances))
    worst = min(places, key=lambda place: chances[place])
    likely = [place for place in places if chances[place] < LIKELY * chances[worst]]
    return Trend(
        p_value=chances[worst], num_nights=worst + 1, effect=means[worst], first=(max(likely), min(likely))
    )  # fmt: skip


def is_alarm(trend: Trend | None, level: Level, *, budget: float = rule.BUDGET) -> bool:
    """Whether that is a regression, at `budget` false alarms a year."""
    return trend is not None and trend.p_value < min(_allowed(ALARM, level, budget), 0.1)


def is_suspect(trend: Trend | None, level: Level, *, budget: float = rule.BUDGET) -> bool:
    """Whether further trainings tonight are worth their price: they tell more of a shift that may be there."""
    return trend is not None and trend.p_value < min(_allowed(SUSPECT, level, budget), 0.4)


def is_over(nights: Sequence[Looks], level: Level, effect: float) -> bool:
    """Whether a regression of this effect has gone, by the nights since it was found (tonight last)."""
    effect = max(effect, LEAST_SD * level.scale)
    odds = 0.0
    for weight, deviation in reversed(_weighted(nights, level)):
        odds = max(-OVER, odds + weight * effect * (effect / 2 - deviation) / level.scale**2)
    return odds > OVER


def _allowed(share: float, level: Level, budget: float) -> float:
    return share * (1 - level.decay) ** CARRIED * budget / rule.BUDGET


def _weighted(nights: Sequence[Looks], level: Level, hold: float = HOLD) -> list[tuple[float, float]]:
    """(weight, effect) of the last nights, tonight first; a weight is 1 over the variance, in units of `scale`."""
    found = []
    for night in reversed(nights[-MAX_NIGHTS:]):
        looks = night.values[: rule.MAX_LOOKS]
        variance = level.share + level.inflation - 1 + (1 - level.share) / len(looks)
        effect = min(rule.combined(looks, rule.CAP * level.scale) - level.location, hold * level.scale)
        found.append((1 / variance, effect))
    return found
