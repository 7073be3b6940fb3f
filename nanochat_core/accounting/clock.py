"""The clock of a record: seconds of training, from the step log alone.

Each kept step counts once, however often kills made the run take it again (the log holds kept steps only). The first
ten steps after each start warm up or compile, so they count at the median of all other steps: a resumed run then has
the clock of an unbroken one. How many may count so is bounded, or a log of nothing but starts would have the clock of
its fastest step. Validation, checkpoints and evaluations are not in it. nanochat's clock leaves its first
ten steps out altogether; `without_first_steps_s` is that figure, for comparing with its published records.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

WARMUP_STEPS = 10  # after each start: nanochat's number, too
# how many count at the median in all: those of two starts, or of more starts a tenth of the run
MAX_WARMUP_STEPS, MAX_WARMUP_FRAC = 2 * WARMUP_STEPS, 0.1


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What a step log says about time."""

    clock_s: float
    """Seconds of training; the record's time."""
    device_s: float
    """The same, each step times the processes that took it."""
    measured_s: float
    """Every kept step as measured, warm-up included."""
    without_first_steps_s: float
    """Every kept step but the first ten of the run: nanochat's definition."""
    num_steps: int
    num_starts: int
    num_warmup_steps: int
    """Steps that count at the median."""
    median_step_s: float | None
    """None: no step was past the warm-up, and all count as measured."""


@dataclass(frozen=True)
class _Step:
    number: int
    seconds: float
    world_size: int
    is_warm: bool


def read_clock(records: Iterable[Mapping[str, Any]]) -> Clock:
    """The clock of the kept steps in `records`, which must be sound (see step_log.py)."""
    steps, num_starts = _steps(records)
    steps = _bounded(steps)
    warm = [step.seconds for step in steps if step.is_warm]
    typical_s = median(warm) if warm else None
    counted = [step.seconds if step.is_warm or typical_s is None else typical_s for step in steps]
    return Clock(
        clock_s=sum(counted),
        device_s=sum(seconds * step.world_size for seconds, step in zip(counted, steps, strict=True)),
        measured_s=sum(step.seconds for step in steps),
        without_first_steps_s=sum(step.seconds for step in steps if step.number > WARMUP_STEPS),
        num_steps=len(steps),
        num_starts=num_starts,
        num_warmup_steps=0 if typical_s is None else len(steps) - len(warm),
        median_step_s=typical_s,
    )


def _bounded(steps: list[_Step]) -> list[_Step]:
    """The same, with no more steps of a warm-up than may be; later ones count as measured."""
    left = max(MAX_WARMUP_STEPS, int(MAX_WARMUP_FRAC * len(steps)))
    bounded = []
    for step in steps:
        left -= not step.is_warm
        bounded.append(step if left >= 0 or step.is_warm else replace(step, is_warm=True))
    return bounded


def _steps(records: Iterable[Mapping[str, Any]]) -> tuple[list[_Step], int]:
    """The kept steps, and how many attempts there were. A step that is there twice counts as it was taken last."""
    steps: dict[int, _Step] = {}
    num_starts, started_at, world_size = 0, 0, 1
    for record in records:
        if record["event"] == "start":
            num_starts, started_at, world_size = num_starts + 1, record["step"], record["world_size"]
        elif record["event"] == "step":
            number = record["step"]
            is_warm = number - started_at > WARMUP_STEPS
            steps[number] = _Step(number, record["step_ms"] / 1e3, world_size, is_warm)
    return [steps[number] for number in sorted(steps)], num_starts
