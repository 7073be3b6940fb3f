"""What a run cost: seconds and dollars of each step by bucket, and the chain of steps that decides how long it takes.

Pure: from the refs (who took how long and depends on whom), the attempts in the training logs and a price. The buckets
of a step add up to its seconds; what the log does not name (starting processes, loading, compiling) is `start`. A
training that kept a timesheet says itself where each second of all its attempts went (train/tries.py). A step or an
attempt of an earlier run is counted apart, since this run did not pay for it. All steps are priced as if the machine
that trained was rented for them too, which is so when one machine does everything.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nanochat_core.config import RuntimeConfig
from nanochat_core.plan import GPUS
from nanochat_core.report.attempts import Attempt

if TYPE_CHECKING:
    from nanochat_core.pipeline.step import Ref

BUCKETS = {
    "start": "start-up, compiling, other",
    "compile": "compiling",
    "train": "training steps",
    "evaluate": "evaluation",
    "checkpoint": "checkpoints",
    "upload": "export and last upload",
    "lost": "lost to interruptions",
    "steps": "other steps",
}
TRAININGS = ("pretrain", "sft", "rl")
EVALUATIONS = ("evaluate_", "benchmark_")  # how their names begin


@dataclass(frozen=True)
class Rate:
    """The price of the machine that trained."""

    machine: str
    usd_per_hour: float | None
    """None: unknown."""

    def usd(self, seconds: float) -> float | None:
        return None if self.usd_per_hour is None else seconds / 3600 * self.usd_per_hour


@dataclass(frozen=True)
class StepCost:
    """One step's line in the ledger."""

    step: str
    seconds: float
    buckets: Mapping[str, float]
    """Adds up to `seconds`."""
    is_cached: bool
    is_critical: bool
    """On the longest chain of the whole graph."""
    earlier_s: float = 0.0
    """Work of attempts before the one that finished (what was kept of it, in logs without a timesheet); not in
    `seconds`."""
    earlier_gpu_s: float = 0.0
    lost_s: float = 0.0
    """Of `earlier_s`: taken again, or nobody found it."""


@dataclass(frozen=True)
class Ledger:
    """All of a run's steps and what they were paid for."""

    steps: tuple[StepCost, ...]
    rate: Rate
    critical: tuple[str, ...]
    """Steps of the longest chain, first to last: no number of machines makes a whole run shorter than that."""
    num_gpus: int = 1

    def seconds(self, *, is_cached: bool) -> float:
        return sum(step.seconds for step in self.steps if step.is_cached == is_cached)

    def bucket_s(self, bucket: str, *, is_cached: bool) -> float:
        return sum(step.buckets.get(bucket, 0.0) for step in self.steps if step.is_cached == is_cached)

    @property
    def critical_s(self) -> float:
        return sum(step.seconds for step in self.steps if step.is_critical)

    @property
    def earlier_s(self) -> float:
        return sum(step.earlier_s for step in self.steps)

    @property
    def lost_s(self) -> float:
        return sum(step.lost_s for step in self.steps)

    @property
    def gpu_s(self) -> float:
        """Of the trainings of this run and of their earlier attempts."""
        trained_s = sum(step.seconds for step in self.steps if step.step in TRAININGS and not step.is_cached)
        return trained_s * self.num_gpus + sum(step.earlier_gpu_s for step in self.steps)


def run_ledger(
    refs: "list[Ref]",
    runtime: RuntimeConfig,
    *,
    attempts: Mapping[str, list[Attempt]] | None = None,
    windows: Mapping[str, tuple[float, float]] | None = None,
) -> Ledger:
    """The ledger of `refs`, with the attempts of the trainings by step.

    `windows` are the wall-clock times between which each step was made; without them only the last attempt counts.
    """
    known = attempts or {}
    critical = critical_path(refs)
    steps = []
    for ref in refs:
        tries = known.get(ref.step, [])
        window = (windows or {}).get(ref.step)
        if told := [values for values in ref.metrics.get("tries", ()) if values["buckets"]]:
            steps.append(_from_tries(ref, told, window, is_critical=ref.step in critical))
            continue
        inside = [one for one in tries if window and (one.started_at_s or 0) >= window[0]] or tries[-1:]
        buckets = step_buckets(ref.step, ref.seconds, inside, ended_at_s=window[1] if window else None)
        earlier_s = sum(one.train_s + one.compile_s + one.validate_s + one.checkpoint_s
                        for one in tries[: len(tries) - len(inside)])  # fmt: skip
        steps.append(StepCost(ref.step, ref.seconds, buckets, ref.is_cached, ref.step in critical, earlier_s))
    num_gpus = max((one.world_size for tries in known.values() for one in tries), default=runtime.num_processes)
    return Ledger(tuple(steps), machine_rate(refs, runtime, num_gpus=num_gpus), tuple(critical), num_gpus)


def _from_tries(
    ref: "Ref", tries: list[dict[str, Any]], window: tuple[float, float] | None, *, is_critical: bool
) -> StepCost:
    """The cost of a training that kept a timesheet: its tries inside of the window (else the last) are this run's."""
    begin_s = window[0] if window else tries[-1]["started_at_s"]
    inside = [one for one in tries if one["started_at_s"] >= begin_s] or tries[-1:]
    earlier = tries[: len(tries) - len(inside)]
    buckets = {name: sum(one["buckets"].get(name, 0.0) for one in inside) for name in tries[-1]["buckets"]}
    rest_s = ref.seconds - sum(buckets.values())  # waiting for the lease, fetching inputs, publishing
    buckets["start"] += max(0.0, rest_s)
    if rest_s < 0:
        buckets = {name: value * ref.seconds / (ref.seconds - rest_s) for name, value in buckets.items()}
    seconds = [one["ended_at_s"] - one["started_at_s"] for one in earlier]
    return StepCost(
        step=ref.step,
        seconds=ref.seconds,
        buckets=buckets,
        is_cached=ref.is_cached,
        is_critical=is_critical,
        earlier_s=sum(seconds),
        earlier_gpu_s=sum(one_s * one["world_size"] for one_s, one in zip(seconds, earlier, strict=True)),
        lost_s=sum(one["buckets"].get("lost", 0.0) for one in earlier),
    )


def step_buckets(
    step: str, seconds: float, attempts: list[Attempt], *, ended_at_s: float | None = None
) -> dict[str, float]:
    """`seconds` of a step by bucket; `attempts` are those that the seconds cover, oldest first."""
    if not attempts:
        name = "evaluate" if step.startswith(EVALUATIONS) else "start" if step in TRAININGS else "steps"
        return {name: seconds}
    last = attempts[-1].ended_at_s
    told = {
        "train": sum(one.train_s for one in attempts),
        "evaluate": sum(one.validate_s for one in attempts),
        "checkpoint": sum(one.checkpoint_s for one in attempts),
        "upload": max(0.0, ended_at_s - last) if ended_at_s is not None and last is not None else 0.0,
        "lost": sum(_gap(one, other) for one, other in itertools.pairwise(attempts)),
    }
    total = sum(told.values())
    if total > seconds:  # two clocks: a parent's and a child's
        told = {name: value * seconds / total for name, value in told.items()}
    return {"start": max(0.0, seconds - total), **told}


def _gap(one: Attempt, other: Attempt) -> float:
    """From the last record that was kept to the next start: steps that were taken again, and the restart."""
    if one.ended_at_s is None or other.started_at_s is None:
        return 0.0
    return max(0.0, other.started_at_s - one.ended_at_s)


def critical_path(refs: "Iterable[Ref]", seconds: "Callable[[Ref], float] | None" = None) -> list[str]:
    """The chain of steps, each an input of the next, that takes longest; by what making each took unless told."""
    longest: dict[str, tuple[float, list[str]]] = {}

    def visit(ref: "Ref") -> tuple[float, list[str]]:
        if ref.step not in longest:
            before = max((visit(made) for made in ref.inputs.values()), key=lambda chain: chain[0], default=(0.0, []))
            own = seconds(ref) if seconds else ref.seconds
            longest[ref.step] = (before[0] + own, [*before[1], ref.step])
        return longest[ref.step]

    return max((visit(ref) for ref in refs), key=lambda chain: chain[0], default=(0.0, []))[1]


def machine_rate(refs: "list[Ref]", runtime: RuntimeConfig, *, num_gpus: int) -> Rate:
    """Price of the machine by the device that the trainings name; a processor of one's own costs nothing here."""
    devices = [str(ref.metrics["device"]) for ref in refs if ref.step in TRAININGS and "device" in ref.metrics]
    device = devices[0] if devices else ""
    if not device:
        return Rate("an unknown machine", None)
    if device.split(":")[0] in ("cpu", "mps"):
        return Rate("this machine's own processor" if device == "cpu" else device, 0.0)
    known = next((gpu for gpu in GPUS if gpu.lower() in device.lower().replace(" ", "")), None)
    price = runtime.usd_per_gpu_hour if runtime.usd_per_gpu_hour is not None else GPUS[known][2] if known else None
    if price is None:
        return Rate(f"{num_gpus} x {device}", None)
    return Rate(f"{num_gpus} x {device} at ${price:.2f} per GPU-hour", price * num_gpus)


def window(provenance: Mapping[str, Any]) -> tuple[float, float] | None:
    """Between which wall-clock times a step was made, from its manifest."""
    told = [provenance.get(name) for name in ("started_at", "finished_at")]
    if not all(told):
        return None
    begin, end = (datetime.fromisoformat(str(moment)).timestamp() for moment in told)
    return begin, end
