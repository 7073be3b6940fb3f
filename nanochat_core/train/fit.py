"""How many rows go through a device at once: on a GPU the most that fit, found by trying, once for a model and a GPU.

Rows are doubled until a forward and backward pass runs out of memory or leaves less than a reserve; powers of two
divide a batch. What was found is remembered in a file of the machine, and all ranks take the least of theirs. On a
processor memory is no limit, and larger passes are no faster than ones of a few thousand tokens
(benchmarks/RESULTS.md). The sum of a batch is rounded differently for another number of rows, as on another machine.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nanochat_core.base import distributed
from nanochat_core.base.distributed import World
from nanochat_core.base.errors import HardwareError
from nanochat_core.base.neutral import identity
from nanochat_core.base.passes import TOKENS, usual_rows
from nanochat_core.model.gpt import GPT

RESERVE_FRAC = 0.08  # of a GPU's memory: the optimizer's step, buffers of other libraries, fragments
Loss = Callable[[Tensor, Tensor], Tensor]


def rows_that_fit(
    model: GPT, loss: Loss, *, most: int, length: int, recall: str, memory: str | None, world: World
) -> tuple[int, str]:
    """(rows of a pass, at most `most`; how they were found). `loss`: of ids and targets (rows, T); gradients go away.

    `length` is T. `memory`: a folder that remembers, under the model, the GPU and whatever else `recall` names. Where
    the device is no GPU nothing is measured. Every rank calls it, and all take the least that one has found.
    """
    if model.device.type != "cuda":
        return min(most, usual_rows(length)), f"{TOKENS:,} tokens are enough on {model.device.type}"
    known = Path(memory) / f"rows-{_key(model, most, length, recall, world)}.json" if memory else None
    found, how = _remembered(known), "remembered"
    if found is None:
        found, how = largest(lambda rows: _fits(model, loss, rows, most=most, length=length), most=most), "measured"
        torch.cuda.empty_cache()  # NCCL allocates beside torch, and the peak is to be the training's own
        torch.cuda.reset_peak_memory_stats(model.device)
    found = distributed.least(found, world)
    if known is not None and how == "measured" and world.local_rank == 0:
        _remember(known, found)
    return found, f"the most that fit, {how}"


def largest(fits: Callable[[int], bool], *, most: int) -> int:
    """The largest power of two up to `most` (or `most` itself) that fits, if all below it do."""
    rows = 0
    for tried in [*(1 << n for n in range(most.bit_length()) if 1 << n < most), most]:
        if not fits(tried):
            break
        rows = tried
    if not rows:
        raise HardwareError("not even one row fits into the GPU's memory", hint="a smaller depth, or a shorter context")
    return rows


def _fits(model: GPT, loss: Loss, rows: int, *, most: int, length: int) -> bool:
    device = model.device
    ids = torch.zeros(rows, length, dtype=torch.int64, device=device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    allowed = torch.cuda.memory_reserved(device) + free - RESERVE_FRAC * total
    torch.cuda.reset_peak_memory_stats(device)
    try:
        for _ in range(1 if rows == most else 2):  # a second pass of a step finds the gradients of the first
            loss(ids, ids).backward()
        return torch.cuda.max_memory_allocated(device) <= allowed
    except torch.OutOfMemoryError:
        return False
    finally:
        model.zero_grad(set_to_none=True)
        if model.fp8 is not None:
            model.fp8.forget()


def _key(model: GPT, most: int, length: int, recall: str, world: World) -> str:
    properties = torch.cuda.get_device_properties(model.device)
    known = {
        "model": identity(model.config),
        "dtype": str(model.compute_dtype),
        "fp8": model.fp8.scaling if model.fp8 else None,
        "rows": [most, length],
        "besides": recall,
        "ranks": world.size,
        "gpu": [properties.name, properties.total_memory],
        "torch": torch.__version__,
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]


def _remembered(path: Path | None) -> int | None:
    try:
        return int(json.loads(path.read_text())["rows"]) if path else None
    except (OSError, ValueError, KeyError):
        return None


def _remember(path: Path, rows: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(f".{os.getpid()}")
    new.write_text(json.dumps({"rows": rows}))
    new.replace(path)
