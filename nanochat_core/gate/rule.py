"""A night's own evidence: a night that looks bad trains confirming seeds, up to three, before it is a regression.

First look: green unless the run is among the worst `DOUBT` of what the baseline predicts. Each further look is red
when the mean of the night would be so bad by chance in less than its share of `ALARMS`, green when it is less than
`RELIEF`, else asks for the next one; the last one decides. In a mean no look counts more than `CAP` standard deviations
worse than the others together: noise with heavy tails makes lone outliers, a regression is there each time. Where a
night's trainings share their noise (level.py) they confirm each other by chance, so the shares shrink with it.

Thresholds are for `BUDGET` false alarms a year, whatever the noise; another budget scales them. benchmarks/gate.py
simulates nights through these functions, docs/nightly.md has the table. Larger is worse.
"""

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Literal

from nanochat_core.gate.level import Level
from nanochat_core.record.significance import student_t_tail

BUDGET = 2.0  # false alarms a year, of a night's own evidence and that of many nights together
NIGHTS_A_YEAR = 365
MAX_LOOKS = 4
DOUBT = 0.20  # of the nights without a regression train a second seed
ALARMS = (0.0, 0.0008, 0.0017, 0.0028)  # by the number of looks
RELIEF = (DOUBT, 0.12, 0.06, 0.0)
ALONE = 0.20  # of two looks the second by itself must be among the worst fifth
CAP = 1.0
FEW = 2.0  # where few runs tell the location it is off alike every night: alarms come together, and are fewer
SHARED = 2.5  # exponent of the part of the noise that is not shared
READY_DEGREES = 23  # a baseline of 24: from here on 9 of 10 regressions of 3 sd are found

Outcome = Literal["green", "red", "unsure"]


def look(level: Level, values: Sequence[float], *, budget: float = BUDGET) -> Outcome:
    """The rule for one night with these trainings so far, at `budget` false alarms a year."""
    number = min(len(values), MAX_LOOKS)
    chance = p_value(level, values)
    if number > 1 and chance < alarm(level, number, budget=budget) and _is_confirmed(level, values):
        return "red"
    return "unsure" if chance < RELIEF[number - 1] else "green"


def alarm(level: Level, number: int, *, budget: float = BUDGET) -> float:
    """The chance below which a mean of so many looks is no chance."""
    few = 1 + FEW * (level.location_error / level.scale) ** 2 if level.scale else 1.0
    scaled = ALARMS[number - 1] * few * (1 - level.share) ** SHARED * budget / BUDGET
    return float(min(scaled, RELIEF[0] / 2))


def p_value(level: Level, values: Sequence[float]) -> float:
    """Chance of a night this bad or worse without a regression, one-sided."""
    looks = values[:MAX_LOOKS]
    return tail(level, combined(looks, CAP * level.scale) - level.location, len(looks))


def tail(level: Level, effect: float, number: int) -> float:
    """Chance that the mean of so many looks is this far above the location."""
    error = level.standard_error(number)
    if error == 0:
        return 0.5 if effect == 0 else float(effect < 0)
    return student_t_tail(effect / error, level.degrees)


def combined(values: Sequence[float], cap: float) -> float:
    """The mean of looks of which none counts more than `cap` worse than the mean of the others."""
    if len(values) == 1:
        return values[0]
    total, others = math.fsum(values), len(values) - 1
    return fmean(min(value, (total - value) / others + cap) for value in values)


def _is_confirmed(level: Level, values: Sequence[float]) -> bool:
    return len(values) != 2 or tail(level, values[1] - level.location, 1) < ALONE
