"""Models of the store by the names that people use: which artifact a name means, and the tokenizer it speaks."""

from dataclasses import dataclass
from pathlib import Path

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.pipeline.execute import ref_of
from nanochat_core.pipeline.step import Ref
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store

CHAT_SUFFIX = "-chat"  # of the names that finish.py gives to fine-tuned models
MODEL_STEPS = ("pretrain", "sft", "rl")


@dataclass(frozen=True)
class StoredModel:
    """A base or a chat model, and the tokenizer that it was trained with."""

    name: str
    artifact: Artifact
    tokenizer: Artifact

    @property
    def is_chat(self) -> bool:
        return self.artifact.step != "pretrain"

    @property
    def ref(self) -> Ref:
        return ref_of(self.artifact, {})

    @property
    def tokenizer_ref(self) -> Ref:
        return ref_of(self.tokenizer, {})


def find_model(store: Store, name: str | None) -> StoredModel:
    """The model of a ref "name" or "name@version"; None: the newest chat model of the store."""
    if name is None:
        newest = max((r for r in store.refs() if r.name.endswith(CHAT_SUFFIX)), key=lambda r: r.set_at, default=None)
        if newest is None:
            raise MissingError(
                f"there is no chat model in {store.url} yet", hint="make speedrun (or: nanochat run tiny) makes one"
            )
        name = f"{newest.name}@{newest.version}"
    base, _, version = name.partition("@")
    artifact = store.ref(base, version or None)
    return model_of(store, artifact, name)


def model_of(store: Store, artifact: Artifact, name: str) -> StoredModel:
    """A model's artifact with its tokenizer, under the name that a person gave."""
    return StoredModel(name, artifact, _tokenizer(store, artifact.inputs.get("tokenizer")))


def _tokenizer(store: Store, digest: str | None) -> Artifact:
    for artifact in store.artifacts("tokenizer"):
        if artifact.result_digest == digest:
            return artifact
    raise MissingError(
        f"the tokenizer of this model ({str(digest)[:12]}) is not in {store.url}", hint="run the pipeline again"
    )


def fetch(store: Store, artifact: Artifact, *names: str) -> Path:
    """A verified folder with the named files of an artifact."""
    try:
        return store.fetch(artifact, names)
    except CorruptError as error:
        raise CorruptError(
            error.message, hint="run the pipeline again: it finds the damage and makes the step anew"
        ) from error
