"""What a model was made from and what was measured on it: the manifests that its card is written from.

Upstream follows the digests among a manifest's inputs. Measurements point at the model, and there may be several of one
kind: the one over most items counts, the newest of equals, so that a quick look never hides a full score.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nanochat_core.pipeline.models import MODEL_STEPS, StoredModel
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store

MEASUREMENTS = (
    "evaluate_base",
    "evaluate_core",
    "benchmark_base",
    "evaluate_chat",
    "benchmark_chat",
    "evaluate_rl",
    "benchmark_rl",
)


@dataclass(frozen=True)
class Lineage:
    """Manifests by step."""

    made_from: Mapping[str, Artifact]
    """The model itself and everything upstream that the store still has, in the order of the pipeline."""
    measured: Mapping[str, Artifact]
    """Of the model itself, and of the models that it was trained on from."""


def lineage(store: Store, model: StoredModel) -> Lineage:
    """Look up what the store has of a model's history."""
    made_from: dict[str, Artifact] = {}
    _walk(store, model.artifact, made_from)
    models = {step: made_from[step].result_digest for step in MODEL_STEPS if step in made_from}
    measured: dict[str, Artifact] = {}
    for step in MEASUREMENTS:
        found = [a for a in store.artifacts(step) if _is_about(a, models)]
        if found:
            measured[step] = max(found, key=_weight)
    return Lineage(made_from, measured)


def _walk(store: Store, artifact: Artifact, into: dict[str, Artifact]) -> None:
    """Depth first, inputs before what was made from them. An input is called as the step that made it."""
    for step, digest in artifact.inputs.items():
        if step not in into and (found := _by_digest(store, step, digest)):
            _walk(store, found, into)
    into[artifact.step] = artifact


def _by_digest(store: Store, step: str, digest: str) -> Artifact | None:
    matches = (artifact for artifact in store.artifacts(step) if digest in (artifact.result_digest, artifact.digest))
    return next(matches, None)


def _is_about(measurement: Artifact, models: Mapping[str, str]) -> bool:
    """Whether it measured one of these models, step -> digest: a tokenizer alone is shared by many."""
    return any(models.get(step) == digest for step, digest in measurement.inputs.items() if step in models)


def _weight(artifact: Artifact) -> tuple[bool, int, str]:
    metrics: Mapping[str, Any] = artifact.metrics
    asked = sum(int(score.get("num_asked") or 0) for score in (metrics.get("benchmarks") or {}).values())
    num_items = int(metrics.get("num_items") or asked)
    return bool(metrics.get("is_complete", True)), num_items, str(artifact.provenance.get("finished_at", ""))
