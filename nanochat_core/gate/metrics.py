"""What a night measures, read from its artifacts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

from nanochat_core.accounting.clock import WARMUP_STEPS, read_clock
from nanochat_core.pipeline.step import LOG_FOLDER, Ref
from nanochat_core.plan import GPUS, RunPlan, gpu_named
from nanochat_core.record.step_log import FIELDS, read_log
from nanochat_core.store.store import Store

PRIMARY = "bits_per_byte"
MACHINE = "machine_tflops"


@dataclass(frozen=True, kw_only=True)
class NightRun:
    """One training of a night and what it measured."""

    seed: int
    recipe: str
    """Digest of everything that decides the result but the seed: equal recipes are replicates."""
    fingerprint: str
    """Of the pretraining."""
    metrics: dict[str, float]
    """Finite ones."""
    conditions: dict[str, Any]
    """What has to be equal for two nights to be compared."""
    curve: tuple[tuple[float, float], ...] = ()
    """(FLOPs, bits per byte) at each validation."""
    seconds: float = 0.0
    night: str = ""
    """The night that it was made in; a run of a search has none."""
    runtime: str = ""
    """Digest of the settings `runtime.*`, which speed and memory depend on."""
    not_finite: tuple[str, ...] = ()
    """Metrics that were no numbers."""
    weights: str = ""
    """Digest of what was trained."""

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> "NightRun":
        points = tuple((float(flops), float(value)) for flops, value in record["curve"])
        return cls(**{**record, "curve": points, "not_finite": tuple(record.get("not_finite", ()))})


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


def finite(metrics: Mapping[str, float]) -> tuple[dict[str, float], tuple[str, ...]]:
    """Those that are numbers, and the names of the others."""
    kept = {name: value for name, value in metrics.items() if math.isfinite(value)}
    return kept, tuple(name for name in metrics if name not in kept)


def read_curve(logged: Sequence[Mapping[str, Any]], plan: RunPlan) -> list[tuple[float, float]]:
    """(FLOPs, bits per byte) at each validation: what the compute multiplier is read from."""
    per_step = plan.pretrain.flops_per_token * plan.pretrain.total_batch_tokens
    return [
        (float(per_step * record["step"]), float(record["bits_per_byte"]))
        for record in logged
        if record["event"] == "validate" and record["step"] > 0
    ]


def _speed(logged: Sequence[Mapping[str, Any]], plan: RunPlan, *, device: str) -> dict[str, float]:
    steps, start, world_size, machine = [], 0, 1, None
    for record in logged:
        if record["event"] == "start":
            start, world_size, machine = record["step"], record["world_size"], record.get(MACHINE)
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
    if machine is not None:
        found[MACHINE] = float(machine)
    if gpu := gpu_named(device):
        found["bf16_mfu"] = plan.pretrain.flops_per_token * tokens_per_s / (GPUS[gpu][0] * world_size)
    return found
