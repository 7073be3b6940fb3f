"""What a run cost: seconds and dollars of each step by bucket, and the chain of steps that decides how long it takes.

Pure: from the refs (who took how long and depends on whom) and a price. The buckets of a step add up to its seconds. A
training says itself where each second of all its attempts went (train/timesheet.py); what it does not name (the lease,
inputs, publishing) is `start`. A step or an attempt of an earlier run is counted apart, since this run did not pay for
it. All steps are priced as if the machine that trained was rented for them too, which is so when one machine does all.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nanochat_core.base.units import dollars, duration
from nanochat_core.config import RuntimeConfig
from nanochat_core.plan import NO_GPU, RunPlan, usd_per_gpu_hour

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
CENT = 0.01
Windows = Mapping[str, tuple[float, float]]
"""Between which wall-clock times each step was made."""


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
    """Of attempts before the one that finished; not in `seconds`."""
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


def run_ledger(refs: "list[Ref]", runtime: RuntimeConfig, *, windows: Windows | None = None) -> Ledger:
    """The ledger of `refs`; without `windows` only the last attempt of a training counts as this run's."""
    critical = critical_path(refs)
    steps = [_cost(ref, (windows or {}).get(ref.step), is_critical=ref.step in critical) for ref in refs]
    sizes = (one["world_size"] for ref in refs for one in ref.metrics.get("tries", ()))
    num_gpus = max(sizes, default=runtime.num_processes)
    return Ledger(tuple(steps), machine_rate(refs, runtime, num_gpus=num_gpus), tuple(critical), num_gpus)


def _cost(ref: "Ref", window: tuple[float, float] | None, *, is_critical: bool) -> StepCost:
    if tries := ref.metrics.get("tries"):
        return _from_tries(ref, tries, window, is_critical=is_critical)
    bucket = "evaluate" if ref.step.startswith(EVALUATIONS) else "start" if ref.step in TRAININGS else "steps"
    return StepCost(ref.step, ref.seconds, {bucket: ref.seconds}, ref.is_cached, is_critical)


def _from_tries(
    ref: "Ref", tries: list[dict[str, Any]], window: tuple[float, float] | None, *, is_critical: bool
) -> StepCost:
    """The cost of a training: its tries inside of the window (else the last) are this run's."""
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
    if device.split(":")[0] in NO_GPU:
        return Rate("this machine's own processor" if device == "cpu" else device, 0.0)
    price = usd_per_gpu_hour(device, runtime.usd_per_gpu_hour)
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


@dataclass(frozen=True)
class BucketRow:
    """One kind of cost."""

    key: str
    name: str
    made: str
    reused: str
    made_usd: str
    share: float
    """Of what this run made, 0 to 1."""


@dataclass(frozen=True)
class LedgerRows:
    """What the page and report.md say of time and money."""

    rows: tuple[BucketRow, ...]
    total: BucketRow
    has_reused: bool
    has_usd: bool
    critical: tuple[str, ...]
    sentences: tuple[str, ...]
    step_usd: Mapping[str, str]


def ledger_rows(
    plan: RunPlan, refs: "list[Ref]", *, seconds: float | None = None, windows: Windows | None = None
) -> LedgerRows:
    """`seconds` is the run's wall clock: what its steps do not add up to becomes a row of its own."""
    ledger = run_ledger(refs, plan.config.runtime, windows=windows)
    made_s, reused_s = ledger.seconds(is_cached=False), ledger.seconds(is_cached=True)
    total_s = made_s if seconds is None else seconds
    rows = [
        _row(ledger, key, name, ledger.bucket_s(key, is_cached=False), ledger.bucket_s(key, is_cached=True), total_s)
        for key, name in BUCKETS.items()
    ]
    if total_s > made_s:
        rows.append(_row(ledger, "between", "between steps", total_s - made_s, 0.0, total_s))
    return LedgerRows(
        rows=tuple(row for row in rows if row.made or row.reused),
        total=_row(ledger, "total", "in all", total_s, reused_s, total_s),
        has_reused=reused_s > 0,
        has_usd=bool(ledger.rate.usd_per_hour),
        critical=ledger.critical,
        sentences=tuple(_sentences(ledger, refs, made_s=made_s, total_s=total_s)),
        step_usd={step.step: _usd(ledger, step.seconds) for step in ledger.steps},
    )


def _row(ledger: Ledger, key: str, name: str, made_s: float, reused_s: float, total_s: float) -> BucketRow:
    share = made_s / total_s if total_s else 0.0
    made, reused = (duration(value) if value > 0 else "" for value in (made_s, reused_s))
    return BucketRow(key, name, made, reused, _usd(ledger, made_s) if made_s > 0 else "", share)


def _usd(ledger: Ledger, seconds: float) -> str:
    usd = ledger.rate.usd(seconds)
    return "" if usd is None else "<$0.01" if 0 < usd < CENT else dollars(usd)


def _sentences(ledger: Ledger, refs: "list[Ref]", *, made_s: float, total_s: float) -> list[str]:
    all_s = sum(step.seconds for step in ledger.steps)
    told = [_price(ledger)]
    if ledger.rate.usd_per_hour and ledger.gpu_s > 0:
        usd = ledger.gpu_s / 3600 * ledger.rate.usd_per_hour / ledger.num_gpus
        told.append(f"Trainings took {duration(ledger.gpu_s)} of GPU time, {dollars(usd)}, all attempts counted.")
    if ledger.critical:
        told.append(
            f"The critical path of a run that makes everything: {' → '.join(ledger.critical)}, "
            f"{duration(ledger.critical_s)} of {duration(all_s)} in steps."
        )
    made = [ref for ref in refs if not ref.is_cached]
    if made and len(made) < len(refs):
        path = critical_path(refs, seconds=lambda ref: 0.0 if ref.is_cached else ref.seconds)
        own = [step for step in path if step in {ref.step for ref in made}]
        told.append(f"This run waited for {' → '.join(own)}.")
    if total_s < made_s:
        told.append(f"Steps that ran side by side saved {duration(made_s - total_s)}.")
    if ledger.earlier_s > 0:
        told.append(
            f"Trainings went on from earlier attempts: {duration(ledger.earlier_s)} of them are not counted above"
            + (f", {duration(ledger.lost_s)} of it lost." if ledger.lost_s else ".")
        )
    return told


def _price(ledger: Ledger) -> str:
    rate = ledger.rate
    if rate.usd_per_hour is None:
        return f"Trained on {rate.machine}, whose price is not known (runtime.usd_per_gpu_hour sets it)."
    if rate.usd_per_hour == 0:
        return f"Trained on {rate.machine}: no rental price."
    return f"Priced as {rate.machine}, {dollars(rate.usd_per_hour)} per hour, for all steps."
