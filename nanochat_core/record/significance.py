"""How sure a result is: Student's t, one-sided, from the scores of several seeds or from one score's standard error.

Written out because scipy is no dependency: the distribution function is a regularised incomplete beta function, by
its continued fraction (Lentz's method; DiDonato and Morris 1992 and Numerical Recipes, chapter 6.4, describe it).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_TERMS = 10_000
TINY = 1e-300  # in the place of a zero denominator


@dataclass(frozen=True, kw_only=True)
class Significance:
    """A mean against a threshold."""

    threshold: float
    num_values: int
    mean: float
    standard_deviation: float | None
    """Between seeds; None with one."""
    standard_error: float | None
    p_value: float | None
    """Chance of a mean this good or better if the truth were the threshold; None: cannot be said."""
    method: str


def above(values: Sequence[float], threshold: float, *, standard_error: float | None = None) -> Significance:
    """Whether the mean of `values` is above the threshold. With one value, by its own standard error where known."""
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        p_value = None
        if standard_error:
            p_value = 0.5 * math.erfc((mean - threshold) / standard_error / math.sqrt(2))
        method = (
            "normal, from the standard error of the one score" if p_value is not None else "one run: cannot be said"
        )
        return Significance(
            threshold=threshold, num_values=1, mean=mean, standard_deviation=None,
            standard_error=standard_error, p_value=p_value, method=method,
        )  # fmt: skip
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    error = deviation / math.sqrt(len(values))
    p_value = student_t_tail((mean - threshold) / error, len(values) - 1) if error > 0 else None
    return Significance(
        threshold=threshold,
        num_values=len(values),
        mean=mean,
        standard_deviation=deviation,
        standard_error=error,
        p_value=p_value,
        method="one-sided t-test over seeds",
    )


def below(values: Sequence[float], threshold: float) -> Significance:
    """Whether the mean of `values` is below the threshold; needs two values or more."""
    mirrored = above([-value for value in values], -threshold)
    return Significance(
        threshold=threshold,
        num_values=mirrored.num_values,
        mean=-mirrored.mean,
        standard_deviation=mirrored.standard_deviation,
        standard_error=mirrored.standard_error,
        p_value=mirrored.p_value,
        method=mirrored.method,
    )


def student_t_tail(t: float, degrees: float) -> float:
    """P(T > t) for Student's t with `degrees` of freedom."""
    half = 0.5 * incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))
    return half if t >= 0 else 1 - half


def incomplete_beta(a: float, b: float, x: float) -> float:
    """I_x(a, b), the regularised incomplete beta function, for 0 <= x <= 1."""
    if x <= 0 or x >= 1:
        return 0.0 if x <= 0 else 1.0
    log_front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    front = math.exp(log_front)
    if x < (a + 1) / (a + b + 2):  # the fraction converges fast on this side, the symmetry gives the other
        return front * _fraction(a, b, x) / a
    return 1 - front * _fraction(b, a, 1 - x) / b


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function."""
    c, d = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    result = d
    for m in range(1, MAX_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        before = result
        for term in (even, odd):
            d = 1 / _nonzero(1 + term * d)
            c = _nonzero(1 + term / c)
            result *= c * d
        if abs(result - before) <= 1e-15 * abs(result):
            break
    return result


def _nonzero(value: float) -> float:
    return value if abs(value) > TINY else TINY
