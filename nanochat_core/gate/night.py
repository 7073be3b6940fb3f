"""A night: its record in the store, the seeds that it trains, and how it goes on after a kill.

A night trains anew because its seeds are its own: they follow from the night's id, so no earlier training has their
fingerprint, while corpus, tokenizer and tokens, which no seed touches, are found in the store. The id is written down
before the first step. A night that was killed is still open; the next one with the same settings and source goes on
with it, finds the same seeds, and so the last checkpoint. A lease says that an open night is somebody's: then a night
of its own begins. The record is a run's (runs/<id>.json), so garbage collection keeps what a kept night made.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import platform
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanochat_core import workspace
from nanochat_core.base.child import NonFiniteError
from nanochat_core.base.errors import CorruptError
from nanochat_core.base.fingerprint import PACKAGE_ROOT, identity_digest
from nanochat_core.gate import baseline, probe
from nanochat_core.gate.baseline import MIXED
from nanochat_core.gate.level import known_sd_frac
from nanochat_core.gate.metrics import PRIMARY, NightRun, finite, read_curve, read_metrics, read_records
from nanochat_core.gate.probe import Probe
from nanochat_core.gate.verdict import PROBE, Past, Verdict, by_equal_bits, by_pairs, judge, unfit, unjudged
from nanochat_core.pipeline.step import ChecksFailedError, Ref, step_key
from nanochat_core.plan import RunPlan
from nanochat_core.store import provenance
from nanochat_core.store.lease import LeaseHeldError
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store

log = logging.getLogger(__name__)
KIND = "nightly"
OPEN_HOURS = 48.0  # an open night that is older is given up: a new day has new code
FAILURES = (ChecksFailedError, NonFiniteError)
DIVERGED = (
    "loss is a number",
    "better than guessing",
    "weights are numbers",
    "bits per byte is a number",
)  # of the quality checks
SPEED_SETTINGS = (
    "num_processes", "num_nodes", "device_batch_rows", "attention", "compile", "num_threads", "log_every_steps",
)  # fmt: skip
"""Of `runtime`: what speed and memory depend on."""
Train = Callable[[RunPlan], list[Ref]]
"""Runs the steps of a plan up to the base model's evaluation."""
Night = dict[str, Any]
"""The record of a night, as the store has it."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What somebody asked the gate for."""

    preset: str
    overrides: tuple[str, ...] = ()
    seeds: int = 1
    """Trainings at least: of a night without a baseline all there are, else more where the rule asks for them."""
    asked_by: str | None = None
    """Who asked, such as the id of a flow run: asking again gives the same night."""
    is_full: bool = False
    """Train in full, whatever short trainings could say."""


def run_night(plan: RunPlan, asked: Asked, train: Train) -> Night:
    """Train, measure and judge; returns the night's record. A finished night that is asked for again is returned."""
    store = workspace.current().store
    with _begun(store, plan, asked) as night:
        while night["verdict"] is None:
            verdict, chosen = _verdict(store, night)
            try:
                if verdict is None and not night["runs"]:
                    verdict, chosen = _by_probe(store, night, plan, asked, train)
                if verdict is None:
                    seeded = with_seed(plan, seed_of(night["run_id"], len(night["runs"])))
                    refs = train(seeded)
                    run = measured(store, refs, seeded, asked)
                    _add(store, night, dataclasses.replace(run, night=night["run_id"]), refs)
                    continue
            except FAILURES as error:
                if not has_diverged(type(error).__name__, error.message):
                    raise
                verdict = unfit(error, num_looks=len(night["runs"]))
            night |= {"verdict": verdict.record(), "baseline": chosen, "state": verdict.outcome}
            night["seconds"] = time.time() - datetime.fromisoformat(night["started_at"]).timestamp()
            store.put_run(night["run_id"], night)
        return night


def has_diverged(error: str, message: str) -> bool:
    """Whether a failed training, by its error's class and words, made nothing worth measuring.

    That is a finding; a torn checkpoint, a leak in the corpus or a full disk is a failure.
    """
    is_check = error == ChecksFailedError.__name__ and any(f"{check}: found" in message for check in DIVERGED)
    return is_check or error == NonFiniteError.__name__


def seed_of(night: str, number: int) -> int:
    """The seed of a night's training `number`."""
    return int.from_bytes(hashlib.sha256(f"{night}/{number}".encode()).digest()[:4], "big") >> 1


def with_seed(plan: RunPlan, seed: int) -> RunPlan:
    """The plan with another seed."""
    return dataclasses.replace(plan, config=dataclasses.replace(plan.config, seed=seed))


def nights(store: Store) -> list[Night]:
    """Every readable night, oldest first."""
    found = []
    for run_id in store.runs():
        if not run_id.startswith(f"{KIND}-"):
            continue
        try:
            record = store.run(run_id)
        except CorruptError as error:
            log.warning("%s: leaving it out", error)
            continue
        if record.get("kind") == KIND:
            found.append(record)
    return sorted(found, key=lambda night: str(night["started_at"]))


def runs_of(night: Night) -> list[NightRun]:
    return [NightRun.from_record(run) for run in night["runs"]]


def past(history: Sequence[Night], conditions: dict[str, Any], baseline_runs: Sequence[NightRun]) -> list[Past]:
    """The finished nights under these conditions since the last one that the baseline has a run of, oldest first."""
    used, found = {run.fingerprint for run in baseline_runs}, list[Past]()
    for night in history:
        runs = tuple(run for run in runs_of(night) if run.conditions == conditions)
        if used & {run.fingerprint for run in runs}:
            found.clear()
        elif night["state"] in ("green", "red") and (runs or night["state"] == "red"):
            is_by_loss = night["state"] == "red" and night["verdict"].get("decided_by") not in ("another metric", PROBE)
            effect = night["verdict"].get("effect_sd") if is_by_loss else None
            found.append(Past(night["run_id"], runs, is_red=night["state"] == "red" and is_by_loss, effect_sd=effect))
    return [night for night in found if night.runs]


def measured(store: Store, refs: Sequence[Ref], plan: RunPlan, asked: Asked) -> NightRun:
    """A finished training as the gate sees it; one whose evaluation is no number has diverged."""
    by_step = {ref.step: ref for ref in refs}
    logged = read_records(store, by_step["pretrain"])
    made = {step: store.find(step, by_step[step].fingerprint) for step in ("pretrain", "evaluate_base")}
    assert all(made.values()), "a step's artifact is there when the step is done"
    trained, evaluated = made["pretrain"], made["evaluate_base"]
    assert trained is not None
    assert evaluated is not None
    metrics, not_finite = finite(read_metrics(by_step, logged, plan))
    if PRIMARY not in metrics:
        raise NonFiniteError("the evaluation's bits per byte are no number")
    runtime = {name: getattr(plan.config.runtime, name) for name in SPEED_SETTINGS}
    return NightRun(
        seed=plan.config.seed,
        recipe=recipe_of(trained, evaluated),
        fingerprint=trained.fingerprint,
        metrics=metrics,
        not_finite=not_finite,
        runtime=identity_digest(runtime),
        conditions=_conditions(by_step, trained, logged, plan, asked),
        curve=tuple(read_curve(logged, plan)),
        seconds=by_step["pretrain"].seconds,
        weights=by_step["pretrain"].digest,
    )


def recipe_of(pretrain: Artifact, evaluate: Artifact) -> str:
    """Digest of what decides a result but the seed; gate/candidate.py computes the same before a training."""
    config = {name: value for name, value in pretrain.config.items() if name != "seed"}
    trained = {"config": config, "inputs": pretrain.inputs, "code": pretrain.code, "packages": pretrain.packages}
    measured = {"config": evaluate.config, "code": evaluate.code, "packages": evaluate.packages}
    return identity_digest({"pretrain": trained, "evaluate": measured})


def _conditions(
    refs: dict[str, Ref], trained: Artifact, logged: Sequence[Any], plan: RunPlan, asked: Asked
) -> dict[str, Any]:
    """What a comparison takes for granted: the task, the text and the machine; never the recipe, which is judged."""
    device = str(trained.metrics.get("device"))
    return {
        "preset": Path(asked.preset).stem,
        "overrides": identity_overrides(asked.overrides),
        "corpus": refs["corpus"].digest,
        "bpb_tokens": plan.config.evaluate.bpb_tokens,
        "device": device,
        "dtype": str(trained.metrics.get("dtype")),
        "processes": _processes(logged),
        "torch_build": str((trained.provenance.get("packages") or {}).get("torch")).partition("+")[2] or "default",
        **({"cpu": trained.provenance.get("cpu")} if device == "cpu" else {}),
        **({MIXED: steps} if (steps := provenance.steps_by_code(trained.provenance)) else {}),
    }


def _processes(logged: Sequence[Any]) -> int | str:
    """How many trained; "1 and 2" where it went on with another number."""
    found = sorted({int(record["world_size"]) for record in logged if record["event"] == "start"})
    return (found or [1])[0] if len(found) < 2 else " and ".join(map(str, found))


def identity_overrides(overrides: Sequence[str]) -> list[str]:
    """Those that change the task; the machine's and the seed are recorded apart."""
    return sorted(text for text in overrides if not text.startswith(("runtime.", "seed=")))


def _verdict(store: Store, night: Night) -> tuple[Verdict | None, str | None]:
    """The verdict and the baseline's name; None while the night needs a further training."""
    runs = runs_of(night)
    if not runs:
        return None, None
    chosen = baseline.find(store, runs[0].conditions)
    if chosen.runs is None:
        return (unjudged(chosen.reason, num_looks=len(runs)), None) if len(runs) >= night["seeds"] else (None, None)
    history = [other for other in nights(store) if other["run_id"] != night["run_id"]]
    before = past(history, runs[0].conditions, chosen.runs)
    prior = known_sd_frac(night["config"]["pretrain"]["depth"])
    verdict = judge(runs, chosen.runs, before, prior_frac=prior, budget=chosen.budget)
    if told := (night.get("probe") or {}).get("told"):
        verdict = dataclasses.replace(verdict, notes=(*verdict.notes, told))
    is_done = verdict.outcome != "unsure" and len(runs) >= night["seeds"]
    return (verdict if is_done else None), chosen.name


def _by_probe(
    store: Store, night: Night, plan: RunPlan, asked: Asked, train: Train
) -> tuple[Verdict | None, str | None]:
    """What short trainings decide (gate/probe.py), and the baseline's name; None where the night is to be trained.

    Where trainings in full were asked for they decide nothing, but later nights have pairs in them.
    """
    if not probe.fits(plan):
        return None, None

    def short(seed: int, units: int = 0) -> NightRun:
        seeded = probe.plan_of(plan, seed, twin=units)
        refs = train(seeded)
        if "around" not in night["probe"]:
            night["probe"] |= _surroundings(store, refs, plan)
        return dataclasses.replace(measured(store, refs, seeded, asked), night=night["run_id"])

    def trained(kind: str, wanted: Sequence[tuple[int, int]]) -> Probe:
        for seed, units in wanted[len(night["probe"][kind]) :]:
            night["probe"][kind].append(asdict(short(seed, units)))
            store.put_run(night["run_id"], night)
        return Probe.from_record(night["probe"])

    night["probe"] = night.get("probe") or {"steps": probe.STEPS, "runs": [], "twins": []}
    seeds = [(seed, 0) for seed in probe.SEEDS]
    tonight = trained("runs", seeds[:1])
    history = [other for other in nights(store) if other["run_id"] != night["run_id"]]
    chosen = baseline.find(store, tonight.runs[0].conditions)
    pinned = {run.night for run in chosen.runs or ()}
    known = {other["run_id"]: each for other in history if other.get("probe") and other["probe"]["runs"]
             if tonight.is_pair_of(each := Probe.from_record(other["probe"]))}  # fmt: skip
    before = [each for run_id, each in known.items() if run_id in pinned]
    in_full = asked.is_full or night["seeds"] > 1
    if before and probe.has_equal_bits(tonight, before[-1]):
        rows = probe.compare_machine(tonight, before)
        is_due = in_full or _is_full_due(history, tonight.runs[0].conditions)
        if is_due or any(row.state == "fail" for row in rows):
            return None, chosen.name
        return by_equal_bits(probe.STEPS, rows, num_baseline=len(chosen.runs or ())), chosen.name
    tonight = trained("runs", seeds)
    paired = next((each for each in reversed(before) if len(each.runs) > 1), None)  # equal bits need but one
    if paired is None or in_full:
        return None, chosen.name
    twins = [each for other in known.values() for each in probe.twin_differences(other)]
    if len(twins) < probe.NUM_TWINS:
        twins = probe.twin_differences(trained("twins", probe.twins_wanted()))
    pairs = probe.compare_pairs(tonight, paired, twins)
    if pairs is None:
        return None, chosen.name
    if pairs.is_red(budget=chosen.budget):
        return by_pairs(probe.STEPS, pairs, num_baseline=len(chosen.runs or ())), chosen.name
    night["probe"]["told"] = f"a probe of {probe.STEPS} steps is {pairs.told()}" + (
        "" if pairs.pays else "; pairs do not pay"
    )
    return None, chosen.name


def _surroundings(store: Store, refs: Sequence[Ref], plan: RunPlan) -> dict[str, str]:
    """Digests of what a probe has in common with those that it is a pair of, and of what measures the night."""
    from nanochat_core.pipeline.table import STEPS

    made = {ref.step: store.find(ref.step, ref.fingerprint) for ref in refs}
    trained = made["pretrain"]
    assert trained is not None, "a step's artifact is there when the step is done"
    keys = [step_key(STEPS[step], plan, {}).identity for step in _evaluations(plan)]
    evaluation = [{name: identity[name] for name in ("config", "code", "packages")} for identity in keys]
    around = {"packages": trained.packages, "inputs": trained.inputs}
    return {"around": identity_digest(around), "evaluation": identity_digest({"steps": evaluation})}


def _evaluations(plan: RunPlan) -> list[str]:
    return ["evaluate_base", "evaluate_core"] if plan.has_core else ["evaluate_base"]


def _is_full_due(history: Sequence[Night], conditions: dict[str, Any]) -> bool:
    """Whether the last night that was trained in full is a week old."""
    for other in reversed(history):
        if other["runs"] and other["runs"][0]["conditions"] == conditions:
            age = time.time() - datetime.fromisoformat(other["started_at"]).timestamp()
            return age > probe.FULL_DAYS * 86_400
    return True


def _add(store: Store, night: Night, run: NightRun, refs: Sequence[Ref]) -> None:
    night["runs"].append(asdict(run))
    known = {(line["step"], line["fingerprint"]) for line in night["steps"]}
    night["steps"] += [ref.line() for ref in refs if (ref.step, ref.fingerprint) not in known]
    store.put_run(night["run_id"], night)


@contextlib.contextmanager
def _begun(store: Store, plan: RunPlan, asked: Asked) -> Iterator[Night]:
    """The night to work on, ours until the end of the block."""
    source = provenance.git_state(PACKAGE_ROOT)
    for night in reversed(nights(store)):
        is_asked_again = asked.asked_by is not None and night["asked_by"] == asked.asked_by
        if not is_asked_again and not _continues(night, asked, source):
            continue
        with contextlib.suppress(LeaseHeldError), contextlib.ExitStack() as stack:
            stack.enter_context(_lease(store, night["run_id"], wait_s=None if is_asked_again else 0.0))
            found = store.run(night["run_id"])  # who held it before may have finished it
            if is_asked_again or found["state"] == "open":
                yield found
                return
    night = _new_night(plan, asked, source)
    with _lease(store, night["run_id"], wait_s=None):
        store.put_run(night["run_id"], night)
        yield night


def _continues(night: Night, asked: Asked, source: dict[str, Any]) -> bool:
    started = datetime.fromisoformat(night["started_at"]).timestamp()
    is_same = night["preset"] == asked.preset and night["overrides"] == list(asked.overrides)
    is_young = time.time() - started < OPEN_HOURS * 3600
    return bool(night["state"] == "open" and is_same and is_young and night["source"] == source)


def _lease(store: Store, run_id: str, *, wait_s: float | None) -> Any:
    owner = f"process {os.getpid()} on {platform.node() or 'this machine'}"
    return store.lease(KIND, run_id, owner=owner, wait_s=wait_s)


def _new_night(plan: RunPlan, asked: Asked, source: dict[str, Any]) -> Night:
    stamp = datetime.now(UTC)
    name = Path(asked.preset).stem
    return {
        "run_id": f"{KIND}-{name}-{stamp:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}",
        "kind": KIND,
        "state": "open",
        "preset": asked.preset,
        "overrides": list(asked.overrides),
        "seeds": asked.seeds,
        "asked_by": asked.asked_by,
        "started_at": stamp.isoformat(),
        "seconds": 0.0,
        "config": asdict(plan.config),
        "source": source,
        "machine": provenance.hardware(),
        "probe": None,
        "runs": [],
        "steps": [],
        "baseline": None,
        "verdict": None,
    }
