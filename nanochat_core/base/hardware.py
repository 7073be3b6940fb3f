"""What this machine can do: device, compute dtype, threads, memory, and a line that says so."""

import os
import platform
import time
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from nanochat_core.base.errors import ConfigError, HardwareError

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
BF16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}  # without them torch emulates bf16 on x86, slower than fp32


def pick_device(requested: str, *, local_rank: int = 0) -> torch.device:
    """The device to train on; "auto" prefers cuda, then mps, then cpu."""
    if requested == "auto":
        if torch.cuda.is_available():
            requested = "cuda"
        else:
            requested = "mps" if torch.backends.mps.is_available() else "cpu"
    if requested == "cuda":
        if not torch.cuda.is_available():
            raise HardwareError(
                f"runtime.device = cuda, but torch {torch.__version__} sees no CUDA GPU",
                hint="--set runtime.device=auto, or where `nvidia-smi` lists one, a torch for its driver "
                "(`nanochat doctor`)",
            )
        if local_rank >= torch.cuda.device_count():
            raise HardwareError(
                f"process {local_rank + 1} has no GPU: torch sees {torch.cuda.device_count()}",
                hint=f"--set runtime.num_processes={torch.cuda.device_count()}",
            )
        return torch.device("cuda", local_rank)
    if requested == "mps" and not torch.backends.mps.is_available():
        raise HardwareError("runtime.device = mps, but torch sees no Apple GPU", hint="--set runtime.device=auto")
    if requested not in ("cpu", "mps"):
        raise ConfigError(f"there is no device {requested!r}", hint="auto, cpu, cuda or mps")
    return torch.device(requested)


def pick_dtype(requested: str, device: torch.device) -> torch.dtype:
    """Compute dtype of matrix products; "auto" is what the hardware multiplies natively: bf16, then fp16 on GPUs."""
    if requested == "auto":
        requested = "bf16" if has_fast_bf16(device) else "fp16" if has_only_fp16(device) else "fp32"
    return DTYPES[requested]


def has_only_fp16(device: torch.device) -> bool:
    """A GPU of the Volta or Turing generation."""
    return device.type == "cuda" and (7, 0) <= torch.cuda.get_device_capability(device) < (8, 0)


def has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and bool(BF16_CPU_FLAGS & cpu_flags())


def repeat_exactly() -> None:
    """Let torch use kernels alone that give equal bits each time; before CUDA is first used.

    Flash attention's backward pass, scattered sums and some of cuBLAS's products are not such by default on a GPU.
    """
    # docs.nvidia.com/cuda/cublas, "Results reproducibility"
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)


@lru_cache(maxsize=1)
def cpu_flags() -> frozenset[str]:
    """The processor's feature flags as Linux lists them; empty where it does not."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return frozenset()
    lines = (line for line in path.read_text().splitlines() if line.startswith("flags"))
    return frozenset(next(lines, "").partition(":")[2].split())


def num_threads(requested: int | None, *, num_processes: int) -> int:
    """Threads of one training process: the cores shared out over the processes of this machine."""
    return requested or max(1, (os.cpu_count() or 1) // num_processes)


@dataclass(frozen=True)
class Machine:
    """Facts for provenance and `doctor`."""

    platform: str
    cores: int
    has_fast_bf16: bool
    gpus: list[str]

    def record(self) -> dict[str, Any]:
        return asdict(self)


def describe() -> Machine:
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    device = torch.device("cuda" if gpus else "cpu")
    return Machine(platform.platform(), os.cpu_count() or 1, has_fast_bf16(device), gpus)


def peak_memory_gib(device: torch.device) -> float:
    """The most memory this process has held on the device, in GiB (resident set on CPU)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def matmul_tflops(device: torch.device, dtype: torch.dtype, *, budget_s: float = 0.05) -> float:
    """How fast this machine multiplies matrices right now, in TFLOP/s: the best of as many products as the budget has.

    The best, because other programs only ever slow one down: what remains is the clock, and how it is throttled.
    """
    size = 4096 if device.type == "cuda" else 512
    with torch.no_grad():
        matrix = torch.linspace(-1, 1, size * size, device=device).view(size, size).to(dtype)
        out, best_s, ends_at = torch.empty_like(matrix), float("inf"), time.perf_counter() + budget_s
        while best_s == float("inf") or time.perf_counter() < ends_at:
            began = time.perf_counter()
            torch.mm(matrix, matrix, out=out)
            if device.type != "cpu":
                torch.get_device_module(device).synchronize()
            best_s = min(best_s, time.perf_counter() - began)
    return 2 * size**3 / best_s / 1e12
