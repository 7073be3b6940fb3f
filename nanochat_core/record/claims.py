"""What a record claims, computed from its evidence and from nothing else.

`nanochat bundle` writes these values and `nanochat verify` computes them again from the evidence it was given, so a
claim that the evidence does not give cannot pass. Means are over the runs of a bundle, which differ in their seed only.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from nanochat_core.accounting.clock import Clock, read_clock
from nanochat_core.evals.core.gpt2 import GPT2_CORE
from nanochat_core.plan import NO_GPU, usd_per_gpu_hour
from nanochat_core.record.core_scores import is_whole
from nanochat_core.record.evidence import PATCH, WEIGHTS, Evidence
from nanochat_core.record.problems import Problem, differences, shown
from nanochat_core.record.rules import may_lack_claim
from nanochat_core.record.scores import last_validation
from nanochat_core.record.significance import above, below
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.provenance import STEPS_BY_CODE

Claims = dict[str, Any]
SOURCES = {  # claim of a run -> the evidence that it is computed from, as a refusal names it
    "clock_s": "the step log",
    "device_s": "the step log",
    "clock_without_first_steps_s": "the step log",
    "measured_s": "the step log",
    "log_wall_s": "the step log",
    "median_step_s": "the step log",
    "num_steps": "the step log",
    "num_starts": "the step log",
    "num_warmup_steps": "the step log",
    "num_processes": "the step log",
    "tokens": "the step log",
    "tokens_per_s": "the step log",
    "smooth_loss": "the step log",
    "peak_memory_gib": "the step log",
    "val_bits_per_byte": "the step log",
    "flops": "the plan and the step log",
    "bits_per_byte": "bpb.json",
    "core": "core.json",
    "usd": "the step log and the price",
    "usd_per_gpu_hour": "the price table",
    "seed": "run.json",
    "config": "run.json",
}


def derive_claims(runs: Sequence[Evidence], *, target_bits_per_byte: float | None = None) -> Claims:
    """All claims that the evidence of these runs gives; the evidence must be sound."""
    each = [_claims_of_run(evidence) for evidence in runs]
    plan = runs[0].plan
    assert plan is not None
    scored = [run for run in each if run["core"] is not None]
    core = [run["core"] for run in scored]
    error = scored[0]["core_standard_error"] if len(each) == 1 and scored else None
    has_all_cores = len(core) == len(each)
    bits = [run["val_bits_per_byte"] for run in each]
    is_whole = has_all_cores and all(run["core_is_whole"] for run in each)  # a part of CORE is no CORE
    core_test = above(core, GPT2_CORE, standard_error=error) if is_whole else None
    bits_test = below(bits, target_bits_per_byte) if target_bits_per_byte is not None else None
    return {
        "preset": plan.config.preset,
        "depth": plan.pretrain.model.n_layer,
        "num_params": plan.pretrain.num_params["total"],
        "config": shared_config(runs[0]),
        "seeds": [run["seed"] for run in each],
        "date": max(run["date"] for run in each),
        "clock_s": _mean([run["clock_s"] for run in each]),
        "tokens": each[0]["tokens"],
        "flops": each[0]["flops"],
        "tokens_per_s": _mean([run["tokens_per_s"] for run in each]),
        "peak_memory_gib": max(run["peak_memory_gib"] for run in each),
        "usd": None if any(run["usd"] is None for run in each) else _mean([run["usd"] for run in each]),
        "val_bits_per_byte": _mean(bits),
        "core": _mean(core) if has_all_cores else None,
        "core_is_whole": is_whole,
        "core_standard_error": core_test.standard_error if core_test else error,
        "reaches_gpt2": _reaches(each),
        "significance": {
            "core_above_gpt2": asdict(core_test) if core_test else None,
            "bits_per_byte_below_target": asdict(bits_test) if bits_test else None,
        },
        "runs": each,
    }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _reaches(runs: list[Claims]) -> bool | None:
    """Whether the mean of complete CORE scores is at GPT-2's; None where it was not measured in full."""
    if not all(run["core"] is not None and run["core_is_whole"] for run in runs):
        return None
    return _mean([run["core"] for run in runs]) >= GPT2_CORE


def shared_config(evidence: Evidence) -> dict[str, Any]:
    """The configuration without what may differ between the runs of one bundle: the seed and the machine's part."""
    config = dict(evidence.ledger.get("config", {}))
    return {name: value for name, value in config.items() if name not in ("seed", "runtime")}


def _claims_of_run(evidence: Evidence) -> Claims:
    plan, pretrain = evidence.plan, evidence.manifests["pretrain"]
    assert plan is not None
    clock = read_clock(evidence.records)
    steps = [record for record in evidence.records if record["event"] == "step"]
    last = last_validation(evidence)
    tokens = steps[-1]["tokens"]
    return {
        "run_id": evidence.run_id,
        "seed": plan.config.seed,
        "date": pretrain.provenance["finished_at"],
        **_clock_claims(clock),
        "wall_s": pretrain.provenance["seconds"],
        "log_wall_s": log_wall_s(evidence.records),
        "tokens": tokens,
        "tokens_per_s": tokens / clock.clock_s,
        "flops": plan.pretrain.flops_per_token * tokens,
        "smooth_loss": steps[-1]["smooth_loss"],
        "val_bits_per_byte": last["bits_per_byte"] if last else None,
        "bits_per_byte": (evidence.bits_per_byte or {}).get("bits_per_byte"),
        **_core_claims(evidence),
        **_device_claims(evidence, clock),
        "peak_memory_gib": max(record["memory_gib"] for record in steps),
        **_source_claims(evidence, pretrain),
    }


def _clock_claims(clock: Clock) -> Claims:
    return {
        "clock_s": clock.clock_s,
        "clock_without_first_steps_s": clock.without_first_steps_s,
        "measured_s": clock.measured_s,
        "device_s": clock.device_s,
        "median_step_s": clock.median_step_s,
        "num_steps": clock.num_steps,
        "num_starts": clock.num_starts,
        "num_warmup_steps": clock.num_warmup_steps,
    }


def log_wall_s(records: Sequence[dict[str, Any]]) -> float:
    """Wall clock from the first to the last kept record of each attempt, added up.

    By the times of day in the log: for comparing with the measured seconds, to which it owes only validations,
    checkpoints and what happens between steps.
    """
    total, started_at, last_at = 0.0, 0.0, 0.0
    for record in records:
        if record["event"] == "start":
            total, started_at = total + last_at - started_at, record["time_s"]
        last_at = record["time_s"]
    return total + last_at - started_at


def _core_claims(evidence: Evidence) -> Claims:
    scores = evidence.core or {}
    return {
        "core": scores.get("core"),
        "core_standard_error": scores.get("standard_error"),
        "core_num_items": scores.get("num_items"),
        "core_is_whole": is_whole(scores) if scores else None,
    }


def _device_claims(evidence: Evidence, clock: Clock) -> Claims:
    assert evidence.plan is not None
    metrics = evidence.manifests["pretrain"].metrics
    device = str(metrics.get("device"))
    sizes = sorted({record["world_size"] for record in evidence.records if record["event"] == "start"})
    is_gpu = device.split(":")[0] not in NO_GPU
    price = usd_per_gpu_hour(device, evidence.plan.config.runtime.usd_per_gpu_hour)
    return {
        "device": device,
        "dtype": metrics.get("dtype"),
        "num_processes": sizes,
        "num_gpus": max(sizes) if is_gpu else 0,
        "usd_per_gpu_hour": price,
        "usd": None if price is None else price * clock.device_s / 3600,
    }


def _source_claims(evidence: Evidence, pretrain: Artifact) -> Claims:
    """Code, packages, machine, weights: from the manifest of the pretraining."""
    made = pretrain.provenance
    patch, num_untracked = made.get("git_patch_sha256"), made.get("num_untracked_files", 0)
    return {
        "git_commit": made.get("git_commit"),
        "is_dirty": patch is not None or num_untracked > 0,
        "git_patch_sha256": patch,
        "has_patch": PATCH in evidence.files,
        "num_untracked_files": num_untracked,
        "packages": dict(made.get("packages", {})),
        "machine": {name: made.get(name) for name in ("platform", "python", "cpu", "num_cpus", "memory_gib")},
        "accepted_drift": sorted(
            step for step, made in evidence.manifests.items() if "accepted_drift" in made.provenance
        ),
        "steps_by_code": [
            {name: part.get(name) for name in ("first_step", "last_step", "fingerprint", "git_commit")}
            for part in made.get(STEPS_BY_CODE, ())
        ],
        "weights": {name: pretrain.files[name].sha256 for name in WEIGHTS if name in pretrain.files},
    }


def check_claims(claimed: Any, derived: Claims, *, file: str, rules: int) -> list[Problem]:
    """Where the claims of a record are not what its evidence gives, by the rules that it was written under."""
    problems = []
    for path, ours, theirs in differences(claimed, derived, "claims"):
        if may_lack_claim(path, ours, theirs, rules=rules):
            continue
        source = SOURCES.get(path.rpartition(".")[2].partition("[")[0], "the evidence")
        problems.append(Problem(file, path, f"is {shown(ours)}, {source} gives {shown(theirs)}"))
    return problems


def check_alike(runs: Sequence[Evidence], *, file: str) -> list[Problem]:
    """Runs of one bundle differ in the seed only: same configuration, same code, same packages."""
    problems = []
    first = runs[0]
    for other in runs[1:]:
        pairs = [(shared_config(first), shared_config(other), "config")]
        if "pretrain" in first.manifests and "pretrain" in other.manifests:
            ours, theirs = first.manifests["pretrain"], other.manifests["pretrain"]
            pairs += [
                (dict(ours.code), dict(theirs.code), "code"),
                (dict(ours.packages), dict(theirs.packages), "packages"),
            ]
        for a, b, name in pairs:
            for path, left, right in differences(a, b, name):
                text = f"is {shown(left)} in {first.run_id} and {shown(right)} in {other.run_id}"
                problems.append(Problem(file, path, text))
    seeds = [evidence.plan.config.seed for evidence in runs if evidence.plan is not None]
    if len(set(seeds)) != len(seeds):
        problems.append(Problem(file, "claims.seeds", f"{seeds} are not all different"))
    return problems
