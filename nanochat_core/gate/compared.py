"""The other metrics beside bits per byte: CORE, memory and speed, each by a rule that hardly ever errs.

A metric warns past its tolerance and 3 standard deviations. Memory is as good as constant, so 2% and 6 standard
deviations fail a night. Speed moves from night to night by more than it scatters within one, so two nights in a row
fail, past 3% and what one night in 200 is off by; on a CPU, which others use as well, it only warns. What is slower
only because the machine is (products of matrices are timed when a training begins) is no fault of the code: speed has
to be worse as measured and at the baseline's speed of products. Both are compared with runs of equal `runtime.*`
settings. What the baseline has and tonight has not, or is no number, is said, and is red for CORE; what is far too good
(a leak, a log that counts nothing) is said as well. Larger effects are worse.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Literal

from nanochat_core.gate import rule
from nanochat_core.gate.level import Level, plain_level
from nanochat_core.gate.metrics import MACHINE, PRIMARY, NightRun

WARN_SD, FAIL_SD, SUSPECT_SD = 3.0, 6.0, 8.0
SPEED_TAIL = 0.005  # of nights, by which one night's limit of the speed is passed without a reason
USUAL = 0.5  # of the baseline's runs have what is missed

State = Literal["ok", "better", "warn", "fail", "lost", "suspect"]
WORSE: tuple[State, ...] = ("warn", "fail")


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure and its limits, as fractions of the baseline."""

    name: str
    label: str
    is_better_high: bool
    tolerance: float
    fail: float | None
    """None: it never fails a night."""
    suspect: float
    """Better by more than this is too good to be true."""
    kind: Literal["quality", "memory", "speed", "machine"]


def _speed(
    name: str, label: str, *, tolerance: float, fail: float | None = None, is_better_high: bool = False
) -> Metric:
    return Metric(
        name=name, label=label, is_better_high=is_better_high, tolerance=tolerance, fail=fail, suspect=0.5, kind="speed"
    )  # fmt: skip


METRICS = (
    Metric(name=PRIMARY, label="bits per byte", is_better_high=False, tolerance=0.0, fail=None, suspect=0.03,
           kind="quality"),
    Metric(name="core", label="CORE", is_better_high=True, tolerance=0.05, fail=0.30, suspect=0.5, kind="quality"),
    _speed("tokens_per_s", "tokens/s", tolerance=0.03, fail=0.03, is_better_high=True),
    _speed("bf16_mfu", "bf16 MFU", tolerance=0.03, is_better_high=True),
    Metric(name="memory_gib", label="peak memory, GiB", is_better_high=False, tolerance=0.02, fail=0.02, suspect=0.5,
           kind="memory"),
    _speed("warmup_s", "compile and warm-up, s", tolerance=0.5),
    _speed("step_ms_p50", "step, median ms", tolerance=0.03),
    _speed("step_ms_p95", "step, 95th percentile ms", tolerance=0.10),
    _speed("step_ms_p99", "step, 99th percentile ms", tolerance=0.25),
    Metric(name=MACHINE, label="machine, TFLOP/s of a product", is_better_high=True, tolerance=0.03, fail=None,
           suspect=0.5, kind="machine"),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric against the baseline."""

    name: str
    label: str
    value: float | None
    """Mean of the night's runs; None: it is lost."""
    location: float
    scale: float
    effect_sd: float | None
    """None: the scale is 0, or the metric is lost."""
    effect_frac: float | None
    state: State
    told: str = ""
    """What is the matter, in words."""


def compare(
    runs: Sequence[NightRun], baseline: Sequence[NightRun], last_night: Sequence[NightRun], primary: Level | None
) -> tuple[Row, ...]:
    """Every metric that the baseline has; without a level of bits per byte (`primary`), the others.

    `last_night`: the comparable night before, for speed.
    """
    rows = (_row(metric, runs, baseline, last_night, primary) for metric in METRICS)
    return tuple(row for row in rows if row is not None)


def _row(
    metric: Metric,
    runs: Sequence[NightRun],
    baseline: Sequence[NightRun],
    last_night: Sequence[NightRun],
    primary: Level | None,
) -> Row | None:
    if metric.kind != "quality":
        baseline, last_night = _alike(runs[0], baseline), _alike(runs[0], last_night)
    before = _values(metric, baseline)
    level = primary if metric.name == PRIMARY else plain_level(before)
    if level is None:
        return None
    values = _values(metric, runs)
    row = partial(Row, name=metric.name, label=metric.label, location=level.location, scale=level.scale)
    if len(values) < len(runs):
        if len(before) < USUAL * len(baseline):
            return None
        broken = any(metric.name in run.not_finite for run in runs)
        state: State = "fail" if metric.name == "core" or (broken and metric.kind == "quality") else "lost"
        words = "is no number" if broken else "is missing, and the baseline has it"
        return row(value=None, effect_sd=None, effect_frac=None, state=state, told=words)
    value, base = fmean(values), abs(level.location)
    state, effect = _state(metric, runs, last_night, level)
    frac = effect / base if base else 0.0
    far = {"suspect": ": too good to be true, look for a leak or a broken measure"}.get(state, "")
    if metric.kind == "speed" and state in WORSE and (equal := _at_equal_speed(metric, runs, baseline, last_night)):
        state = min(state, equal.state, key=lambda each: WORSE.index(each) if each in WORSE else -1)
        far = f", {abs(equal.frac):.1%} {'worse' if equal.frac > 0 else 'better'} at equal speed of the machine"
    words = f"is {abs(frac):.1%} {'worse' if effect > 0 else 'better'}{far}"
    in_sd = effect / level.scale if level.scale else None
    return row(value=value, effect_sd=in_sd, effect_frac=frac, state=state, told=words)


@dataclass(frozen=True)
class _Equal:
    """A speed as it would be if the machine multiplied matrices as fast as the baseline's did."""

    state: State
    frac: float


def _at_equal_speed(
    metric: Metric, runs: Sequence[NightRun], baseline: Sequence[NightRun], last_night: Sequence[NightRun]
) -> _Equal | None:
    """None where one of them did not measure its machine."""
    if not all(run.metrics.get(MACHINE) for run in (*runs, *baseline, *last_night)):
        return None
    usual = fmean(run.metrics[MACHINE] for run in baseline)

    def scaled(run: NightRun) -> NightRun:
        faster = usual / run.metrics[MACHINE]
        value = run.metrics.get(metric.name)
        if value is None:
            return run
        return dataclasses.replace(
            run, metrics={metric.name: value * faster if metric.is_better_high else value / faster}
        )

    ours, theirs, last = ([scaled(run) for run in each] for each in (runs, baseline, last_night))
    level = plain_level(_values(metric, theirs))
    if level is None:
        return None
    state, effect = _state(metric, ours, last, level)
    return _Equal(state, effect / abs(level.location) if level.location else 0.0)


def _state(
    metric: Metric, runs: Sequence[NightRun], last_night: Sequence[NightRun], level: Level
) -> tuple[State, float]:
    """And by how much the night is worse."""
    sign = -1.0 if metric.is_better_high else 1.0
    effects, last = ([sign * (each - level.location) for each in _values(metric, of)] for of in (runs, last_night))
    return _judged(metric, runs[0], effects, last, level), fmean(effects)


def _judged(metric: Metric, run: NightRun, effects: list[float], last: list[float], level: Level) -> State:
    base, effect = abs(level.location), fmean(effects)
    is_machine_ours = str(run.conditions.get("device")) != "cpu"
    if metric.fail is not None:
        if metric.kind == "speed":
            both = min(effect, fmean(last)) if last else 0.0  # tonight's and the last night's, the better of them
            if is_machine_ours and both > metric.fail * base and rule.tail(level, both, 1) < SPEED_TAIL:
                return "fail"
        elif min(effects) > max(metric.fail * base, FAIL_SD * level.scale):
            return "fail"
    warned = max(metric.tolerance * base, WARN_SD * level.scale)
    if effect > warned:
        return "warn"
    if -effect > max(metric.suspect * base, SUSPECT_SD * level.scale):
        return "suspect"
    return "better" if -effect > warned else "ok"


def _alike(run: NightRun, runs: Sequence[NightRun]) -> list[NightRun]:
    return [each for each in runs if each.runtime == run.runtime]


def _values(metric: Metric, runs: Sequence[NightRun]) -> list[float]:
    return [run.metrics[metric.name] for run in runs if metric.name in run.metrics]
