"""What a night measures, read from its artifacts, and how far each figure may move.

Bits per byte decides by the rule of rule.py. The others warn when they are worse than the baseline by their tolerance
and by 3 standard deviations. They fail a night alone only when both of its runs are worse by the large limit and by 6
standard deviations. Speed never fails a night on a CPU: other work on the machine moves it by more than any limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from nanochat_core.accounting.clock import WARMUP_STEPS, read_clock
from nanochat_core.pipeline.step import LOG_FOLDER, Ref
from nanochat_core.plan import GPUS, RunPlan, gpu_named
from nanochat_core.record.step_log import FIELDS, read_log
from nanochat_core.store.store import Store

WARN_SD, FAIL_SD = 3.0, 6.0
PRIMARY = "bits_per_byte"


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One figure and its limits, as fractions of the baseline."""

    name: str
    label: str
    is_better_high: bool
    tolerance: float
    fail: float | None
    """None: it never fails a night."""
    is_speed: bool = False


METRICS = (
    Metric(name=PRIMARY, label="bits per byte", is_better_high=False, tolerance=0.0, fail=None),
    Metric(name="core", label="CORE", is_better_high=True, tolerance=0.05, fail=0.30),
    Metric(name="tokens_per_s", label="tokens/s", is_better_high=True, tolerance=0.03, fail=0.25, is_speed=True),
    Metric(name="bf16_mfu", label="bf16 MFU", is_better_high=True, tolerance=0.03, fail=None, is_speed=True),
    Metric(name="memory_gib", label="peak memory, GiB", is_better_high=False, tolerance=0.03, fail=0.25),
    Metric(name="warmup_s", label="compile and warm-up, s", is_better_high=False, tolerance=0.5, fail=None,
           is_speed=True),
    Metric(name="step_ms_p50", label="step, median ms", is_better_high=False, tolerance=0.03, fail=None, is_speed=True),
    Metric(name="step_ms_p95", label="step, 95th percentile ms", is_better_high=False, tolerance=0.10, fail=None,
           is_speed=True),
    Metric(name="step_ms_p99", label="step, 99th percentile ms", is_better_high=False, tolerance=0.25, fail=None,
           is_speed=True),
)  # fmt: skip


def read_metrics(refs: Mapping[str, Ref], logged: Sequence[Mapping[str, Any]], plan: RunPlan) -> dict[str, float]:
    """Every figure that this run has, by name."""
    found = {PRIMARY: float(refs["evaluate_base"].metrics["bits_per_byte"])}
    core = refs["evaluate_core"].metrics if "evaluate_core" in refs else {}
    if core.get("is_complete"):
        found["core"] = float(core["core"])
    return found | _speed(logged, plan, device=str(refs["pretrain"].metrics["device"]))


def read_records(store: Store, pretrain: Ref) -> list[dict[str, Any]]:
    """The step log of a training; empty where it is gone."""
    artifact, name = store.find("pretrain", pretrain.fingerprint), f"{LOG_FOLDER}/metrics.jsonl"
    if artifact is None or name not in artifact.files:
        return []
    content = (store.fetch(artifact, [name]) / name).read_bytes()
    return [record for record in read_log(content, file=name)[0] if record["event"] in FIELDS]


def read_curve(logged: Sequence[Mapping[str, Any]], plan: RunPlan) -> list[tuple[float, float]]:
    """(FLOPs, bits per byte) at each validation: what the compute multiplier is read from."""
    per_step = plan.pretrain.flops_per_token * plan.pretrain.total_batch_tokens
    return [
        (float(per_step * record["step"]), float(record["bits_per_byte"]))
        for record in logged
        if record["event"] == "validate" and record["step"] > 0
    ]


def _speed(logged: Sequence[Mapping[str, Any]], plan: RunPlan, *, device: str) -> dict[str, float]:
    steps, start, world_size = [], 0, 1
    for record in logged:
        if record["event"] == "start":
            start, world_size = record["step"], record["world_size"]
        elif record["event"] == "step" and record["step"] - start > WARMUP_STEPS:
            steps.append(record)
    if len(steps) < 2:
        return {}
    cuts = quantiles([record["step_ms"] for record in steps], n=100, method="inclusive")
    clock, tokens_per_s = read_clock(logged), float(median(record["tokens_per_s"] for record in steps))
    found = {
        "tokens_per_s": tokens_per_s,
        "memory_gib": float(max(record["memory_gib"] for record in steps)),
        "warmup_s": max(0.0, clock.measured_s - clock.clock_s),
        "step_ms_p50": cuts[49],
        "step_ms_p95": cuts[94],
        "step_ms_p99": cuts[98],
    }
    if gpu := gpu_named(device):
        found["bf16_mfu"] = plan.pretrain.flops_per_token * tokens_per_s / (GPUS[gpu][0] * world_size)
    return found
