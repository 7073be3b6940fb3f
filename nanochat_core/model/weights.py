"""A finished model as files: model.safetensors, config.json and, to go on training, optimizer.safetensors."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.base.neutral import identity
from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT

WEIGHTS, CONFIG, OPTIMIZER = "model.safetensors", "config.json", "optimizer.safetensors"


def save_model(folder: Path, model: GPT, optimizer_state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write the fp32 weights and the shape; the bytes depend on the values only, so equal models have equal digests."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in model.named_parameters()}
    save_file(tensors, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(identity(model.config), indent=1, sort_keys=True) + "\n")
    if optimizer_state is not None:
        # clone: safetensors refuses tensors that share memory, and state tensors may be views of one bank
        save_file({name: tensor.detach().cpu().clone() for name, tensor in optimizer_state.items()}, folder / OPTIMIZER)


def load_model(folder: Path) -> GPT:
    """Build the model that the folder holds, on the CPU in fp32."""
    config_path = folder / CONFIG
    if not config_path.is_file():
        raise MissingError(f"{folder} holds no {CONFIG}", hint="a folder that save_model wrote is needed")
    model = GPT(GPTConfig(**json.loads(config_path.read_text())))
    tensors = _read(folder / WEIGHTS)
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if expected != found:
        wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise CorruptError(
            f"{folder / WEIGHTS} is of another architecture: {', '.join(wrong[:3])} differ", hint="retrain it"
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])
    return model


def check_finite(model: GPT, *, name: str) -> None:
    """CorruptError naming the first tensor that holds NaN or infinity: every answer that meets it would be noise."""
    for tensor_name, parameter in model.named_parameters():
        num_wrong = int((~parameter.isfinite()).sum())
        if num_wrong:
            raise CorruptError(
                f"{tensor_name} of {name}: {num_wrong:,} of its {parameter.numel():,} numbers are NaN or infinite",
                hint="its training diverged, or the file is damaged: serve an earlier version, NAME@VERSION",
            )


def load_optimizer_state(folder: Path) -> dict[str, torch.Tensor]:
    """The optimizer's tensors by name, as they were at the end of the run."""
    return _read(folder / OPTIMIZER)


def _read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise MissingError(f"there is no {path}", hint="the training step makes it")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CorruptError(f"{path} is no whole safetensors file: {error}", hint="retrain it") from error
