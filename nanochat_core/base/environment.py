"""The environment of our processes: what was given, without what launchers, schedulers and shells left behind.

A shell inside a Slurm job, under torchrun or mpirun has ranks and addresses of somebody else's processes in it, and
torch believes them: it waits for ranks that nobody starts, or binds to an interface that this machine does not have.
One place decides what our children see, for every caller; `adopt` does the same for the command itself.
"""

import importlib.util
import os
import re
import site
import socket
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]  # a checkout works without being installed
KEEP = "NANOCHAT_KEEP_ENVIRONMENT"  # names, with commas between, that are passed on whatever is said here
GIVEN_PATH = "NANOCHAT_PYTHONPATH"  # where the console script puts PYTHONPATH while Python starts
# One process among others: torchrun, torch's env:// rendezvous, MPI's and the schedulers' starters, NCCL's own.
RANKS = {
    "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE",
    "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "NCCL_COMM_ID", "NANOCHAT_RANKS",
}  # fmt: skip
LAUNCHERS = (
    "TORCHELASTIC_", "PET_", "SLURM_", "SRUN_", "SBATCH_", "SALLOC_", "OMPI_", "PMI_", "PMIX_", "PRTE_", "I_MPI_",
    "MPI_", "MV2_", "HYDRA_", "PALS_", "FLUX_", "LSB_", "PBS_", "ACCELERATE_", "HOROVOD_",
)  # fmt: skip
# torch's switches for debugging: one that is misspelt ends or hangs a rank, and others make it another program
TORCH_KEPT = {"TORCH_HOME", "TORCH_CUDA_ARCH_LIST", "TORCHINDUCTOR_CACHE_DIR"}
PYTHON_KEPT = {"PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX", "PYTHONFAULTHANDLER", "PYTHONUNBUFFERED", "PYTHONPATH"}
INTERFACES = {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME", "TP_SOCKET_IFNAME"}
ALLOC_CONF = re.compile(r"(\w+:(\[[^\]]*\]|[^,\[\]]+)(,|$))*")


def cleaned(given: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """What of an environment our children get, and a line for each setting that somebody may miss."""
    kept_anyway = set(given.get(KEEP, "").split(","))
    kept, told = {}, []
    for name, value in given.items():
        if name in kept_anyway:
            kept[name] = value
        elif name in RANKS or name.startswith(LAUNCHERS) or (name.startswith("PYTHON") and name not in PYTHON_KEPT):
            continue
        elif trouble := _trouble(name, value):
            told.append(f"{name}={value[:80]} {trouble}: left out ({KEEP}={name} keeps it)")
        else:
            kept[name] = value
    return kept, told


def for_child(given: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child that is Python of ours: our files and the library's come before anybody else's."""
    kept, _ = cleaned(given)
    path = os.pathsep.join(search_path(given.get("PYTHONPATH", "").split(os.pathsep)))
    return {**kept, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def search_path(theirs: Iterable[str]) -> list[str]:
    """Where a child looks for modules: the library, this checkout, what is installed, and then where others want."""
    library = sysconfig.get_path("platstdlib")
    ours = [sysconfig.get_path("stdlib"), library, os.path.join(library, "lib-dynload"), str(ROOT)]
    return [path for path in dict.fromkeys([*ours, *site.getsitepackages(), *theirs]) if path]


def loopback() -> dict[str, str]:
    """For ranks that all run here: gloo would look up this machine's name, which need not resolve, and NCCL would
    listen where the network comes in.
    """
    return {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"} if "lo" in _interfaces() else {}


def adopt() -> list[str]:
    """Make this process's own environment what its children get; returns the lines of what was left out.

    Folders of PYTHONPATH go behind everything else. A sitecustomize.py there (a tracer, coverage) still runs.
    """
    hidden = os.environ.pop(GIVEN_PATH, "")
    theirs = [path for path in (hidden or os.environ.get("PYTHONPATH", "")).split(os.pathsep) if path]
    ours = search_path([])
    behind = [path for path in theirs if path not in ours]
    sys.path[:] = [*dict.fromkeys([*(path for path in sys.path if path not in behind), str(ROOT), *behind])]
    kept, told = cleaned(os.environ)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    os.environ |= {"PYTHONPATH": os.pathsep.join([*ours, *behind]), "PYTHONSAFEPATH": "1"}
    if hidden:
        _customize(behind)
    return told


def _customize(folders: Iterable[str]) -> None:
    """Run the first sitecustomize.py of `folders`, as Python does for those that it finds at its start."""
    file = next((path for folder in folders if (path := Path(folder, "sitecustomize.py")).is_file()), None)
    spec = file and importlib.util.spec_from_file_location("sitecustomize", file)
    if spec and spec.loader:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def _trouble(name: str, value: str) -> str | None:
    """Why a setting is not passed on."""
    if name in INTERFACES and not _is_here(value, is_prefix=name.startswith("NCCL")):
        return f"names no network interface of this machine ({', '.join(sorted(_interfaces()))})"
    if name.startswith("TORCH") and name not in TORCH_KEPT:
        return "changes what torch does"
    if name == "TORCHINDUCTOR_CACHE_DIR" and not _can_be_written(Path(value)):
        return "cannot be written"
    if name.endswith("_NUM_THREADS") and not (value.isdecimal() and int(value)):
        return "is no number of threads"
    if name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF") and not ALLOC_CONF.fullmatch(value):
        return "is no list of name:value"
    if name == "PYTORCH_JIT" and value not in ("0", "1"):
        return "is neither 0 nor 1"
    return None


def _interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def _is_here(value: str, *, is_prefix: bool) -> bool:
    """Whether a list of interfaces names one of this machine; NCCL's may begin with ^ (all but) or = (exactly)."""
    if is_prefix and value.startswith("^"):
        return True
    names = [name for name in value.removeprefix("=" if is_prefix else "").split(",") if name]
    if is_prefix and not value.startswith("="):
        return any(each.startswith(tuple(names)) for each in _interfaces()) if names else False
    return bool(names) and (any if is_prefix else all)(name in _interfaces() for name in names)


def _can_be_written(folder: Path) -> bool:
    """Whether `folder` is one that we may write in, or could be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)  # torch does so, too
    except OSError:
        return False
    return os.access(folder, os.W_OK)
