"""What the store knows of a model before it is loaded: its shape, its kind and its headline numbers.

The numbers are those of the newest evaluation of exactly these weights. A chat model's training manifest also has bits
per byte, but of conversations: that is another measure and is not shown in the same place.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nanochat_core.config import GPTConfig
from nanochat_core.model.shape import count_params
from nanochat_core.pipeline.models import StoredModel, fetch, find_model
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store

KIND_OF_STEP = {"pretrain": "base", "sft": "chat", "rl": "rl"}
BPB_STEPS = ("evaluate_base", "evaluate_chat", "evaluate_rl")
CORE_STEP = "evaluate_core"
TRAINED_FROM = ("sft", "pretrain")  # inputs that a model continues, the nearest first


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """One model as /v1/models shows it."""

    id: str
    """What requests call it."""
    ref: str
    """NAME@VERSION: these very weights, also after the name has moved on."""
    kind: str
    """base, chat or rl."""
    context_tokens: int
    num_parameters: int
    bits_per_byte: float | None = None
    core: float | None = None
    step: str = ""
    made_at: str = ""
    """ISO 8601."""

    @property
    def created(self) -> int:
        """Unix seconds; 0 where it is not known."""
        try:
            return int(datetime.fromisoformat(self.made_at).timestamp())
        except ValueError:
            return 0

    def to_json(self) -> dict[str, object]:
        """The additions to OpenAI's model object."""
        names = ("kind", "context_tokens", "num_parameters", "bits_per_byte", "core", "step", "made_at", "ref")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Listed:
    """A card and the artifacts behind it."""

    card: ModelCard
    stored: StoredModel


def look_up(store: Store, names: Sequence[str]) -> list[Listed]:
    """The models of these refs; without any, the newest chat model and its base model."""
    found = [find_model(store, name) for name in names] if names else _newest(store)
    steps = {step: store.artifacts(step) for step in (*BPB_STEPS, CORE_STEP)}
    by_id: dict[str, Listed] = {}
    for stored in found:
        listed = Listed(_card(store, stored, steps), stored)
        by_id.setdefault(listed.card.id, listed)
    return list(by_id.values())


def _newest(store: Store) -> list[StoredModel]:
    chat = find_model(store, None)
    chat = StoredModel(chat.name.partition("@")[0], chat.artifact, chat.tokenizer)
    base = _base_of(store, chat.artifact)
    return [chat, *([base] if base else [])]


def _base_of(store: Store, artifact: Artifact) -> StoredModel | None:
    """The pretrained model that a chat model continues, where a ref means it."""
    for step in TRAINED_FROM:
        for ref in store.refs():
            if ref.step != step or step not in artifact.inputs:
                continue
            candidate = store.find(ref.step, ref.fingerprint)
            if candidate is None or candidate.result_digest != artifact.inputs[step]:
                continue
            if step != "pretrain":
                return _base_of(store, candidate)
            is_newest = store.ref(ref.name).fingerprint == ref.fingerprint
            return find_model(store, ref.name if is_newest else f"{ref.name}@{ref.version}")
    return None


def _card(store: Store, stored: StoredModel, steps: dict[str, list[Artifact]]) -> ModelCard:
    artifact = stored.artifact
    folder = fetch(store, artifact, "config.json")
    config = GPTConfig(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
    own = artifact.result_digest
    evaluated = {step: [one for one in artifacts if own in one.inputs.values()] for step, artifacts in steps.items()}
    bpb = [one for step in BPB_STEPS for one in evaluated[step]]
    core = sorted(evaluated[CORE_STEP], key=lambda one: not one.metrics.get("is_complete"))  # whole ones first
    return ModelCard(
        id=stored.name,
        ref=_ref_of(store, stored),
        kind=KIND_OF_STEP.get(artifact.step, artifact.step),
        context_tokens=config.sequence_len,
        num_parameters=count_params(config).total,
        bits_per_byte=bpb[0].metrics.get("bits_per_byte") if bpb else _training_bpb(artifact),
        core=core[0].metrics.get("core") if core else None,
        step=artifact.step,
        made_at=str(artifact.provenance.get("finished_at", "")),
    )


def _training_bpb(artifact: Artifact) -> float | None:
    return artifact.metrics.get("bits_per_byte") if artifact.step == "pretrain" else None


def _ref_of(store: Store, stored: StoredModel) -> str:
    name, _, version = stored.name.partition("@")
    if version:
        return stored.name
    matching = [r for r in store.refs() if r.name == name and r.fingerprint == stored.artifact.fingerprint]
    newest = max(matching, key=lambda ref: ref.set_at)
    return f"{name}@{newest.version}"
