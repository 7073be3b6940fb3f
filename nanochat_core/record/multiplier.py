"""The compute multiplier: how many times less compute one run needs than another for the same bits per byte.

Read at the worse of the two final values: the better run reached it on the way, at a compute that is interpolated
between its validations (log FLOPs against bits per byte). So nothing is extrapolated, and a better run's multiplier is
an under-estimate: a run planned to end there would have lowered its learning rate by then. A better run that was below
the value at its first validation gives a bound only. The interval is a parametric bootstrap with the noise between
seeds; the default is the largest that was measured for a depth-24 model (relative 3e-5 to 8e-5).
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOISE_FRAC = 8e-5  # relative standard deviation of bits per byte between seeds
NUM_DRAWS = 2_000
INTERVAL_PERCENT = (2.5, 97.5)
Curve = Sequence[tuple[float, float]]  # (FLOPs, bits per byte), in order


@dataclass(frozen=True, kw_only=True)
class Multiplier:
    """Of run A over run B: above 1, A needs less compute."""

    value: float | None
    low: float | None
    high: float | None
    at_bits_per_byte: float | None
    is_bound: bool
    """The true value is further from 1 than `value`."""
    statement: str


def compute_multiplier(
    a: Curve, b: Curve, *, names: tuple[str, str] = ("A", "B"), noise_frac: float = NOISE_FRAC, seed: int = 0
) -> Multiplier:
    """The multiplier of A over B at equal bits per byte."""
    for name, curve in zip(names, (a, b), strict=True):
        if not curve:
            return refused(f"{name} has no validation in its log")
    better, worse = (a, b) if _is_better(a, b) else (b, a)
    first, last = names if better is a else names[::-1]
    target = worse[-1][1]
    if len(better) < 2 and better[-1][1] != target:
        return refused(f"{first} was validated only once: set pretrain.validate_every_steps to see its way")
    ratio = _ratio(a, b)
    is_bound = better[0][1] < target
    low, high = (None, None) if is_bound else _interval(a, b, noise_frac=noise_frac, seed=seed)
    share = 1 / ratio if better is a else ratio
    statement = (
        f"{first} is below {last}'s final {target:.4f} bits per byte at its first validation: this is a bound"
        if is_bound
        else f"{first} reaches {last}'s final {target:.4f} bits per byte with {share:.1%} of {last}'s compute"
    )
    return Multiplier(
        value=ratio, low=low, high=high, at_bits_per_byte=target, is_bound=is_bound, statement=statement
    )  # fmt: skip


def _is_better(a: Curve, b: Curve) -> bool:
    return a[-1][1] <= b[-1][1]


def _ratio(a: Curve, b: Curve) -> float:
    """Compute of B over that of A at the worse of the two final values."""
    if _is_better(a, b):
        return b[-1][0] / _compute_at(a, b[-1][1])
    return _compute_at(b, a[-1][1]) / a[-1][0]


def refused(statement: str) -> Multiplier:
    """No multiplier, and why."""
    return Multiplier(value=None, low=None, high=None, at_bits_per_byte=None, is_bound=False, statement=statement)


def _compute_at(curve: Curve, target: float) -> float:
    """FLOPs at which a curve first reaches `target`, which its last point does; its first where it began below."""
    if curve[0][1] <= target:
        return curve[0][0]
    for (before_flops, before), (flops, value) in itertools.pairwise(curve):
        if value <= target:
            share = (before - target) / (before - value)
            return math.exp(math.log(before_flops) + share * (math.log(flops) - math.log(before_flops)))
    return curve[-1][0]


def _interval(a: Curve, b: Curve, *, noise_frac: float, seed: int) -> tuple[float, float]:
    """How far the ratio moves when both runs are shifted by the noise between seeds.

    A seed shifts a whole curve: neighbouring validations of one run move together.
    """
    shifts = np.random.default_rng(seed).normal(0.0, noise_frac, size=(NUM_DRAWS, 2))
    ratios = [_ratio(_shifted(a, own), _shifted(b, other)) for own, other in shifts]
    low, high = np.percentile(ratios, INTERVAL_PERCENT)
    return float(low), float(high)


def _shifted(curve: Curve, frac: float) -> Curve:
    return [(flops, value * (1 + frac)) for flops, value in curve]
