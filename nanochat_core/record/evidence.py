"""The evidence of one run in a bundle: its ledger, manifests, step log, plan and scores, read and typed.

Reading is strict and never stops at the first fault: what cannot be read becomes a problem with the file's name, and
the checks go on with the rest, so that a refusal lists everything that is wrong.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from nanochat_core.base.errors import CorruptError, NanochatError
from nanochat_core.plan import RunPlan, plan_run, summary
from nanochat_core.presets import config_from_record
from nanochat_core.record.problems import Problem, Problems, read_json, shown
from nanochat_core.record.step_log import read_log
from nanochat_core.store.manifest import SEAL, Artifact, open_sealed_json, seal_json
from nanochat_core.store.provenance import STEPS_BY_CODE

ROOT = "evidence"
RUN = "run.json"
PLAN = "plan.json"
PATCH = "source.patch"
MANIFESTS = "manifests"
STEP_LOG = "pretrain/log/metrics.jsonl"
BITS_PER_BYTE = "evaluate_base/bpb.json"
CORE = "evaluate_core/core.json"
OUTCOMES = "evaluate_core/outcomes.jsonl"
LEDGER: dict[str, Any] = {"run_id": str, "started_at": str, "seconds": int | float, "config": dict, "steps": list}
PROVENANCE: dict[str, Any] = {  # what claims and notes read of it
    "git_commit": str | None, "git_patch_sha256": str | None, "num_untracked_files": int, "packages": dict,
    "started_at": str, "finished_at": str, "seconds": int | float, STEPS_BY_CODE: list,
}  # fmt: skip
MAX_BAD_LINES = 100  # of a file; what follows is not read
UNCHECKABLE = (  # what values of a wrong kind raise in a check that takes them for ours
    ArithmeticError, AttributeError, LookupError, TypeError, ValueError, RecursionError, NanochatError,
)  # fmt: skip
FILES_OF_STEPS = {  # what a bundle takes along of each artifact; a file that the artifact lacks is left out
    "pretrain": ("log/metrics.jsonl", "config.json"),
    "evaluate_base": ("bpb.json",),
    "evaluate_core": ("core.json", "outcomes.jsonl"),
}
WEIGHTS = ("model.safetensors", "optimizer.safetensors")


@dataclass
class Evidence:
    """One run's files, by their names below its folder, and what they say."""

    run_id: str
    files: Mapping[str, bytes]
    ledger: dict[str, Any] = field(default_factory=dict)
    """The run's record in its store."""
    plan: RunPlan | None = None
    manifests: dict[str, Artifact] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    bits_per_byte: dict[str, Any] | None = None
    core: dict[str, Any] | None = None
    outcomes: list[dict[str, Any]] | None = None
    problems: Problems = field(default_factory=Problems)

    def path(self, name: str) -> str:
        """The name in the bundle of a file of this run."""
        return f"{ROOT}/{self.run_id}/{name}"

    def say(self, name: str, where: str, text: str) -> None:
        self.problems.append(Problem(self.path(name), where, text))

    @contextmanager
    def checking(self, name: str) -> Iterator[None]:
        """What a check of values of other kinds than ours raises becomes a problem of the file `name`."""
        try:
            yield
        except UNCHECKABLE as error:
            self.say(name, "", f"cannot be checked: {type(error).__name__}: {error}")

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The ledger's lines, one per step."""
        return list(self.ledger.get("steps", []))


def read_evidence(run_id: str, files: Mapping[str, bytes]) -> Evidence:
    """Read everything; what cannot be read is among the problems."""
    evidence = Evidence(run_id, files)
    with evidence.checking(RUN):
        _read_ledger(evidence)
    _read_manifests(evidence)
    if STEP_LOG in files:
        evidence.records, found = read_log(files[STEP_LOG], file=evidence.path(STEP_LOG))
        evidence.problems += found
    else:
        evidence.say(STEP_LOG, "", "is missing: there is no record without a pretraining's step log")
    evidence.bits_per_byte = _read_object(evidence, BITS_PER_BYTE)
    evidence.core = _read_object(evidence, CORE)
    if OUTCOMES in files:
        evidence.outcomes = _read_outcomes(evidence)
    if (CORE in files) != (OUTCOMES in files):
        evidence.say(OUTCOMES if CORE in files else CORE, "", "is missing: CORE needs the scores and every item")
    return evidence


def _read_ledger(evidence: Evidence) -> None:
    fields = _sealed(evidence, RUN)
    record = fields.get("record")
    if not isinstance(record, dict):
        return
    for name, kind in LEDGER.items():
        if not isinstance(record.get(name), kind):
            evidence.say(RUN, f"record.{name}", f"is {shown(record[name])}" if name in record else "is missing")
            return
    if not all(isinstance(line, dict) and isinstance(line.get("step"), str) for line in record["steps"]):
        evidence.say(RUN, "record.steps", "are not all steps")
        return
    for where, value in (("run_id", fields.get("run_id")), ("record.run_id", record["run_id"])):
        if value != evidence.run_id:
            evidence.say(RUN, where, f"is {shown(value)}, its folder says {evidence.run_id!r}")
    evidence.ledger = record
    try:
        evidence.plan = plan_run(config_from_record(record["config"], is_foreign=True))
    except UNCHECKABLE as error:
        evidence.say(RUN, "record.config", f"cannot be planned: {error}")


def _sealed(evidence: Evidence, name: str) -> dict[str, Any]:
    """A sealed file's fields; also where the seal is broken, so that the fields can be checked one by one."""
    if name not in evidence.files:
        evidence.say(name, "", "is missing")
        return {}
    content = evidence.files[name]
    try:
        fields = read_json(content, where=name)
        if isinstance(fields, dict):
            open_sealed_json(content, where=name)
    except CorruptError as error:
        evidence.say(name, "seal", error.message.removeprefix(f"{name} "))
        fields = _unsealed(content)
    return fields if isinstance(fields, dict) else {}


def _unsealed(content: bytes) -> dict[str, Any]:
    try:
        fields = read_json(content, where="")
    except CorruptError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _read_manifests(evidence: Evidence) -> None:
    folder = f"{MANIFESTS}/"
    for name in sorted(evidence.files):
        if not name.startswith(folder):
            continue
        fields = _sealed(evidence, name)
        known = {field.name for field in dataclasses.fields(Artifact)} | {"format", "digest", "seal"}
        for unknown in sorted(fields.keys() - known):
            evidence.say(name, unknown, "is unknown")
        try:
            artifact = Artifact.from_json(_resealed(fields), where=name)
        except UNCHECKABLE as error:
            evidence.say(name, "digest", str(error).removeprefix(f"{name} "))
            continue
        if artifact.step != PurePosixPath(name).stem:
            evidence.say(name, "step", f"is {artifact.step!r}, the file's name says otherwise")
        if _has_sound_provenance(evidence, name, artifact.provenance):
            evidence.manifests[PurePosixPath(name).stem] = artifact


def _has_sound_provenance(evidence: Evidence, name: str, made: Mapping[str, Any]) -> bool:
    wrong = [key for key, kind in PROVENANCE.items() if key in made and not isinstance(made[key], kind)]
    for key in wrong:
        evidence.say(name, f"provenance.{key}", f"is {shown(made[key])}")
    return not wrong


def _resealed(fields: dict[str, Any]) -> bytes:
    """The same fields under a seal of their own: a broken seal is told once, and the fields are looked at anyway."""
    return seal_json({name: value for name, value in fields.items() if name != SEAL})


def _read_object(evidence: Evidence, name: str) -> dict[str, Any] | None:
    if name not in evidence.files:
        return None
    try:
        fields = read_json(evidence.files[name], where=name)
    except CorruptError as error:
        evidence.say(name, "", error.message.removeprefix(f"{name} "))
        return None
    if not isinstance(fields, dict):
        evidence.say(name, "", "is not an object")
        return None
    return fields


def _read_outcomes(evidence: Evidence) -> list[dict[str, Any]]:
    rows, num_bad = [], 0
    text = evidence.files[OUTCOMES].decode("utf-8", "replace")
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        try:
            row = read_json(line.encode(), where=f"line {number}")
        except CorruptError as error:
            evidence.say(OUTCOMES, f"line {number}", error.message.partition(" ")[2].partition(" ")[2])
            num_bad += 1
            if num_bad == MAX_BAD_LINES:
                break
            continue
        rows.append({**row, "line": number} if isinstance(row, dict) else {"line": number})
    return rows


def plan_record(plan: RunPlan) -> dict[str, Any]:
    """What plan.json of a bundle holds: every number that follows from the configuration, without the estimate.

    The estimate is a guess about hours and prices and says nothing about what happened.
    """
    derived = summary(plan)
    return {name: value for name, value in derived.items() if name != "estimate"}
