"""What a night is by bits per byte: its own evidence, a regression that is not over, or many nights together.

In this order, and the first that says red decides; nights that look bad together train further seeds first, as one that
looks bad alone does. Each regression that is over leaves less of the budget to the next one by many nights. Pure and
small, because the simulation of benchmarks/gate.py lives whole years through it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from nanochat_core.gate import rule, trend
from nanochat_core.gate.level import Level, Looks

IMPROVED = 0.01  # chance below which better nights are a better level
HOLD = 4.0  # standard deviations that a better night counts at most: at trend.HOLD one night's baseline hides all


@dataclass(frozen=True)
class Found:
    """What a night was found to be."""

    outcome: rule.Outcome
    decided_by: str
    effect: float
    """Above the location, in the metric's own unit."""
    p_value: float
    first: tuple[int, int] | None = None
    """The nights between which the level changed, counted back from tonight (0); both are possible."""
    is_improved: bool = False
    """The level is better than the baseline's, by several nights."""


def weigh(level: Level, tonight: Looks, later: Sequence[Looks], *, budget: float = rule.BUDGET) -> Found:
    """Judge a night after the nights `later` since the baseline, oldest first, at `budget` false alarms a year."""
    own = rule.look(level, tonight.values, budget=budget)
    effect = rule.combined(tonight.values, rule.CAP * level.scale) - level.location
    plain = Found(own, "this night", effect, rule.p_value(level, tonight.values))
    if own != "green":
        return plain
    calm = len(later)  # after it the nights were no regression
    while calm and not later[calm - 1].is_red:
        calm -= 1
    begin = calm
    while begin and later[begin - 1].is_red:
        begin -= 1
    size = later[begin].effect_sd if begin < calm == len(later) else None
    if size is not None and not trend.is_over([*later[begin + 1 :], tonight], level, size * level.scale):
        return replace(plain, outcome="red", decided_by="a regression that is not over", first=(calm - begin,) * 2)
    nights = [*later[calm:], tonight]
    worse, better = trend.evidence(nights, level), trend.evidence(_mirrored(nights), _mirror(level), hold=HOLD)
    budget /= 1 + num_regressions(later)
    if worse is not None and trend.is_alarm(worse, level, budget=budget):
        return Found("red", f"{worse.num_nights} nights together", worse.effect, worse.p_value, worse.first)
    if len(tonight.values) < rule.MAX_LOOKS and trend.is_suspect(worse, level, budget=budget):
        return replace(plain, outcome="unsure")
    if better is not None and better.p_value < IMPROVED:
        return replace(plain, first=better.first, is_improved=True)
    return plain


def num_regressions(nights: Sequence[Looks]) -> int:
    """Runs of red nights: over a baseline that was better than its level by luck there are ever more of them."""
    return sum(red and not before for before, red in pairwise([False, *(night.is_red for night in nights)]))


def _mirror(level: Level) -> Level:
    return replace(level, location=-level.location)


def _mirrored(nights: Sequence[Looks]) -> list[Looks]:
    return [Looks(night.recipe, tuple(-value for value in night.values)) for night in nights]
