"""`nanochat bundle`: one folder or zip with what a run claims and the evidence for it.

Takes along the ledger, the manifests of all steps, the step log of the pretraining, the scores and each item behind
them, the plan and, where the run recorded them, the uncommitted changes. Checks its own work: what `verify` would
refuse is not written. The same runs give the same bytes.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.base.fingerprint import PACKAGE_ROOT
from nanochat_core.base.redaction import redact, shapes_in
from nanochat_core.presets import config_from_record
from nanochat_core.record import line_digests, rules
from nanochat_core.record.archive import entry_of, write_archive
from nanochat_core.record.chain import is_weights, manifest_name
from nanochat_core.record.claims import Claims, check_alike, derive_claims
from nanochat_core.record.copies import check_copies
from nanochat_core.record.evidence import (
    FILES_OF_STEPS,
    PATCH,
    PLAN,
    ROOT,
    RUN,
    WEIGHTS,
    Evidence,
    plan_record,
    read_evidence,
)
from nanochat_core.record.verify import FORMAT, RECORD, check_evidence
from nanochat_core.store import provenance
from nanochat_core.store.manifest import Artifact, seal_json
from nanochat_core.store.store import Store


@dataclass(frozen=True)
class Bundle:
    """What was written, and what it claims."""

    path: Path
    claims: Claims
    num_bytes: int


def make_bundle(
    store: Store,
    run_ids: Sequence[str],
    out: Path,
    *,
    description: str = "",
    target_bits_per_byte: float | None = None,
    with_weights: bool = False,
) -> Bundle:
    """Bundle runs of one configuration, which may differ in their seeds; ConfigError where they are not that."""
    runs: list[Evidence] = []
    files: dict[str, bytes] = {}
    for run_id in sorted(set(run_ids)):
        collected = collect(store, run_id)
        runs.append(_sound_evidence(run_id, collected))
        files |= {f"{ROOT}/{run_id}/{name}": content for name, content in collected.items()}
    if unlike := [*check_alike(runs, file="the runs"), *check_copies(runs, file="the runs")]:
        raise ConfigError(f"these runs do not belong into one bundle: {unlike[0]}", hint="bundle them one by one")
    everything: dict[str, bytes | Path] = {**files, line_digests.NAME: line_digests.make(files)}
    if with_weights:
        everything |= _weights(store, runs)
    claims = derive_claims(runs, target_bits_per_byte=target_bits_per_byte)
    everything[RECORD] = seal_json(
        {
            "format": FORMAT,
            "rules": rules.CURRENT,
            "description": redact(description) or f"{claims['preset']}, depth {claims['depth']}",
            "target_bits_per_byte": target_bits_per_byte,
            "claims": claims,
            "files": {name: vars(entry_of(content)) for name, content in sorted(everything.items())},
        }
    )
    write_archive(out, everything)
    return Bundle(out, claims, sum(entry_of(content).num_bytes for content in everything.values()))


def collect(store: Store, run_id: str) -> dict[str, bytes]:
    """A run's evidence from the store, by name below the run's folder."""
    record = store.run(run_id)
    if (record["config"].get("base") or {}).get("model") is not None:
        raise ConfigError(
            f"{run_id} began from a model, and a record tells what a training from nothing takes",
            hint="nanochat export takes its model away",
        )
    files = {RUN: seal_json({"run_id": run_id, "record": record})}
    plan = plan_of(record)
    files[PLAN] = (json.dumps(plan, indent=1, sort_keys=True) + "\n").encode()
    for line in record["steps"]:
        artifact = find_artifact(store, line)
        files[manifest_name(artifact.step)] = artifact.to_json()
        names = [name for name in FILES_OF_STEPS.get(artifact.step, ()) if name in artifact.files]
        if names:
            folder = store.fetch(artifact, names)
            files |= {f"{artifact.step}/{name}": (folder / name).read_bytes() for name in names}
        if artifact.step == "pretrain" and (patch := _patch(record, artifact)) is not None:
            files[PATCH] = patch
    _refuse_secrets(files)
    return files


def _refuse_secrets(files: dict[str, bytes]) -> None:
    """Records of earlier versions may hold what is refused or taken out today; every digest hangs on their bytes."""
    for name, content in files.items():
        text = content.decode(errors="replace")
        for number, line in enumerate(text.splitlines() if shapes_in(text) else (), start=1):
            if kinds := shapes_in(line):
                raise ConfigError(
                    f"{name} of this run holds {kinds[0]} in line {number}, and bundles are for strangers",
                    hint="run it again without it: settings with secrets are refused now, and patches lose them",
                )


def plan_of(record: dict[str, Any]) -> dict[str, Any]:
    """The derived numbers of a run's record, as JSON values."""
    from nanochat_core.plan import plan_run

    return plan_record(plan_run(config_from_record(record["config"])))


def find_artifact(store: Store, line: dict[str, Any]) -> Artifact:
    """The artifact of one line of a run's ledger."""
    artifact = store.find(line["step"], line["fingerprint"])
    if artifact is None:
        raise MissingError(
            f"{line['step']}/{line['fingerprint'][:12]} of this run is not in the store any more",
            hint="run it again with the same settings, then bundle that run",
        )
    return artifact


def _patch(record: dict[str, Any], pretrain: Artifact) -> bytes | None:
    """The changes that the pretraining ran with: as the run recorded them, or where the checkout still has them."""
    promised = pretrain.provenance.get("git_patch_sha256")
    candidates = (record.get("source", {}).get("git_patch"), provenance.git_patch(PACKAGE_ROOT))
    for text in candidates if promised else ():
        content = text.encode("utf-8", "surrogateescape") if text else b""
        if entry_of(content).sha256 == promised:
            return content
    return None


def _sound_evidence(run_id: str, files: dict[str, bytes]) -> Evidence:
    evidence = read_evidence(run_id, files)
    if problems := check_evidence(evidence):
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise CorruptError(
            f"the evidence of {run_id} would be refused: {problems[0]}{more}",
            hint="a record needs a run up to evaluate_base, with runtime.log_every_steps=1",
        )
    return evidence


def _weights(store: Store, runs: Sequence[Evidence]) -> dict[str, bytes | Path]:
    files: dict[str, bytes | Path] = {}
    for evidence in runs:
        artifact = evidence.manifests["pretrain"]
        names = [name for name in WEIGHTS if name in artifact.files]
        folder = store.fetch(artifact, names)
        files |= {evidence.path(f"pretrain/{name}"): folder / name for name in names}
    assert all(is_weights(name.split("/", 2)[2]) for name in files)
    return files
