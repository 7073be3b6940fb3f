"""Writes a checkpoint with the Python and torch that run this, for all others to read: `python write.py`.

Those beside this file were written so; `test_checkpoint_pythons.py` reads every one of them.
"""

import platform
import shutil
import tempfile
from pathlib import Path

import torch

from nanochat_core.base.distributed import World
from nanochat_core.train import checkpoint

STEP = 7
STATE = {"loss": 1.5}


def tensors() -> dict[str, torch.Tensor]:
    """Of the kinds that a training keeps."""
    return {
        "model.weight": torch.arange(6, dtype=torch.bfloat16).view(2, 3),
        "optim.weight.exp_avg": torch.linspace(0, 1, 3),
        "optim.step": torch.tensor(7),
    }


def write(folder: Path) -> Path:
    metrics = folder / "metrics.jsonl"
    metrics.write_text('{"event": "step", "step": 7}\n')
    return checkpoint.save(folder, STEP, tensors(), state=STATE, metrics=metrics, world=World())


if __name__ == "__main__":
    name = f"python-{platform.python_version()}-torch-{torch.__version__.partition('+')[0]}"
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(__file__).parent / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(write(Path(temporary)), place / checkpoint.step_name(STEP))
    print(place)
