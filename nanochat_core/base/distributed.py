"""The process group of one training run, as torchrun's environment describes it.

One place sets it up and takes it down. Without torchrun the world is one process and no group is made.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from nanochat_core.base.torchrun import STORE


@dataclass(frozen=True)
class World:
    """This process among the ranks."""

    rank: int = 0
    local_rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def world_from_environment() -> World:
    return World(
        rank=int(os.environ.get("RANK", "0")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
    )


def current_world() -> World:
    """The world of the process group that is up; one process where none is."""
    if not dist.is_initialized():
        return World()
    return World(rank=dist.get_rank(), local_rank=world_from_environment().local_rank, size=dist.get_world_size())


def start(world: World, device: torch.device) -> None:
    """Join the process group; gloo for CPU tensors, NCCL beside it on GPUs."""
    if world.size > 1:
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        own = device if device.type == "cuda" else None  # NCCL then connects now, and to this GPU only
        dist.init_process_group(backend, store=_store(), rank=world.rank, world_size=world.size, device_id=own)


def _store() -> dist.Store | None:
    """Where the ranks of one machine look each other up; of several, at torchrun's, which is a port: None."""
    if (path := os.environ.get(STORE)) is None:
        return None
    return dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], dist.FileStore(path))  # each start begins anew


def stop() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def start_reduce_scatter(received: torch.Tensor, sent: torch.Tensor) -> Any:
    """Begin to add up `sent` of all ranks, part r of it into `received` of rank r; returns what to `wait()` for.

    gloo has no such algorithm of its own: torch runs an all-reduce there and keeps the part.
    """
    # torch 2.13 gave both collectives a new name and warns of the old one; 2.11 knows the old one only
    reduce_scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    return reduce_scatter(received, sent, async_op=True)


def start_all_gather(received: torch.Tensor, sent: torch.Tensor) -> Any:
    """Begin to put `sent` of rank r into part r of `received` on all ranks; returns what to `wait()` for."""
    all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return all_gather(received, sent, async_op=True)


def union_of_parts(whole: torch.Tensor) -> None:
    """Fill `whole` (fp32) on every rank, where each element is set on one rank and 0 on the others.

    Summed as integers: the bits arrive as they are, the sign of a zero too, which a sum of floats would lose.
    """
    dist.all_reduce(whole.view(torch.int32))


def sum_over_ranks(values: torch.Tensor, world: World) -> torch.Tensor:
    """Element-wise sum over the ranks, in place."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def least(value: int, world: World) -> int:
    """The smallest of the ranks' values, on every rank."""
    if world.size == 1:
        return value
    box = torch.tensor([value])
    dist.all_reduce(box, op=dist.ReduceOp.MIN)
    return int(box.item())


def any_rank(flag: bool, world: World) -> bool:
    """True on every rank as soon as it is true on one: how ranks agree to stop or to save at the same step."""
    if world.size == 1:
        return flag
    value = torch.tensor([int(flag)])
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def from_main(value: Any, world: World) -> Any:
    """The first rank's `value` (anything that JSON holds), on every rank; what other ranks pass is ignored.

    Never a pickle: whoever gets between two ranks may spoil what they compute, and not run code as their user.
    """
    if world.size == 1:
        return value
    told = _as_bytes(value) if world.is_main else torch.empty(0, dtype=torch.uint8)
    size = torch.tensor([told.numel()])
    dist.broadcast(size, src=0)
    told = told if world.is_main else torch.empty(int(size.item()), dtype=torch.uint8)
    dist.broadcast(told, src=0)
    return json.loads(told.numpy().tobytes())


def to_main(value: Any, world: World) -> list[Any]:
    """Every rank's `value` (anything that JSON holds), by rank, on the first one; nothing on the others."""
    if world.size == 1:
        return [value]
    told = _as_bytes(value)
    sizes = torch.zeros(world.size, dtype=torch.int64)
    sizes[world.rank] = told.numel()
    dist.all_reduce(sizes)
    padded = torch.zeros(int(sizes.max()), dtype=torch.uint8)
    padded[: told.numel()] = told
    parts = [torch.empty_like(padded) for _ in range(world.size)] if world.is_main else None
    dist.gather(padded, parts, dst=0)
    return [json.loads(part[:size].numpy().tobytes()) for part, size in zip(parts or [], sizes.tolist(), strict=False)]


def _as_bytes(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def fill_from_main(tensors: Iterable[torch.Tensor], world: World) -> None:
    """Overwrite `tensors` on every rank with the first rank's."""
    if world.size > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def barrier(world: World) -> None:
    if world.size > 1:
        dist.barrier()
