"""Nights without number: the rule on simulated noise, with what it then does. Also prints the table of the guide:

python tests/core/gate/simulation.py
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nanochat_core.gate import rule
from nanochat_core.gate.level import estimate_level

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
NUM_BASELINES, NUM_NIGHTS = 1000, 500  # rates are means over baselines: one that was lucky is seldom another
CASES = ((3, 0), (5, 0), (8, 0), (12, 0), (16, 0), (24, 0), (16, 30), (24, 30))


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape)


def heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t with 3 degrees of freedom, at a standard deviation of 1."""
    return rng.standard_t(3, size=shape) / math.sqrt(3)


def hiccups(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """One run in twenty scatters four times as much; standard deviation 1."""
    wide = np.where(rng.random(shape) < 0.05, 4.0, 1.0)
    return rng.normal(size=shape) * wide / math.sqrt(0.95 + 0.05 * 16)


NOISES: dict[str, Draw] = {"normal": normal, "heavy tails": heavy, "hiccups": hiccups}


@dataclass(frozen=True)
class Rates:
    """Shares of nights."""

    doubtful: float
    false_alarms: float
    power: float
    """At a shift of 3 standard deviations."""


def simulate(draw: Draw, *, num_runs: int, num_replicates: int, seed: int = 0) -> Rates:
    """The rule over many baselines of `num_runs`, with `num_replicates` further replicates in the history."""
    rng = np.random.default_rng(seed)
    doubtful, alarms, found = [], [], []
    for _ in range(NUM_BASELINES):
        values, further = draw(rng, (num_runs,)), draw(rng, (num_replicates,))
        level = estimate_level(values.tolist(), [further.tolist()])
        assert level is not None
        allowed = rule.limits(level)
        first, second = draw(rng, (2, NUM_NIGHTS))
        for shift, rates in ((0.0, alarms), (3.0, found)):
            asks = rule.is_doubtful(first + shift, level, allowed)
            red = asks & rule.is_regression(first + shift, second + shift, level, allowed)
            rates.append(red.mean())
            if not shift:
                doubtful.append(asks.mean())
    return Rates(float(np.mean(doubtful)), float(np.mean(alarms)), float(np.mean(found)))


def table() -> list[str]:
    """Rows of the guide's table."""
    rows = []
    for num_runs, num_replicates in CASES:
        for name, draw in NOISES.items():
            rates = simulate(draw, num_runs=num_runs, num_replicates=num_replicates)
            figures = f"{rates.doubtful:.1%} | {rates.false_alarms:.2%} | {rates.power:.1%}"
            rows.append(f"| {num_runs} | {num_replicates} | {name} | {figures} |")
    return rows


if __name__ == "__main__":
    print("\n".join(table()))
