"""Everything that is needed to make a run again, or to find out why it cannot be: the page's last section.

From the plan and the manifests. A cached step may be older than the checkout and made by other packages, so commits,
command lines and versions are told per step where they differ. What looks like a secret in a setting is taken out.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nanochat_core.base.redaction import redact_value
from nanochat_core.base.units import size
from nanochat_core.plan import RunPlan
from nanochat_core.report import outline
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.provenance import steps_by_code

MODEL_STEP = "pretrain"
Artifacts = Mapping[str, Artifact | None]


@dataclass(frozen=True)
class Shared:
    """Something that several steps have in common."""

    text: str
    steps: str


@dataclass(frozen=True)
class ArtifactRow:
    """One artifact's identity."""

    step: str
    fingerprint: str
    digest: str
    inputs: str
    size: str


@dataclass(frozen=True)
class Reproduction:
    """The section's parts."""

    commands: dict[str, str]
    changes: list[outline.Change]
    is_preset_known: bool
    settings: str
    seeds: list[tuple[str, str]]
    sources: list[Shared]
    arguments: list[Shared]
    packages: list[Shared]
    machines: list[Shared]
    artifacts: list[ArtifactRow]
    checksums: str
    """Every file of every artifact, as sha256sum prints them."""
    num_files: int
    record: str
    """All of it as JSON."""


def reproduction(plan: RunPlan, artifacts: Artifacts, *, run_id: str, device: str) -> Reproduction:
    """`device` is what the training said that it ran on."""
    known = {step: artifact for step, artifact in artifacts.items() if artifact is not None}
    config = plan.config
    files = [f"{entry.sha256}  {step}/{name}" for step, a in known.items() for name, entry in sorted(a.files.items())]
    return Reproduction(
        commands=outline.commands(config),
        changes=outline.changes(config),
        is_preset_known=outline.is_known_preset(config),
        settings=_settings(plan),
        seeds=_seeds(known),
        sources=_grouped(artifacts, _source),
        arguments=_grouped(known, lambda a: "nanochat " + shlex.join(a.provenance.get("arguments") or [])),
        packages=_grouped(known, lambda a: _pairs(a.provenance.get("packages") or {})),
        machines=_grouped(known, lambda a: _machine(a, device)),
        artifacts=[
            ArtifactRow(step, a.fingerprint, a.digest, ", ".join(a.inputs), size(a.num_bytes))
            for step, a in known.items()
        ],
        checksums="\n".join(files),
        num_files=len(files),
        record=json.dumps(redact_value(_record(plan, known, run_id=run_id, device=device)), indent=1, default=str),
    )


def _grouped(artifacts: Artifacts, tell: "Callable[[Any], str]") -> list[Shared]:
    """What `tell` says, each with the steps it says it of."""
    steps: dict[str, list[str]] = {}
    for step, artifact in artifacts.items():
        if text := tell(artifact):
            steps.setdefault(text, []).append(step)
    return [Shared(text, ", ".join(names)) for text, names in steps.items()]


def _source(artifact: Artifact | None) -> str:
    """Commit, and what it does not have: such code cannot be had again from the commit alone."""
    told: Mapping[str, Any] = artifact.provenance if artifact else {}
    commit = str(told.get("git_commit") or ("no commit yet" if told.get("is_git_checkout") else "no git checkout"))
    patch, num_untracked = told.get("git_patch_sha256"), told.get("num_untracked_files")
    parts = [f"uncommitted changes, patch {patch}"] if patch else []
    parts += [f"{num_untracked} untracked files"] if num_untracked else []
    clean = ", clean" if told.get("git_commit") else ""
    return "; ".join([f"{commit}, with {' and '.join(parts)}" if parts else commit + clean, *steps_by_code(told)])


def _machine(artifact: Artifact, device: str) -> str:
    told = artifact.provenance
    trained = [f"device {device}"] if device and artifact.step == MODEL_STEP else []
    memory = _unit(told.get("memory_gib"), "GiB of memory")
    python = f"Python {told['python']}" if told.get("python") else ""
    parts = (told.get("platform"), told.get("cpu"), _unit(told.get("num_cpus"), "cores"), memory, python)
    return ", ".join([*trained, *(str(part) for part in parts if part)])


def _unit(value: Any, unit: str) -> str:
    return f"{value} {unit}" if value else ""


def _pairs(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _seeds(artifacts: Mapping[str, Artifact]) -> list[tuple[str, str]]:
    """As the manifests have them; steps without one draw nothing at random or carry it in their code."""
    return [(step, str(a.config["seed"])) for step, a in artifacts.items() if "seed" in a.config]


def _settings(plan: RunPlan) -> str:
    """All settings, one a line; a changed one says what the preset has."""
    usual = {change.name: change.usual for change in outline.changes(plan.config)}
    lines = []
    for name, value in outline.settings(plan.config).items():
        lines.append(f"{name}={value}" + (f"   # the preset has {usual[name]}" if name in usual else ""))
    return "\n".join(lines)


def _record(plan: RunPlan, artifacts: Mapping[str, Artifact], *, run_id: str, device: str) -> dict[str, Any]:
    names = ("fingerprint", "digest", "inputs", "config", "packages", "code", "metrics", "provenance")
    return {
        "run_id": run_id,
        "device": device,
        "config": asdict(plan.config),
        "plan": asdict(plan.pretrain),
        "steps": {step: {name: getattr(a, name) for name in names} for step, a in artifacts.items()},
    }
