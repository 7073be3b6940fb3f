"""Which change made it worse, as probabilities: one hypothesis per change, and one that none did.

Measurements are noisy, so a bisection that believes each one blames somebody innocent (of 128 commits in a third to
nearly all searches, docs/nightly.md). Here each training shifts the odds of every hypothesis by its likelihood, the
next one is made where bad and good are equally likely, and a commit is named when it has `SURE` of the probability.
The noise's size, the size of the regression and the level of these trainings (a night has its own) are unknown and
summed over. Ben-Or and Hassidim 2008, "The Bayesian learner is optimal for noisy binary search".
"""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from nanochat_core.gate.level import Level

SURE = 0.95
NONE = 0.5  # before any training: most reds are true, and to blame nobody is right more often than to guess
EFFECTS_SD = (0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # equally likely; what is larger looks like the last one
SCALES = (0.7, 0.85, 1.0, 1.2, 1.45)  # of the standard deviation, by how well it is known
HOLD = 12.0  # standard deviations: no measurement says more than that
MAX_TRAININGS = 30

Array = NDArray[np.float64]


@dataclass
class Posterior:
    """Of a line of `num` versions, the first of them good: hypothesis i says that version i + 1 made it worse."""

    num: int
    level: Level
    values: list[tuple[int, float]] = field(default_factory=list)
    """(version, standard deviations above the level) of each training."""
    diverged: set[int] = field(default_factory=set)
    """Versions that train to nothing: bad without any noise."""

    def add(self, version: int, value: float) -> None:
        """A training's measurement, in the metric's unit; larger is worse."""
        deviation = (value - self.level.location) / self.level.scale if self.level.scale else 0.0
        self.values.append((version, max(-HOLD, min(HOLD, deviation))))

    def probabilities(self) -> Array:
        """Of each change (num - 1), then of none."""
        changes = np.arange(1, self.num)
        versions = np.array([version for version, _ in self.values], dtype=int)
        deviations = np.array([value for _, value in self.values], dtype=float)
        bad = versions[None, :] >= changes[:, None]
        count, total = bad.sum(axis=1), (bad * deviations[None, :]).sum(axis=1)
        shifted = np.stack([self._log_likelihood(deviations, count, total, effect) for effect in EFFECTS_SD])
        none = self._log_likelihood(deviations, np.zeros(1), np.zeros(1), 0.0)
        logs = np.append(_log_mean(shifted) + math.log((1 - NONE) / (self.num - 1)), none + math.log(NONE))
        for version in self.diverged:
            logs[np.append(changes > version, True)] = -np.inf
        weights = np.exp(logs - logs.max())
        return np.asarray(weights / weights.sum())

    def _log_likelihood(self, deviations: Array, count: Array, total: Array, effect: float) -> Array:
        """Of all measurements when those of `count` versions with this `total` are `effect` worse, up to a constant."""
        number = len(deviations)
        squares = (deviations**2).sum() - 2 * effect * total + effect**2 * count
        sums = deviations.sum() - effect * count
        degrees = max(self.level.degrees, 1.0)
        found = []
        for scale in SCALES:
            alone = (1 - self.level.share) * scale**2
            common = self.level.share * scale**2 + (self.level.location_error / (self.level.scale or 1.0)) ** 2
            whole = alone + number * common
            fit = -0.5 * (squares / alone - common * sums**2 / (alone * whole))
            size = -0.5 * ((number - 1) * math.log(alone) + math.log(whole)) if number else 0.0
            known = -0.5 * degrees * (1 / scale**2 + 2 * math.log(scale)) + 0.5 * degrees
            found.append(fit + size + known)
        return _log_mean(np.stack(found))

    def upcoming(self, skipped: frozenset[int] = frozenset()) -> int:
        """The version to train next: both ends once, then where bad and good are most nearly equally likely."""
        tried = Counter(version for version, _ in self.values)
        for end in (self.num - 1, 0):
            if end not in tried and end not in skipped and end not in self.diverged:
                return end
        is_bad = np.concatenate([[0.0], np.cumsum(self.probabilities()[:-1])])
        left = [version for version in range(self.num) if version not in skipped and version not in self.diverged]
        return min(left, key=lambda version: (round(abs(float(is_bad[version]) - 0.5), 3), tried[version]))

    def likeliest(self) -> list[int]:
        """The fewest versions that hold `SURE` of the probability, the likeliest first; 0 stands for none."""
        chances = self.probabilities()
        found, mass = list[int](), 0.0
        for place in np.argsort(-chances, kind="stable"):
            found.append(int(place) + 1 if place < self.num - 1 else 0)
            mass += chances[place]
            if mass >= SURE:
                break
        return found


def _log_mean(logs: Array) -> Array:
    """Over the first axis."""
    top = logs.max(axis=0)
    return np.asarray(top + np.log(np.exp(logs - top).mean(axis=0)))
