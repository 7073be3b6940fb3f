"""The runs that a store remembers: finding one by a name that people type, and what each of them came to.

A run is named by its id, by the beginning of it where that is unique, or as `latest`.
"""

import logging
import re
from dataclasses import dataclass
from typing import Any

from nanochat_core.accounting.clock import Clock, read_clock
from nanochat_core.base.errors import ConfigError, CorruptError
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import config_from_record
from nanochat_core.record.step_log import FIELDS, read_log
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.names import NEAR_SHOWN, absent
from nanochat_core.store.provenance import steps_by_code
from nanochat_core.store.store import Store

log = logging.getLogger(__name__)
LATEST = "latest"
SWEEPS = ("miniseries-", "scaling-laws-", "nightly-")  # records that are no run (sweep/finish.py, gate/night.py)
STAMP = re.compile(r"-(\d{8}-\d{6})-[0-9a-f]+$")  # at the end of an id, in UTC


def resolve_run(store: Store, name: str) -> str:
    """The id of the run that `name` means; MissingError with the nearest ids where there is none."""
    ids = store.runs()
    if name == LATEST:  # a sweep is a record as well, and no run
        ids = [run_id for run_id in ids if not run_id.startswith(SWEEPS)]
    if name in ids:
        return name
    if name == LATEST and ids:
        return max(ids, key=_stamp)
    found = [run_id for run_id in ids if name and run_id.startswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:NEAR_SHOWN]) + (" ..." if len(found) > NEAR_SHOWN else "")
        raise ConfigError(f"{name} is the beginning of {len(found)} runs", hint=f"they are {shown}")
    raise absent(name, sorted(ids, key=_stamp), url=store.url, kinds=["run"])


def _stamp(run_id: str) -> str:
    found = STAMP.search(run_id)
    return found[1] if found else ""


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """A run in one line: what its ledger says."""

    run_id: str
    started_at: str
    preset: str
    depth: int | None
    seed: int | None
    seconds: float
    num_made: int
    num_cached: int
    last_step: str
    bits_per_byte: float | None
    """Of the base model: its own evaluation's, else the training's last."""
    core: float | None
    core_standard_error: float | None
    core_is_whole: bool | None
    """Whether CORE was measured on all of its items; a part does not compare."""
    scores: dict[str, tuple[float, float | None]]
    """Benchmark -> accuracy and its standard error, where it is known."""


def list_runs(store: Store) -> list[RunSummary]:
    """All readable runs, newest first; what cannot be read is left out with a warning."""
    found = []
    for run_id in store.runs():
        try:
            found.append(summarize(run_id, store.run(run_id)))
        except (CorruptError, KeyError, TypeError) as error:
            log.warning("the record of %s cannot be read: %s", run_id, error)
    return sorted(found, key=lambda run: run.started_at, reverse=True)


def summarize(run_id: str, record: dict[str, Any]) -> RunSummary:
    """One line about a run's record."""
    steps, config = record["steps"], record["config"]
    metrics = {line["step"]: line["metrics"] for line in steps}
    core = metrics.get("evaluate_core", {})
    base = metrics.get("evaluate_base", metrics.get("pretrain", {}))
    num_cached = sum(bool(line["is_cached"]) for line in steps)
    return RunSummary(
        run_id=run_id,
        started_at=record["started_at"],
        preset=config["preset"],
        depth=config.get("pretrain", {}).get("depth"),
        seed=config.get("seed"),
        seconds=record["seconds"],
        num_made=len(steps) - num_cached,
        num_cached=num_cached,
        last_step=steps[-1]["step"] if steps else "none",
        bits_per_byte=base.get("bits_per_byte"),
        core=core.get("core"),
        core_standard_error=core.get("core_standard_error"),
        core_is_whole=core["is_complete"] and core["max_per_benchmark"] is None if core else None,
        scores=_scores(metrics),
    )


def _scores(metrics: dict[str, dict[str, Any]]) -> dict[str, tuple[float, float | None]]:
    """Accuracies of all benchmarks that any step measured, later steps (chat models) last."""
    found: dict[str, tuple[float, float | None]] = {}
    for values in metrics.values():
        for name, score in (values.get("benchmarks") or {}).items():
            if isinstance(score, dict) and "accuracy" in score:
                found[name] = (float(score["accuracy"]), score.get("standard_error"))
    return found


@dataclass(frozen=True)
class Training:
    """The pretraining behind a run, read from its artifact."""

    plan: RunPlan
    artifact: Artifact
    records: list[dict[str, Any]]
    clock: Clock | None
    """None: the log does not hold every step, so there is no clock."""

    @property
    def curve(self) -> list[tuple[float, float]]:
        """(FLOPs, bits per byte) at each validation, in order."""
        per_step = self.plan.pretrain.flops_per_token * self.plan.pretrain.total_batch_tokens
        return [
            (float(per_step * record["step"]), float(record["bits_per_byte"]))
            for record in self.records
            if record["event"] == "validate" and record["step"] > 0
        ]


def read_training(store: Store, record: dict[str, Any]) -> Training | None:
    """The pretraining of a run; None where the run has none or its log is gone."""
    line = next((line for line in record["steps"] if line["step"] == "pretrain"), None)
    artifact = store.find("pretrain", line["fingerprint"]) if line else None
    name = "log/metrics.jsonl"
    if artifact is None or name not in artifact.files:
        return None
    plan = plan_run(config_from_record(record["config"]))
    content = (store.fetch(artifact, [name]) / name).read_bytes()
    records = [record for record in read_log(content, file=name)[0] if record["event"] in FIELDS]
    steps = [record["step"] for record in records if record["event"] == "step"]
    is_whole = bool(steps) and steps == list(range(1, plan.pretrain.num_steps + 1))
    return Training(plan, artifact, records, read_clock(records) if is_whole else None)


def show_run(store: Store, run_id: str) -> dict[str, Any]:
    """Everything that the store knows of a run, as JSON values."""
    record = store.run(run_id)
    training = read_training(store, record)
    steps = []
    for line in record["steps"]:
        artifact = store.find(line["step"], line["fingerprint"])
        steps.append(
            {
                **line,
                "is_in_store": artifact is not None,
                "num_bytes": artifact.num_bytes if artifact else None,
                "steps_by_code": steps_by_code(artifact.provenance) if artifact else [],
            }
        )
    return {
        "run_id": run_id,
        "started_at": record["started_at"],
        "seconds": record["seconds"],
        "config": record["config"],
        "steps": steps,
        "clock": vars(training.clock) if training and training.clock else None,
        "made_on": _made_on(training.artifact) if training else None,
    }


def _made_on(artifact: Artifact) -> dict[str, Any]:
    """Machine and source of the pretraining."""
    names = ("platform", "python", "cpu", "num_cpus", "memory_gib", "git_commit", "git_patch_sha256", "finished_at")
    made = {name: artifact.provenance.get(name) for name in names}
    return {**made, "device": artifact.metrics.get("device"), "packages": dict(artifact.provenance.get("packages", {}))}
