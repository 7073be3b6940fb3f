"""Years of nights and searches through the gate's own functions: how often they are wrong, and what they find.

    python -m benchmarks.gate [--worlds 200] [--processes 2] [--out table.md]

A world is a baseline of so many nights with one training each, then nights with up to four trainings, as the rule asks
for them. Noises have a standard deviation of 1: normal; heavy tails (Student's t with 3 degrees); skewed (lognormal,
0.6); one training in 50 off by 10 more; and nights that share a part of their noise with all their trainings and carry
it over to the next night (both 0.3, 0.5 or 0.7). Every night has a recipe of its own, what is expected of the noise
beforehand is wrong by up to 25% either way, and nobody mends anything. An alarm is a red night after a week without
one. Pairs (gate/probe.py): what a probe of a changed code finds where twins correlate so. docs/nightly.md has the
tables.
"""

import argparse
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nanochat_core.gate import rule
from nanochat_core.gate.evidence import Found, weigh
from nanochat_core.gate.level import Level, Looks, estimate_level
from nanochat_core.gate.metrics import PRIMARY, NightRun
from nanochat_core.gate.posterior import MAX_TRAININGS, Posterior
from nanochat_core.gate.probe import NUM_TWINS, SEEDS, Probe, compare_pairs
from nanochat_core.gate.verdict import judge

YEAR, WEEK = 365, 7
BASE = 100.0  # bits per byte of the world, in standard deviations; noise is 1% of it
Rng = np.random.Generator
Shift = Callable[[np.ndarray], np.ndarray]


def normal(rng: Rng, nights: int) -> np.ndarray:
    return rng.normal(size=(nights, rule.MAX_LOOKS))


def heavy(rng: Rng, nights: int) -> np.ndarray:
    return rng.standard_t(3, size=(nights, rule.MAX_LOOKS)) / math.sqrt(3)


def skewed(rng: Rng, nights: int) -> np.ndarray:
    drawn, mean = rng.lognormal(0, 0.6, size=(nights, rule.MAX_LOOKS)), math.exp(0.18)
    return (drawn - mean) / (mean * math.sqrt(math.exp(0.36) - 1))


def carried(share: float, rng: Rng, nights: int) -> np.ndarray:
    """A night's effect with this share of the variance, and this correlation with the next night's."""
    effect = np.empty(nights)
    effect[0] = rng.normal()
    for night in range(1, nights):
        effect[night] = share * effect[night - 1] + math.sqrt(1 - share**2) * rng.normal()
    return math.sqrt(share) * effect[:, None] + math.sqrt(1 - share) * rng.normal(size=(nights, rule.MAX_LOOKS))


def with_outliers(rng: Rng, nights: int) -> np.ndarray:
    """One training in 50 is 10 standard deviations worse."""
    values = rng.normal(size=(nights, rule.MAX_LOOKS))
    return values + 10 * (rng.random(values.shape) < 1 / 50)


NOISES: dict[str, Callable[[Rng, int], np.ndarray]] = {
    "normal": normal,
    "heavy tails": heavy,
    "skewed": skewed,
    "outliers": with_outliers,
    "carried 0.3": partial(carried, 0.3),
    "carried 0.5": partial(carried, 0.5),
    "carried 0.7": partial(carried, 0.7),
}
BASELINES = (3, 5, 8, 16, 24)


@dataclass
class Lived:
    """What became of a world's nights."""

    is_red: list[bool] = field(default_factory=list)
    trainings: int = 0

    @property
    def alarms(self) -> int:
        """Red nights after a week without one."""
        return sum(red and not any(self.is_red[max(0, night - WEEK) : night]) for night, red in enumerate(self.is_red))


def live(baseline: list[Looks], drawn: np.ndarray, *, prior_frac: float, budget: float = rule.BUDGET) -> Lived:
    """Judge nights in order; `drawn` (nights, looks) is what each training would measure."""
    lived, later = Lived(), list[Looks]()
    for values in drawn.tolist():
        level = estimate_level(baseline, later, prior_frac=prior_frac)
        assert level is not None
        looks, found = judged(level, values, later, budget=budget)
        red = found.outcome == "red"
        later.append(replace(looks, recipe=f"{len(later)}", is_red=red, effect_sd=found.effect / level.scale))
        lived.is_red.append(red)
        lived.trainings += len(looks.values)
    return lived


def judged(level: Level, values: list[float], later: list[Looks], *, budget: float) -> tuple[Looks, Found]:
    """A night's trainings, as many as the rule asks for, and what it is by them."""
    for number in range(1, len(values) + 1):
        looks = Looks("tonight", tuple(values[:number]))
        found = weigh(level, looks, later, budget=budget)
        if found.outcome != "unsure":
            break
    return looks, found


def world(
    noise: str, runs: int, seed: int, *, nights: int, shift: Shift | None = None, old: Shift | None = None
) -> Lived:
    """`shift`: what is added to night i of the year; `old`: to run i of the baseline."""
    rng = np.random.default_rng([seed, runs, *noise.encode()])
    values = NOISES[noise](rng, runs + nights)
    if old is not None:
        values[:runs] += old(np.arange(runs))[:, None]
    if shift is not None:
        values[runs:] += shift(np.arange(nights))[:, None]
    values += BASE
    baseline = [Looks(f"before {place}", (float(value),)) for place, value in enumerate(values[:runs, 0])]
    return live(baseline, values[runs:], prior_frac=math.exp(rng.uniform(-0.25, 0.25)) / BASE)


def year(noise: str, runs: int, seed: int) -> tuple[int, float]:
    """Alarms of a year without a change, and trainings a night."""
    lived = world(noise, runs, seed, nights=YEAR)
    return lived.alarms, lived.trainings / YEAR


def found(runs: int, seed: int, *, size: float, calm: int = 30, improved: float = 0.0) -> tuple[bool, bool]:
    """A shift after `calm` nights of normal noise: red in its first night; red within a week.

    `improved`: the newer half of the baseline, and all nights, are better by so much.
    """
    lived = world(
        "normal", runs, seed, nights=calm + WEEK,
        shift=lambda night: size * (night >= calm) - improved,
        old=lambda run: -improved * (run >= runs // 2),
    )  # fmt: skip
    return lived.is_red[calm], any(lived.is_red[calm:])


def crept(seed: int, *, per_night: float, nights: int = 60) -> tuple[bool, bool]:
    """After 30 calm nights the level is worse by so much more every night: red in a month of it; in `nights`."""
    lived = world("normal", 24, seed, nights=30 + nights, shift=lambda night: per_night * np.maximum(0, night - 29))
    return any(lived.is_red[30:60]), any(lived.is_red[30:])


def vanished(name: str, seed: int) -> tuple[bool, bool]:
    """A night without a metric that the baseline has: red; said."""
    rng = np.random.default_rng([seed, *name.encode()])

    def run(number: int, left_out: str = "") -> NightRun:
        noise = rng.normal(size=2) / 100
        metrics = {PRIMARY: 1 + noise[0], "core": 0.2 + noise[1], "tokens_per_s": 1e3, "memory_gib": 1.0}
        kept = {key: float(value) for key, value in metrics.items() if key != left_out}
        return NightRun(seed=number, recipe="", fingerprint=f"{number}", metrics=kept, conditions={}, night=f"{number}")

    before, tonight, outcome = [run(number) for number in range(24)], list[NightRun](), "unsure"
    while outcome == "unsure":
        tonight.append(run(100 + len(tonight), name))
        verdict = judge(tonight, before, prior_frac=0.01)
        outcome = verdict.outcome
    return outcome == "red", "is missing" in "; ".join([verdict.summary, *verdict.notes])


def search(num_changes: int, size: float, seed: int, *, runs: int = 10) -> tuple[str, int]:
    """A search among so many changes, one of them `size` worse (0: none): right, wrong or open; its trainings."""
    rng = np.random.default_rng([seed, num_changes, round(10 * size)])
    baseline = [Looks(f"{place}", (BASE + float(value),)) for place, value in enumerate(rng.normal(size=runs))]
    level = estimate_level(baseline, prior_frac=math.exp(rng.uniform(-0.25, 0.25)) / BASE)
    assert level is not None
    culprit = int(rng.integers(1, num_changes + 1)) if size else 0
    posterior = Posterior(num_changes + 1, level)
    while len(posterior.values) < MAX_TRAININGS:
        version = posterior.upcoming()
        posterior.add(version, BASE + float(rng.normal()) + size * bool(culprit and version >= culprit))
        if len(posterior.values) > 2 and len(posterior.likeliest()) == 1:
            answer = posterior.likeliest()[0]
            return "right" if answer == culprit else "wrong" if answer else "open", len(posterior.values)
    return "open", MAX_TRAININGS


def pair(correlation: float, size: float, seed: int) -> tuple[bool, bool]:
    """A probe that is `size` worse, where two trainings of a seed correlate so: red; whether pairs decide."""
    rng = np.random.default_rng([seed, round(1e6 * correlation), round(100 * size)])
    twin_sd = math.sqrt(2 * (1 - correlation)) / BASE

    def probe(values: np.ndarray) -> Probe:
        runs = [NightRun(seed=one, recipe="", fingerprint="", metrics={PRIMARY: float(value)}, conditions={})
                for one, value in zip(SEEDS, values, strict=True)]  # fmt: skip
        return Probe(0, "", "", tuple(runs))

    before = BASE + rng.normal(size=len(SEEDS))
    tonight = before * (1 + rng.normal(size=len(SEEDS)) * twin_sd) + size
    pairs = compare_pairs(probe(tonight), probe(before), (rng.normal(size=NUM_TWINS) * twin_sd).tolist())
    assert pairs is not None
    return pairs.is_red(budget=rule.BUDGET), pairs.pays


def tasks() -> Iterator[tuple[str, str, Callable[[int], Any], Callable[[list[Any]], str]]]:
    """(table, row, one world by its seed, what all of them come to)."""
    for noise in NOISES:
        for runs in BASELINES:
            yield "years", f"{noise} | {runs}", partial(year, noise, runs), _years
    for runs in BASELINES:
        yield "found", f"3 sd, baseline of {runs}", partial(found, runs, size=3.0), _first
    for improved in (1.0, 2.0, 3.0, 5.0):
        told = f"3 sd, after an improvement of {improved:.0f} sd and `promote`"
        yield "found", told, partial(found, 24, size=3.0, improved=improved), _first
    yield "found", "3 sd, after 365 changes of recipe", partial(found, 24, size=3.0, calm=YEAR), _first
    yield "found", "2 sd, baseline of 24", partial(found, 24, size=2.0), _first
    yield "found", "1 sd, within a week, after a month", partial(found, 24, size=1.0), _week
    yield "found", "1 sd, within a week, after half a year", partial(found, 24, size=1.0, calm=180), _week
    for per_night in (0.02, 0.05, 0.1):
        yield "found", f"a creep of {per_night} sd a night, in a month", partial(crept, per_night=per_night), _first
        yield "found", f"a creep of {per_night} sd a night, in two", partial(crept, per_night=per_night), _week
    for name, is_told in (("core", "CORE vanished"), ("tokens_per_s", "tokens/s vanished")):
        yield "found", is_told, partial(vanished, name), _told
    for changes in (8, 32, 128):
        for size in (0.0, 1.0, 2.0, 3.0):
            told = f"{changes} | {f'{size:.0f} sd' if size else 'none'}"
            yield "searches", told, partial(search, changes, size), _searches

    for correlation in (0.9999, 0.99, 0.9, 0.6):
        for size in (0.0, 0.1, 0.25, 0.5, 1.0):
            told = f"{correlation} | {f'{size:g} sd' if size else 'none'}"
            yield "pairs", told, partial(pair, correlation, size), _pairs


def _years(lived: list[tuple[int, float]]) -> str:
    alarms = [alarm for alarm, _ in lived]
    return f"{np.mean(alarms):.2f} | {np.percentile(alarms, 95):.0f} | {np.mean([each for _, each in lived]):.2f}"


def _first(results: list[tuple[bool, bool]]) -> str:
    return f"{np.mean([first for first, _ in results]):.0%}"


def _told(results: list[tuple[bool, bool]]) -> str:
    red, said = np.mean(results, axis=0)
    return f"{red:.0%} red, {said:.0%} said"


def _week(results: list[tuple[bool, bool]]) -> str:
    return f"{np.mean([week for _, week in results]):.0%}"


def _pairs(results: list[tuple[bool, bool]]) -> str:
    return " | ".join(f"{np.mean(each):.2%}" for each in zip(*results, strict=True))


def _searches(results: list[tuple[str, int]]) -> str:
    shares = [np.mean([outcome == wanted for outcome, _ in results]) for wanted in ("right", "wrong")]
    return " | ".join([*(f"{share:.0%}" for share in shares), f"{np.mean([number for _, number in results]):.1f}"])


HEADERS = {
    "years": ("noise", "baseline", "false alarms a year", "worst 5%", "trainings a night"),
    "found": ("regression", "found"),
    "pairs": ("correlation", "regression", "red", "pairs decide"),
    "searches": ("changes", "regression", "right", "wrong", "trainings"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=200)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", choices=list(HEADERS), help="one table")
    parser.add_argument("--rows", default="", help="only those whose name holds this")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    lines, last = list[str](), ""
    with ProcessPoolExecutor(options.processes) as pool:
        for table, row, one, told in tasks():
            if options.only not in (None, table) or options.rows not in row:
                continue
            if table != last:
                lines += ["", f"| {' | '.join(HEADERS[table])} |", "|" + "---|" * len(HEADERS[table])]
            last = table
            results = list(pool.map(one, range(options.worlds), chunksize=8))
            lines.append(f"| {row} | {told(results)} |")
            print(lines[-1], flush=True)
    if options.out:
        options.out.write_text("\n".join(lines[1:]) + "\n")


if __name__ == "__main__":
    main()
