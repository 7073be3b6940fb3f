"""The two-look rule: a night that looks bad trains one confirming seed before it is called a regression.

First look: green unless the run is in the worst `DOUBT` of what the baseline predicts. Second look: red when the mean
of both runs would be that bad by chance in less than `ALARM` of all nights and the second run alone looks worse, too.
In that mean the first run counts at most `CAP` standard deviations worse than the second: noise with heavy tails makes
lone outliers, a regression is there twice. Tails are Student's t with the baseline's degrees of freedom, so a small
baseline asks for a larger effect and raises no more false alarms. tests/core/gate simulates the rule; docs/nightly.md
has its error rates. Everything is oriented so that larger is worse, and takes numbers or numpy arrays of them.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from nanochat_core.gate.level import Level
from nanochat_core.record.significance import student_t_tail

DOUBT = 0.20  # of the nights without a regression train a second seed
ALARM = 0.0078  # simulated false alarms are then at most 1 in 100, heavy tails included
ALONE = 0.20  # the second run by itself must be among the worst fifth
CAP = 2.0
READY_DEGREES = 23  # a baseline of 24: from here on 9 of 10 regressions of 3 sd are found

Outcome = Literal["green", "red", "unsure"]


@dataclass(frozen=True)
class Limits:
    """Distances from the location, in the metric's own unit, that the rule compares with."""

    doubt: float
    alarm: float
    alone: float
    cap: float


def limits(level: Level) -> Limits:
    """What the rule allows at a baseline of this level."""
    first, both = level.standard_error(1), level.standard_error(2)
    return Limits(
        doubt=quantile(DOUBT, level.degrees) * first,
        alarm=quantile(ALARM, level.degrees) * both,
        alone=quantile(ALONE, level.degrees) * first,
        cap=CAP * level.scale,
    )


def is_doubtful(first: Any, level: Level, allowed: Limits) -> Any:
    """Whether the first run asks for a second one."""
    return first - level.location > allowed.doubt


def is_regression(first: Any, second: Any, level: Level, allowed: Limits) -> Any:
    """Whether two runs together are one; says nothing of a first run that is not doubtful."""
    mean = combined(first, second, allowed.cap)
    return (mean - level.location > allowed.alarm) & (second - level.location > allowed.alone)


def combined(first: Any, second: Any, cap: float) -> Any:
    """The mean of two runs in which the first is held back."""
    excess = first - second - cap
    return (first + second - excess * (excess > 0)) / 2


def look(level: Level, first: float, second: float | None = None) -> Outcome:
    """The rule for one night."""
    allowed = limits(level)
    if not is_doubtful(first, level, allowed):
        return "green"
    if second is None:
        return "unsure"
    return "red" if is_regression(first, second, level, allowed) else "green"


def p_value(level: Level, first: float, second: float | None = None) -> float:
    """Chance of a night this bad or worse without a regression, one-sided."""
    mean = first if second is None else combined(first, second, CAP * level.scale)
    error = level.standard_error(1 if second is None else 2)
    if error == 0:
        return 0.5 if mean == level.location else float(mean < level.location)
    return student_t_tail((mean - level.location) / error, level.degrees)


@lru_cache(maxsize=1024)
def quantile(tail: float, degrees: int) -> float:
    """t with P(T > t) = `tail`, by bisection; `tail` is below a half."""
    low, high = 0.0, 1.0
    while student_t_tail(high, degrees) > tail:
        high *= 2
    while not math.isclose(low, high, rel_tol=1e-9):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_tail(middle, degrees) > tail else (low, middle)
    return high
