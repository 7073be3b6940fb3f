"""Which GPUs a new process on this machine would see, without asking CUDA.

A process that drives runs must not open a GPU: a context costs hundreds of MiB of its memory for as long as the process
lives. `nvidia-smi -L` names them by what they are, whoever asks, and CUDA_VISIBLE_DEVICES says which of them are meant:
numbers in nvidia-smi's order, or (beginnings of) UUIDs of GPUs or MIG instances. Where nothing lists them (AMD's,
WSL's, a container without nvidia-smi) the kernel's device files tell that there are some: they count as one.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HIDING = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")
DEVICES = ("nvidia[0-9]*", "dxg", "kfd")  # NVIDIA's, WSL's and AMD's drivers
LISTED = re.compile(r"^\s*(GPU|MIG) .*\(UUID: ((?:GPU|MIG)-[^)]+)\)", re.MULTILINE)
LIST_S = 60.0  # a machine with many GPUs and no persistence daemon takes tens of seconds


@dataclass(frozen=True)
class Gpu:
    """A GPU, or a MIG instance of one."""

    name: str
    """For people: "GPU 0", "GPU 0 MIG 1"."""
    uuid: str
    """The same for every process of the machine."""
    variable: str | None
    """What CUDA_VISIBLE_DEVICES calls it; None: it cannot be told from the machine's others."""


UNLISTED = Gpu("the machine's GPUs", "unlisted", None)


def visible(environment: Mapping[str, str] = os.environ, devices: Path = Path("/dev")) -> list[Gpu]:
    """Those that are not hidden from this process, in CUDA's order."""
    if any(environment.get(name, "all").strip() in ("", "-1") for name in HIDING):
        return []
    listed = _listed()
    if listed is None:
        return [UNLISTED] if any(next(devices.glob(pattern), None) for pattern in DEVICES) else []
    given = environment.get(HIDING[0])
    if given is None:
        return [gpu for instances in listed for gpu in instances]
    found: list[Gpu] = []
    for word in given.split(","):
        gpu = _named(word.strip(), listed)
        if gpu is None:  # CUDA does not look at what follows a name that it does not know
            break
        found.append(gpu)
    return found


def _named(word: str, listed: list[list[Gpu]]) -> Gpu | None:
    """The one that CUDA_VISIBLE_DEVICES means by `word`; a GPU in instances means its first one."""
    if word.isdigit():
        there = listed[int(word)][0] if int(word) < len(listed) else None
    else:
        all_of_them = [gpu for instances in listed for gpu in instances]
        there = next((gpu for gpu in all_of_them if word and gpu.uuid.startswith(word)), None)
    return None if there is None else Gpu(there.name, there.uuid, word)


def _listed() -> list[list[Gpu]] | None:
    """The machine's GPUs, each as its MIG instances or itself; None where nothing lists them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=LIST_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode != 0:
        return None
    found: list[list[Gpu]] = []
    for kind, uuid in LISTED.findall(done.stdout):
        name = f"GPU {len(found)}" if kind == "GPU" else f"GPU {len(found) - 1} MIG {_num_instances(found)}"
        if kind == "GPU":
            found.append([Gpu(name, uuid, uuid)])
        elif _num_instances(found):
            found[-1].append(Gpu(name, uuid, uuid))
        else:
            found[-1] = [Gpu(name, uuid, uuid)]
    return found


def _num_instances(found: list[list[Gpu]]) -> int:
    """MIG instances of the last GPU that are known so far."""
    return sum(gpu.uuid.startswith("MIG-") for gpu in found[-1])
