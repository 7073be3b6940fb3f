"""The model that a run starts from: what `--from MODEL` means, what it is, and how it is written into an artifact.

A name, a run or a fingerprint of the store is that artifact; anything else is a folder, which `export.adopt` reads,
one of the hub's as `export.hub` brings it.
`settle` looks at the model once, before the plan is made: its shape takes the place of the preset's, and the digest of
its content is what the run's keys hold, so that a copy elsewhere is the same model.
"""

import json
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError, MissingError, NanochatError
from nanochat_core.base.fingerprint import identity_digest
from nanochat_core.base.neutral import identity
from nanochat_core.config import BaseConfig, GPTConfig, RunConfig
from nanochat_core.data.licences import UNKNOWN, licence_of_folder
from nanochat_core.export.hub import bring, is_on_hub
from nanochat_core.pipeline.data_files import contents, reading
from nanochat_core.pipeline.models import MODEL_STEPS, StoredModel, fetch, model_of
from nanochat_core.pipeline.training import MODEL_FILES, OPTIMIZER, TOKENIZER
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store

if TYPE_CHECKING:
    from nanochat_core.export.adopt import Adopted

SHAPE = ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "window_pattern")
MIN_FINGERPRINT = 8


@dataclass(frozen=True)
class Found:
    """A model to start from."""

    shape: GPTConfig
    content: str
    origin: str
    """In a few words, without where on this machine it lies."""
    licence: str
    notes: list[str]
    name: str | None = None
    """What it is called from now on, where that is more than was typed: a whole path, the commit."""
    stored: StoredModel | None = None
    adopted: "Adopted | None" = None

    def check(self, config: BaseConfig) -> None:
        """Raise NanochatError where it is not what the plan was made for."""
        if self.content != config.content:
            raise NanochatError(
                f"{config.model} is another model than when the run was planned", hint="run the same command again"
            )


def settle(config: RunConfig) -> RunConfig:
    """The configuration with the model looked up and its shape in the preset's place; itself where it names none."""
    if config.base.model is None or config.base.content is not None:
        return config
    found = find(config.base)
    shape = found.shape
    options = {name: value for name, value in identity(shape).items() if name not in SHAPE}
    base = replace(
        config.base,
        model=found.name or config.base.model,
        content=found.content,
        network=json.dumps(options, sort_keys=True) if options else None,
    )
    pretrain = replace(
        config.pretrain,
        depth=shape.n_layer, n_embd=shape.n_embd, head_dim=shape.head_dim, n_kv_head=shape.n_kv_head,
        sequence_len_tokens=shape.sequence_len, window_pattern=shape.window_pattern,
    )  # fmt: skip
    return replace(
        config, base=base, pretrain=pretrain, tokenizer=replace(config.tokenizer, vocab_size=shape.vocab_size)
    )


def find(config: BaseConfig) -> Found:
    """The model that `config` names; MissingError or ConfigError in a line where there is none, or half of one."""
    assert config.model is not None
    store = workspace.current().store
    if stored := _stored(store, config.model):
        return _of_store(store, stored)
    if is_on_hub(config.model):
        brought = bring(config.model)
        found = _of_folder(brought.folder, config)
        content = identity_digest([found.content, brought.name])  # a cached folder of other name would be its lineage
        return replace(found, content=content, origin=brought.name, name=brought.name)
    folder = Path(config.model).expanduser()
    if not folder.is_dir():
        raise MissingError(
            f"{config.model} is no model: no name, run or fingerprint of {store.url}, and no folder here",
            hint="nanochat refs list shows the names; a model on the hub is hf:OWNER/NAME@REVISION",
        )
    return replace(_of_folder(folder, config), name=str(folder.absolute()))


def _stored(store: Store, name: str) -> StoredModel | None:
    """The model that a run, RUN:STEP, a fingerprint or a name means; None where it means nothing here."""
    if "/" in name or name.startswith((".", "~")):  # a folder, or the hub's
        return None
    run, _, step = name.partition(":")
    if run in store.runs():
        return _of_run(store, run, step)
    if re.fullmatch(rf"[0-9a-f]{{{MIN_FINGERPRINT},64}}", name):
        found = [a for each in MODEL_STEPS for a in store.artifacts(each) if a.fingerprint.startswith(name)]
        if len({(a.step, a.fingerprint) for a in found}) > 1:
            raise ConfigError(f"{name} begins several fingerprints", hint="give more of its digits")
        return model_of(store, found[0], name) if found else None
    base, _, version = name.partition("@")
    if not any(ref.name == base for ref in store.refs()):
        return None
    return model_of(store, store.ref(base, version or None), name)


def _of_run(store: Store, run: str, step: str) -> StoredModel:
    made = {line["step"]: line["fingerprint"] for line in store.run(run).get("steps", ())}
    wanted = [step] if step else [each for each in reversed(MODEL_STEPS) if each in made]
    artifact = store.find(wanted[0], made[wanted[0]]) if wanted and wanted[0] in made else None
    if artifact is None or artifact.step not in MODEL_STEPS:
        raise MissingError(
            f"the run {run} has no model{f' of the step {step}' if step else ''} in {store.url}",
            hint=f"its steps: {', '.join(made)}",
        )
    return model_of(store, artifact, run)


def _of_store(store: Store, model: StoredModel) -> Found:
    config_file, _ = MODEL_FILES
    config = json.loads((fetch(store, model.artifact, config_file) / config_file).read_text(encoding="utf-8"))
    content = identity_digest([artifact.files[name].sha256 for artifact, names in _files_of(model) for name in names])
    origin = f"{model.name} ({model.ref.short})"
    licence = str(model.artifact.metrics.get("licence", UNKNOWN))
    return Found(GPTConfig(**config), content, origin, licence, [], stored=model)


def _files_of(model: StoredModel) -> list[tuple[Artifact, list[str]]]:
    """What of the store's artifacts goes along."""
    names = [name for name in (*MODEL_FILES, OPTIMIZER) if name in model.artifact.files]
    return [(model.artifact, names), (model.tokenizer, [TOKENIZER])]


def _of_folder(folder: Path, config: BaseConfig) -> Found:
    from nanochat_core.export.adopt import adopt

    tokenizer = Path(config.tokenizer) if config.tokenizer else None
    adopted = adopt(folder, tokenizer_folder=tokenizer, softcap=config.softcap)
    if adopted.tokenizer is None:
        raise MissingError(f"{folder} holds no tokenizer", hint="--set base.tokenizer=FOLDER names where it is")
    vocabulary = adopted.tokenizer
    shown = {"shape": identity(adopted.config), "tokens": [token.hex() for token in vocabulary.ranks],
             "pattern": vocabulary.pattern, "weights": _digests(adopted.checkpoint.files)}  # fmt: skip
    if vocabulary.added:
        shown |= {"added": [str(asdict(token)) for token in vocabulary.added]}
    licence = _licence(folder)
    return Found(adopted.config, identity_digest(shown), folder.resolve().name, licence, adopted.notes, adopted=adopted)


def _digests(files: Iterable[Path]) -> list[str]:
    """Of all that is in the files."""
    with reading(whole=True):
        return contents(list(files))


@lru_cache(maxsize=8)
def _licence(folder: Path) -> str:
    return licence_of_folder(folder)


def write(found: Found, out: Path) -> None:
    """The files of the `base` artifact: those of the store as they are, others in our form."""
    if found.stored is None:
        from nanochat_core.model.weights import save_model

        assert found.adopted is not None
        assert found.adopted.tokenizer is not None
        save_model(out, found.adopted.model)
        found.adopted.tokenizer.save(out)
        return
    store, stored = workspace.current().store, found.stored
    for artifact, wanted in _files_of(stored):
        folder = fetch(store, artifact, *wanted)
        for name in wanted:
            shutil.copyfile(folder / name, out / name)
