"""Checks of a run's manifests: what made what, under which configuration, and that the evidence is what they name.

A fingerprint is a digest of step, settings, inputs, code and packages, all of which stand in the manifest, so it is
computed again from them; the inputs must be the results of the other manifests. The settings of steps that read
nothing but the configuration are derived from it once more by this version's rules.
"""

import json
from datetime import datetime
from typing import Any

from nanochat_core.base.errors import CorruptError
from nanochat_core.base.fingerprint import canonical_json, identity_digest
from nanochat_core.pipeline.table import STEPS, wanted
from nanochat_core.record.archive import entry_of
from nanochat_core.record.evidence import (
    FILES_OF_STEPS,
    MANIFESTS,
    PATCH,
    PLAN,
    RUN,
    WEIGHTS,
    Evidence,
    plan_record,
)
from nanochat_core.record.problems import Problem, differences, is_close, read_json, shown
from nanochat_core.record.rules import may_lack_setting
from nanochat_core.store.manifest import Artifact, FileEntry
from nanochat_core.store.provenance import STEPS_BY_CODE

# The identities of other steps look at this machine as well: files of a corpus, versions of Python.
STEPS_OF_CONFIG = ("tokenizer", "tokens", "pretrain", "evaluate_base", "sft", "evaluate_chat", "evaluate_core")
CLOCK_SLACK_S = 0.01  # provenance rounds its seconds


REQUIRED = {"corpus", "tokenizer", "tokens", "pretrain", "evaluate_base"}


def check_chain(evidence: Evidence) -> list[Problem]:
    """Everything about manifests, ledger, plan and patch that does not fit together."""
    with evidence.checking(RUN):
        _check_ledger(evidence)
    for step in sorted(REQUIRED - evidence.manifests.keys()):
        evidence.say(manifest_name(step), "", f"is missing: a record needs {step}")
    for step, artifact in evidence.manifests.items():
        with evidence.checking(manifest_name(step)):
            _check_manifest(evidence, step, artifact)
    _check_files(evidence)
    with evidence.checking(PLAN):
        _check_plan(evidence)
    _check_patch(evidence)
    return evidence.problems


def manifest_name(step: str) -> str:
    return f"{MANIFESTS}/{step}.json"


def _check_ledger(evidence: Evidence) -> None:
    for index, line in enumerate(evidence.steps):
        where = f"record.steps[{index}]"
        artifact = evidence.manifests.get(line.get("step", ""))
        if artifact is None:
            evidence.say(manifest_name(str(line.get("step"))), "", "is missing, and the run's ledger lists the step")
            continue
        found = {
            "step": artifact.step,
            "fingerprint": artifact.fingerprint,
            "digest": artifact.result_digest,
            "is_cached": bool(line.get("is_cached")),
            "seconds": float(artifact.provenance.get("seconds", 0.0)),
            "metrics": dict(artifact.metrics),
        }
        for path, claimed, actual in differences(line, found):
            evidence.say(
                RUN, f"{where}.{path}", f"is {shown(claimed)}, the manifest of {artifact.step} gives {shown(actual)}"
            )
    listed = {line.get("step") for line in evidence.steps}
    for step in evidence.manifests.keys() - listed:
        evidence.say(manifest_name(step), "", "is not in the run's ledger")


def _check_manifest(evidence: Evidence, step: str, artifact: Artifact) -> None:
    name = manifest_name(step)
    identity = {
        "step": artifact.step,
        "config": artifact.config,
        "inputs": artifact.inputs,
        "code": artifact.code,
        "packages": artifact.packages,
    }
    if (found := identity_digest(identity)) != artifact.fingerprint:
        evidence.say(
            name, "fingerprint", f"is {artifact.fingerprint}, step, config, inputs, code and packages give {found}"
        )
    if evidence.plan is not None and step in STEPS:
        known = wanted(evidence.plan)
        read = STEPS[step].needed({name: None for name in STEPS[step].sources if name in known})
        for source in sorted(read.keys() - artifact.inputs.keys()):
            evidence.say(name, f"inputs.{source}", "is missing: the step reads it")
    for source, digest in artifact.inputs.items():
        made = evidence.manifests.get(source)
        if made is None:
            evidence.say(name, f"inputs.{source}", "has no manifest in the bundle")
        elif digest not in (made.result_digest, made.digest):
            evidence.say(name, f"inputs.{source}", f"is {digest}, the manifest of {source} gives {made.result_digest}")
    if evidence.plan is not None and step in STEPS_OF_CONFIG and step in STEPS:
        derived = _as_json(STEPS[step].settings(evidence.plan))
        for path, claimed, expected in differences(dict(artifact.config), derived, "config"):
            if may_lack_setting(path, claimed, expected):
                continue
            evidence.say(name, path, f"is {shown(claimed)}, the run's configuration gives {shown(expected)}")
    _check_times(evidence, name, artifact.provenance)
    if STEPS_BY_CODE in artifact.provenance:
        _check_codes(evidence, name, artifact)


def _check_codes(evidence: Evidence, name: str, artifact: Artifact) -> None:
    """A training that several codes made: their steps follow one another, from a start to the next, and their
    fingerprints are those of the same settings and inputs."""
    parts, last_step = artifact.provenance[STEPS_BY_CODE], artifact.metrics["num_steps"]
    starts = {record["step"] for record in evidence.records if record["event"] == "start"} | {last_step}
    done = 0
    for index, part in enumerate(parts):
        where = f"provenance.{STEPS_BY_CODE}[{index}]"
        first, last = part["first_step"], part["last_step"]
        is_start = last in starts or name != manifest_name("pretrain")  # of the others there is no log here
        if first != done + 1 or last < first or not is_start or (part is parts[-1] and last != last_step):
            evidence.say(name, where, f"says steps {shown(first)} to {shown(last)}, which the step log does not")
        done = last
        if "code" in part and "accepted_drift" not in artifact.provenance:
            of_part = {"code": part["code"], "packages": part["packages"]}
            identity = {"step": artifact.step, "config": artifact.config, "inputs": artifact.inputs, **of_part}
            if (found := identity_digest(identity)) != part["fingerprint"]:
                evidence.say(name, f"{where}.fingerprint", f"is {shown(part['fingerprint'])}, its code gives {found}")


def _as_json(value: Any) -> Any:
    """The value as it comes back from a file: lists for tuples."""
    return json.loads(canonical_json(value))


def _check_times(evidence: Evidence, name: str, provenance: Any) -> None:
    try:
        started, finished = (datetime.fromisoformat(provenance[key]) for key in ("started_at", "finished_at"))
        took_s = (finished - started).total_seconds()
        is_sound = is_close(provenance["seconds"], took_s) or abs(provenance["seconds"] - took_s) < CLOCK_SLACK_S
    except (KeyError, TypeError, ValueError) as error:
        evidence.say(name, "provenance", f"does not say when the step ran: {error}")
        return
    if not is_sound:
        seconds = shown(provenance["seconds"])
        evidence.say(name, "provenance.seconds", f"is {seconds}, started_at and finished_at give {shown(took_s)}")


def _check_files(evidence: Evidence) -> None:
    """Each file is one that a manifest names, with its digest, and none of those that a bundle takes is lacking."""
    for name, content in evidence.files.items():
        step, _, inner = name.partition("/")
        if name in (RUN, PLAN, PATCH) or step == MANIFESTS:
            continue
        artifact = evidence.manifests.get(step)
        if artifact is None or inner not in artifact.files:
            evidence.say(name, "", "is named by no manifest")
        else:
            _check_entry(evidence, name, entry_of(content), artifact.files[inner])
    for step, names in FILES_OF_STEPS.items():
        artifact = evidence.manifests.get(step)
        for inner in names:
            if artifact and inner in artifact.files and f"{step}/{inner}" not in evidence.files:
                evidence.say(f"{step}/{inner}", "", f"is missing, and the manifest of {step} names it")


def _check_entry(evidence: Evidence, name: str, found: FileEntry, promised: FileEntry) -> None:
    if found.sha256 != promised.sha256:
        step = name.partition("/")[0]
        evidence.say(name, "", f"has sha256 {found.sha256}, the manifest of {step} names {promised.sha256}")


def check_weights(evidence: Evidence, entries: dict[str, FileEntry]) -> None:
    """The weights of a bundle that has them, by the names below the run's folder."""
    artifact = evidence.manifests.get("pretrain")
    for name, entry in entries.items():
        inner = name.partition("/")[2]
        if artifact is None or inner not in artifact.files:
            evidence.say(name, "", "is named by no manifest")
        else:
            _check_entry(evidence, name, entry, artifact.files[inner])


def is_weights(name: str) -> bool:
    """Whether a file of a run, by its name below the run's folder, holds weights: too large to read at once."""
    step, _, inner = name.partition("/")
    return step == "pretrain" and inner in WEIGHTS


def _check_plan(evidence: Evidence) -> None:
    if PLAN not in evidence.files:
        evidence.say(PLAN, "", "is missing")
    elif evidence.plan is not None:
        derived = _as_json(plan_record(evidence.plan))
        try:
            stored = read_json(evidence.files[PLAN], where=PLAN)
        except CorruptError as error:
            evidence.say(PLAN, "", error.message.removeprefix(f"{PLAN} "))
            return
        for path, claimed, expected in differences(stored, derived):
            if may_lack_setting(path, claimed, expected):
                continue
            evidence.say(PLAN, path, f"is {shown(claimed)}, the configuration gives {shown(expected)}")


def _check_patch(evidence: Evidence) -> None:
    """The uncommitted changes that the pretraining ran with."""
    artifact = evidence.manifests.get("pretrain")
    promised = artifact.provenance.get("git_patch_sha256") if artifact else None
    if PATCH in evidence.files and (found := entry_of(evidence.files[PATCH]).sha256) != promised:
        evidence.say(PATCH, "", f"has sha256 {found}, the manifest of pretrain names {promised}")
