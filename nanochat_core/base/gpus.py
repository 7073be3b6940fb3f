"""Which GPUs a new process on this machine would see, without asking CUDA.

A process that drives runs must not open a GPU: a context costs hundreds of MiB of its memory for as long as the process
lives. The kernel's device files and the variables that hide devices tell enough.
"""

import os
from pathlib import Path

HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
DEVICES = ("nvidia[0-9]*", "dxg", "kfd")  # NVIDIA's, WSL's and AMD's drivers


def has_gpu(devices: Path = Path("/dev")) -> bool:
    """Whether there is a GPU here that is not hidden from this process."""
    if any(os.environ.get(name, "all").strip() in ("", "-1") for name in HIDING):
        return False
    return any(next(devices.glob(pattern), None) for pattern in DEVICES)
