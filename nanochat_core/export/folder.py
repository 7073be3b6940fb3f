"""Writing a model for other programs: a folder that appears whole, or not at all.

Everything is written into a hidden folder beside the target, flushed to the disk, and renamed. fp32 weights in our own
form are the store's file, byte for byte, so their digest is the one in the manifest. In bf16 the learned scalars stay
fp32: rounding them costs accuracy and saves nothing.
"""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from nanochat_core.base import files
from nanochat_core.base.errors import ConfigError, HardwareError
from nanochat_core.config import GPTConfig
from nanochat_core.export import card, huggingface
from nanochat_core.export.admission import check_modeling_file
from nanochat_core.export.lineage import lineage
from nanochat_core.export.tokenizer_json import tokenizers_json
from nanochat_core.model.weights import CONFIG, WEIGHTS
from nanochat_core.pipeline.models import StoredModel, fetch, find_model
from nanochat_core.store.store import Store
from nanochat_core.tokenizer.tokenizer import FILE_NAME as TOKENIZER
from nanochat_core.tokenizer.tokenizer import Tokenizer

Form = Literal["safetensors", "hf"]
Dtype = Literal["float32", "bfloat16"]
CARD = "README.md"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class WrittenFile:
    """One file of an exported folder."""

    name: str
    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and from what."""

    ref: str
    step: str
    fingerprint: str
    form: Form
    dtype: Dtype
    folder: str
    files: tuple[WrittenFile, ...]


def export_model(store: Store, ref: str, target: Path, *, form: Form, dtype: Dtype = "float32") -> Exported:
    """Write the model that `ref` names, with its tokenizer and card, as the new folder `target`."""
    for value, allowed in ((form, Form), (dtype, Dtype)):
        if value not in get_args(allowed):
            raise ConfigError(f"cannot export to {value!r}", hint=f"one of {', '.join(get_args(allowed))}")
    check_target(target)
    model = find_model(store, ref)
    source = fetch(store, model.artifact, WEIGHTS, CONFIG)
    config = GPTConfig(**json.loads((source / CONFIG).read_text()))
    tokenizer = Tokenizer.load(fetch(store, model.tokenizer, TOKENIZER))
    with whole_folder(target) as folder:
        if form == "hf":
            _write_huggingface(folder, source / WEIGHTS, config, tokenizer, dtype=dtype)
        else:
            _write_ours(folder, source, tokenizer, dtype=dtype)
        about = card.About(model=model, history=lineage(store, model), config=config, form=form, dtype=dtype)
        (folder / CARD).write_text(card.model_card(about), encoding="utf-8")
        files = tuple(_written(folder))
    return _exported(model, target, form=form, dtype=dtype, files=files)


def _exported(
    model: StoredModel, target: Path, *, form: Form, dtype: Dtype, files: tuple[WrittenFile, ...]
) -> Exported:
    step, fingerprint = model.artifact.step, model.artifact.fingerprint
    return Exported(
        ref=model.name, step=step, fingerprint=fingerprint, form=form, dtype=dtype, folder=str(target), files=files
    )


def check_target(target: Path) -> None:
    """Raise ConfigError unless `target` is free: absent, or an empty folder."""
    if target.is_symlink() or (target.exists() and (not target.is_dir() or any(target.iterdir()))):
        raise ConfigError(f"{target} is already there", hint="name a new folder, or empty this one first")


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A scratch folder that becomes `target` at the end; after an error nothing is left of it."""
    check_target(target)
    target = target.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = target.parent / f".{target.name}-{secrets.token_hex(4)}"
        scratch.mkdir()
    except OSError as error:
        raise HardwareError(f"{target} cannot be written: {error.strerror}", hint="name another folder") from error
    try:
        yield scratch
        for path in scratch.iterdir():
            files.set_mode(path, scratch.stat().st_mode & 0o666)  # safetensors lets only the owner read its files
            files.sync(path)
        os.rename(scratch, target)  # takes the place of an empty folder, of nothing else
        files.sync_folder(target.parent)
    except OSError as error:
        raise HardwareError(
            f"{target} could not be written: {error.strerror}", hint="free some disk space, or name another folder"
        ) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_ours(folder: Path, source: Path, tokenizer: Tokenizer, *, dtype: Dtype) -> None:
    shutil.copyfile(source / CONFIG, folder / CONFIG)
    tokenizer.save(folder)
    if dtype == "float32":
        shutil.copyfile(source / WEIGHTS, folder / WEIGHTS)
    else:
        _write_weights(source / WEIGHTS, folder / WEIGHTS, dtype=dtype)


def _write_huggingface(folder: Path, weights: Path, config: GPTConfig, tokenizer: Tokenizer, *, dtype: Dtype) -> None:
    check_modeling_file(config, tokenizer)
    contents: dict[str, Callable[[], Mapping[str, Any]]] = {
        "config.json": lambda: huggingface.model_config(config, tokenizer, dtype=dtype),
        "generation_config.json": lambda: huggingface.generation_config(tokenizer),
        "tokenizer_config.json": lambda: huggingface.tokenizer_config(config),
        "tokenizer.json": lambda: tokenizers_json(tokenizer),
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shutil.copyfile(Path(__file__).with_name(huggingface.MODELING), folder / huggingface.MODELING)
    _write_weights(weights, folder / WEIGHTS, dtype=dtype, constants=config)


def _write_weights(source: Path, target: Path, *, dtype: Dtype, constants: GPTConfig | None = None) -> None:
    """`constants`: with the tensors that this network has not, as values that change nothing: the file knows one."""
    import torch
    from safetensors.torch import load_file, save_file

    from nanochat_core.model.gpt import constants_of

    tensors = {**load_file(source), **(constants_of(constants) if constants else {})}
    if dtype == "bfloat16":
        tensors = {name: t if t.dim() < 2 else t.to(torch.bfloat16) for name, t in tensors.items()}
    save_file(tensors, target, metadata={"format": "pt"})  # older transformers refuse a file that does not say so


def _written(folder: Path) -> Iterator[WrittenFile]:
    for path in sorted(folder.iterdir()):
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while part := file.read(CHUNK_BYTES):
                digest.update(part)
        yield WrittenFile(name=path.name, sha256=digest.hexdigest(), num_bytes=path.stat().st_size)
