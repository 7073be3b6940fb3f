"""Reading a model that nanochat trained, or that `nanochat export` wrote: its tensor names become ours.

A folder holds the weights (`model.safetensors`, or nanochat's own `model_<step>.pt`) and their shape (`config.json`,
`golden.json` or nanochat's `meta_<step>.json`). A `.pt` is read with `weights_only`, which admits tensors and nothing
that runs. Tensors of a compiled model carry the prefix `_orig_mod.`; bf16 tables become fp32 masters. Exported folders
have our tensor names already; the shape of one for transformers goes by that library's names.
"""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nanochat_core.base.errors import MissingError
from nanochat_core.base.foreign import MAX_MODEL, NO_VALUES
from nanochat_core.base.text import read_json
from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT

CONFIG_FILES = ("config.json", "golden.json", "meta_*.json")
CONFIG_KEYS = ("config", "model_config")
WEIGHT_FILES = ("model.safetensors", "model_*.pt")
NAMES_SHOWN = 4
HUGGINGFACE_MODEL_TYPE = "nanochat_prefect"  # transformers has a "nanochat" of its own, of another architecture
HUGGINGFACE_NAMES = {  # in the config.json of a folder for transformers -> our name
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "max_position_embeddings": "sequence_len",
    "window_pattern": "window_pattern",
}
# nanochat's names, in the order in which they are tried; the first pattern that matches a whole name decides
RENAMES = (
    (r"transformer\.wte\.weight", "embed.weight"),
    (r"lm_head\.weight", "head.weight"),
    (r"value_embeds\.(\d+)\.weight", r"value_embeds.\1.weight"),
    (r"smear_gate\.weight", "smear_gate.weight"),
    (r"smear_lambda", "smear_weight"),
    (r"backout_lambda", "backout_weight"),
    (r"resid_lambdas", "residual_weights"),
    (r"x0_lambdas", "skip_weights"),
    (r"transformer\.h\.(\d+)\.attn\.c_(q|k|v|proj)\.weight", r"blocks.\1.attn.\2.weight"),
    (r"transformer\.h\.(\d+)\.attn\.ve_gate\.weight", r"blocks.\1.attn.value_gate.weight"),
    (r"transformer\.h\.(\d+)\.mlp\.c_(fc|proj)\.weight", r"blocks.\1.mlp.\2.weight"),
)


def load_nanochat_checkpoint(folder: Path) -> GPT:
    """The model in `folder`, in fp32 on the CPU."""
    if not folder.is_dir():
        raise MissingError(f"no folder {folder}", hint="give the folder that holds the weights and their config")
    if (folder / "tokenizer.pkl").is_file() and not any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES):
        raise MissingError(
            f"{folder} holds nanochat's tokenizer and no weights", hint=f"nanochat import-tokenizer {folder} OUT"
        )
    config = _read_config(folder)
    weights = {our_name(name): tensor for name, tensor in _read_weights(folder).items()}
    try:
        with torch.device("meta"):  # its shapes alone: a config of a few bytes may ask for all memory
            _check_weights(GPT(config), weights, folder)
    except (AssertionError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise MissingError(f"{folder}: its config is of no model: {error}", hint="copy the checkpoint again") from error
    model = GPT(config)
    model.load_state_dict(weights)  # copies into fp32
    return model


def our_name(name: str) -> str:
    """Our name of nanochat's tensor `name`; a name that is not nanochat's stays as it is."""
    name = name.removeprefix("_orig_mod.")
    for pattern, replacement in RENAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return name


def _read_config(folder: Path) -> GPTConfig:
    path = _newest(folder, CONFIG_FILES)
    content = read_json(path)
    values = next((content[key] for key in CONFIG_KEYS if isinstance(content, dict) and key in content), content)
    if isinstance(values, dict) and values.get("model_type") == HUGGINGFACE_MODEL_TYPE:
        values = {ours: values[theirs] for theirs, ours in HUGGINGFACE_NAMES.items() if theirs in values}
    names = [field.name for field in fields(GPTConfig)]
    required = [name for name in names if name != "window_pattern"]
    missing = [name for name in required if not isinstance(values, dict) or name not in values]
    if missing:
        raise MissingError(
            f"{path} lacks {', '.join(missing)}", hint="it needs the model's config, as nanochat saves it"
        )
    for name, most in MAX_MODEL.items():
        if type(values[name]) is not int or not 1 <= values[name] <= most:
            raise MissingError(
                f"{path}: {name} is {values[name]!r:.40}, not a number between 1 and {most:,}",
                hint="is it the model's?",
            )
    pattern = values.get("window_pattern", "L")
    if not isinstance(pattern, str) or not pattern or set(pattern) - {"S", "L"} or values["n_embd"] % values["n_head"]:
        raise MissingError(
            f"{path} is of no model of nanochat's", hint="it needs the model's config, as nanochat saves it"
        )
    return GPTConfig(**{name: values[name] for name in names if name in values})


def _read_weights(folder: Path) -> dict[str, Tensor]:
    path = _newest(folder, WEIGHT_FILES)
    try:
        is_ours = path.suffix == ".safetensors"
        stored = load_file(path) if is_ours else torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, *NO_VALUES) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise MissingError(f"{path} cannot be read: {said:.300}", hint="copy the checkpoint again") from error
    if not isinstance(stored, dict) or not all(map(_is_weight, stored.items())):
        raise MissingError(
            f"{path} holds something other than weights by their names", hint="copy the checkpoint again"
        )
    return stored


def _is_weight(item: tuple[Any, Any]) -> bool:
    name, value = item
    if not isinstance(name, str) or not isinstance(value, Tensor):
        return False
    return value.layout == torch.strided and value.device.type == "cpu" and value.is_floating_point()


def _newest(folder: Path, patterns: tuple[str, ...]) -> Path:
    """The file of the first pattern that has one; nanochat's steps are zero-padded, so the last name is the newest."""
    for pattern in patterns:
        found = sorted(folder.glob(pattern))
        if found:
            return found[-1]
    seen = ", ".join(sorted(path.name for path in folder.iterdir())[:NAMES_SHOWN]) or "nothing"
    raise MissingError(
        f"{folder} has none of {', '.join(patterns)}; it holds {seen}", hint="point at a checkpoint folder"
    )


def _check_weights(model: GPT, weights: dict[str, Tensor], folder: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [name for name in expected if name not in weights]
    unknown = [name for name in weights if name not in expected]
    wrong = [
        f"{name} is {tuple(weights[name].shape)} instead of {shape}"
        for name, shape in expected.items()
        if name in weights and tuple(weights[name].shape) != shape
    ]
    for problem, names in (("lacks", missing), ("has unknown tensors", unknown), ("has wrong shapes:", wrong)):
        if names:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            raise MissingError(
                f"{folder} {problem} {', '.join(names[:NAMES_SHOWN])}{more}",
                hint="its config must be the one it was trained with, by a nanochat that has smear and backout",
            )
