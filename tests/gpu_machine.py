"""A machine that says it has GPUs: a program `nvidia-smi` on the path, as the driver's answers `-L`."""

import os
from pathlib import Path

A100 = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a7{}"
H100 = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3{}"


def machine_with(folder: Path, num: int, *, instances: tuple[int, ...] = ()) -> dict[str, str]:
    """The environment of a process there; `instances`: how many MIG instances each of the first GPUs is cut into."""
    lines = []
    for gpu in range(num):
        lines.append(f"GPU {gpu}: NVIDIA A100-SXM4-40GB (UUID: {A100.format(gpu)})")
        for number in range(instances[gpu] if gpu < len(instances) else 0):
            lines.append(f"  MIG 3g.20gb     Device  {number}: (UUID: {H100.format(3 * gpu + number)})")
    programs = folder / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    (programs / "list").write_text("".join(f"{line}\n" for line in lines))
    (programs / "nvidia-smi").write_text(f'#!/bin/sh\n[ "$1" = -L ] && exec cat "{programs}/list"\nexit 1\n')
    (programs / "nvidia-smi").chmod(0o755)
    slots = folder / "slots"
    return {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "NANOCHAT_GPU_SLOTS": str(slots)}
