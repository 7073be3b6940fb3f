"""The ledger in words, for the page and the markdown summary alike."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat_core.base.units import dollars, duration
from nanochat_core.plan import RunPlan
from nanochat_core.report.attempts import Attempt
from nanochat_core.report.ledger import BUCKETS, Ledger, critical_path, run_ledger

if TYPE_CHECKING:
    from nanochat_core.pipeline.step import Ref

REPORT_STEP = "report"
CENT = 0.01
Windows = Mapping[str, tuple[float, float]]


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


def known_attempts(refs: "list[Ref]") -> dict[str, list[Attempt]]:
    """The attempts of each training, which the report step's metrics carry; nothing before that step has run."""
    told: dict[str, Any] = next((ref.metrics.get("attempts", {}) for ref in refs if ref.step == REPORT_STEP), {})
    return {step: [Attempt(**values) for values in tries] for step, tries in told.items()}


def known_ledger(plan: RunPlan, refs: "list[Ref]", windows: Windows | None = None) -> Ledger:
    """The ledger from what the refs know."""
    return run_ledger(refs, plan.config.runtime, attempts=known_attempts(refs), windows=windows)


def ledger_rows(
    plan: RunPlan, refs: "list[Ref]", *, seconds: float | None = None, windows: Windows | None = None
) -> LedgerRows:
    """`seconds` is the run's wall clock: what its steps do not add up to becomes a row of its own."""
    ledger = known_ledger(plan, refs, windows)
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
