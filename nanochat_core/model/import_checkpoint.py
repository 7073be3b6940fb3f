"""Reading a model that nanochat or transformers wrote, or `nanochat export`: its tensor names become ours.

A folder holds the weights (`model.safetensors`, also in parts, or nanochat's own `model_<step>.pt`) and their shape
(`config.json`, `golden.json` or nanochat's `meta_<step>.json`). A `.pt` is read with `weights_only`, which admits
tensors and nothing that runs. Tensors of a compiled model carry the prefix `_orig_mod.`; bf16 tables become fp32
masters. Which generation of the network the tensors belong to is found by them (generations.py).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from nanochat_core.base.errors import MissingError
from nanochat_core.base.foreign import MAX_MODEL, NO_VALUES
from nanochat_core.base.text import read_json
from nanochat_core.config import GPTConfig
from nanochat_core.model import generations
from nanochat_core.model.gpt import GPT, constants_of
from nanochat_core.model.shape import padded_vocab_size

CONFIG_FILES = ("config.json", "golden.json", "meta_*.json")
CONFIG_KEYS = ("config", "model_config")
INDEX = "model.safetensors.index.json"
WEIGHT_FILES = ("model.safetensors", INDEX, "model_*.pt")
NAMES_SHOWN = 4
PREFIX = "_orig_mod."  # of a compiled model
HUGGINGFACE_MODEL_TYPE = "nanochat_prefect"  # transformers has a "nanochat" of its own: the first generation
HUGGINGFACE_NAMES = {  # in the config.json of a folder for transformers -> our name
    **generations.TRANSFORMERS_NAMES,
    "window_pattern": "window_pattern",
    "value_gate_channels": "value_gate_channels",
    "value_gate_scale": "value_gate_scale",
    "qk_gain": "qk_gain",
    "rotary_base": "rotary_base",
    "logit_softcap": "softcap",
}
# names of nanochat and of transformers; the first pattern that matches a whole name decides
RENAMES = (
    (r"transformer\.wte\.weight|model\.embed_tokens\.weight", "embed.weight"),
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
    (r"model\.layers\.(\d+)\.self_attn\.(q|k|v)_proj\.weight", r"blocks.\1.attn.\2.weight"),
    (r"model\.layers\.(\d+)\.self_attn\.o_proj\.weight", r"blocks.\1.attn.proj.weight"),
    (r"model\.layers\.(\d+)\.mlp\.fc1\.weight", r"blocks.\1.mlp.fc.weight"),
    (r"model\.layers\.(\d+)\.mlp\.fc2\.weight", r"blocks.\1.mlp.proj.weight"),
)
TABLES = re.compile(r"(embed|head|value_embeds\.\d+)\.weight")  # a row for each token


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds."""

    folder: Path
    files: tuple[Path, ...]
    """What of the folder was read."""
    config: GPTConfig
    weights: dict[str, Tensor]
    """By our names, in any floating dtype."""
    softcaps: tuple[float, ...]
    """Softcaps that the files admit; more than one: nothing in them tells which."""
    counts_rows: bool
    """Its vocabulary may be the padded one: transformers counts rows of the tables."""

    def model(self, *, softcap: float | None = None) -> GPT:
        """The model in fp32 on the CPU; `softcap` None: the first of what the files admit."""
        model = GPT(replace(self.config, softcap=self.softcaps[0] if softcap is None else softcap))
        model.load_state_dict(self.weights)  # copies into fp32
        return model


def load_nanochat_checkpoint(folder: Path) -> GPT:
    """The model in `folder`, in fp32 on the CPU."""
    return read_checkpoint(folder).model()


def read_checkpoint(folder: Path) -> Checkpoint:
    """What `folder` holds, checked tensor by tensor against the network that it is of."""
    if not folder.is_dir():
        raise MissingError(f"no folder {folder}", hint="give the folder that holds the weights and their config")
    if (folder / "tokenizer.pkl").is_file() and not any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES):
        raise MissingError(
            f"{folder} holds nanochat's tokenizer and no weights", hint=f"nanochat import-tokenizer {folder} OUT"
        )
    path = _newest(folder, WEIGHT_FILES)
    config_path = _config_of(path)
    content, stored = _read_config(config_path), _read_weights(path)
    weights = {our_name(name): tensor for name, tensor in stored.items()}
    is_by_tensors = "model_type" not in content and "embed.weight" not in {n.removeprefix(PREFIX) for n in stored}
    config = _config(config_path, {**content, **_shown(weights, content)} if is_by_tensors else content)
    softcaps = generations.SOFTCAPS.get(config.value_gate_channels, ()) if is_by_tensors else ()
    weights = {
        name: _whole(name, tensor, config) for name, tensor in weights.items() if name not in constants_of(config)
    }
    try:
        with torch.device("meta"):  # its shapes alone: a config of a few bytes may ask for all memory
            _check_weights(GPT(config), weights, folder)
    except (AssertionError, ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise MissingError(f"{folder}: its config is of no model: {error}", hint="copy the checkpoint again") from error
    counts_rows = content.get("model_type") == generations.TRANSFORMERS_MODEL_TYPE
    return Checkpoint(folder, (config_path, *_parts(path)), config, weights, softcaps or (config.softcap,), counts_rows)


def our_name(name: str) -> str:
    """Our name of nanochat's tensor `name`; a name that is not nanochat's stays as it is."""
    name = name.removeprefix(PREFIX)
    for pattern, replacement in RENAMES:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    return name


def _config_of(weights: Path) -> Path:
    """The file that holds the shape of these weights: of the same step, where nanochat numbers them."""
    folder = weights.parent
    ours = folder / weights.name.replace("model_", "meta_").replace(".pt", ".json")
    if weights.suffix == ".pt" and ours.is_file():
        return ours
    found = _newest(folder, CONFIG_FILES)
    if weights.suffix == ".pt" and found.name.startswith("meta_"):
        raise MissingError(f"{folder} has {weights.name} and no {ours.name}", hint="copy the checkpoint again")
    return found


def _read_config(path: Path) -> dict[str, Any]:
    """What the file says of the model, by our names."""
    content = read_json(path)
    values = next((content[key] for key in CONFIG_KEYS if isinstance(content, dict) and key in content), content)
    try:
        if values.get("model_type") == HUGGINGFACE_MODEL_TYPE:
            return {
                **values,
                **{ours: values[theirs] for theirs, ours in HUGGINGFACE_NAMES.items() if theirs in values},
            }
        if values.get("model_type") == generations.TRANSFORMERS_MODEL_TYPE:
            return {**values, **generations.transformers_options(values)}
        return dict(values)
    except NO_VALUES as error:
        raise MissingError(f"{path} is of no model of nanochat's: {error}", hint="is it the model's?") from error


def _shown(weights: Mapping[str, Tensor], content: Mapping[str, Any]) -> dict[str, Any]:
    """What tensors tell of the model. nanochat's own files know no option but the pattern."""
    gates = [tensor.size(-1) for name, tensor in weights.items() if name.endswith(".value_gate.weight")]
    length = content.get("sequence_len")
    return generations.options_of(
        weights, gates[0] if gates else 0, sequence_len=length if isinstance(length, int) else 1
    )


def _config(path: Path, values: Mapping[str, Any]) -> GPTConfig:
    values = {"window_pattern": "L", **values}
    missing = [name for name in MAX_MODEL if name not in values]
    if missing:
        raise MissingError(
            f"{path} lacks {', '.join(missing)}", hint="it needs the model's config, as nanochat saves it"
        )
    if problem := generations.problem_of(values):
        raise MissingError(f"{path}: {problem}", hint="is it the model's?")
    return GPTConfig(**{field.name: values[field.name] for field in fields(GPTConfig) if field.name in values})


def _whole(name: str, tensor: Tensor, config: GPTConfig) -> Tensor:
    """Tables with a row for each token, as older models have them, get rows up to the padded vocabulary."""
    if not TABLES.fullmatch(name) or tensor.dim() != 2 or tensor.size(0) != config.vocab_size:
        return tensor
    return F.pad(tensor, (0, 0, 0, padded_vocab_size(config) - config.vocab_size))


def _parts(path: Path) -> list[Path]:
    """The files beside an index that it names, and nothing else; a file that is no index stands for itself."""
    if path.name != INDEX:
        return [path]
    content = read_json(path)
    named = content.get("weight_map") if isinstance(content, dict) else None
    parts = set(map(str, named.values())) if isinstance(named, dict) else set()
    if not parts or not all(re.fullmatch(r"[\w-][\w.-]*\.safetensors", part) for part in parts):
        raise MissingError(
            f"{path} does not say in which .safetensors files beside it the weights are",
            hint="copy the checkpoint again",
        )
    return [path.with_name(part) for part in sorted(parts)]


def _read_weights(path: Path) -> dict[str, Tensor]:
    if path.name == INDEX:
        return {name: tensor for part in _parts(path) for name, tensor in _read_weights(part).items()}
    if not path.is_file():  # a pipe would be waited for without an end
        raise MissingError(f"{path} is no file", hint="copy the checkpoint again")
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
                hint="copy the checkpoint again, with the config that it was trained with",
            )
