"""Programs that several gloo ranks run together, for tests of what they exchange.

The ranks are forked from a process that has imported torch and nothing else of the test's: eight start in a second.
They live in a module of their own because a forked rank imports its program by name.
"""

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nanochat_core.base.distributed import World
from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.groups import OptimConfig
from nanochat_core.optim.optimizer import MuonAdamW

CONFIG = GPTConfig(sequence_len=16, vocab_size=70, n_layer=3, n_head=2, n_kv_head=2, n_embd=32)
TIMEOUT_S = 120
PRELOAD = ["torch.distributed.tensor", "torch.distributed.checkpoint", "nanochat_core.optim.optimizer"]
Program = Callable[[World, dict[str, Any]], dict[str, Any]]


def on_ranks(num_ranks: int, program: Program, folder: Path, **arguments: Any) -> list[dict[str, Any]]:
    """What `program(world, arguments)` returns on each rank: names to tensors and plain values."""
    folder.mkdir(parents=True)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    ranks = [
        context.Process(target=_run, args=(World(rank, rank, num_ranks), program, folder, arguments), daemon=True)
        for rank in range(num_ranks)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(TIMEOUT_S)
        process.kill()  # where it still waits for a rank that has failed
    assert [process.exitcode for process in ranks] == [0] * num_ranks
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(num_ranks)]


def _run(world: World, program: Program, folder: Path, arguments: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=world.rank, world_size=world.size)
    torch.save(program(world, arguments), folder / f"{world.rank}.pt")
    dist.destroy_process_group()


def model(dtype: torch.dtype = torch.float32) -> GPT:
    """A small model with nothing left at zero."""
    made = GPT(CONFIG)
    made.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    made.compute_dtype = dtype
    return made


def exact_gradients(made: GPT, step: int, ranks: range) -> None:
    """Gradients whose sum is the same in any order: small whole numbers over 64, of each of `ranks`."""
    for number, parameter in enumerate(made.parameters()):
        total = torch.zeros_like(parameter)
        for rank in ranks:
            generator = torch.Generator().manual_seed(1000 * step + 100 * rank + number)
            total += torch.randint(-99, 100, parameter.shape, generator=generator) / 64
        parameter.grad = total


def steps(optimizer: MuonAdamW, numbers: range, ranks: range) -> None:
    """Steps from exact gradients."""
    for step in numbers:
        exact_gradients(optimizer.model, step, ranks)
        optimizer.reduce_gradients()
        optimizer.step(lr_multiplier=1.0 - 0.1 * step, momentum=0.9, weight_decay=0.1)
        optimizer.zero_grad()


def everything(optimizer: MuonAdamW) -> dict[str, Tensor]:
    """State and parameters as they are saved."""
    state = {f"optim.{name}": tensor.clone() for name, tensor in optimizer.state_dict().items()}
    return state | {name: parameter.detach().clone() for name, parameter in optimizer.model.named_parameters()}


def train_on_exact_gradients(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    """Steps, from a state where one is given."""
    optimizer = MuonAdamW(model(arguments.get("dtype", torch.float32)), OptimConfig(), world=world)
    if "start" in arguments:
        load(optimizer, arguments["start"])
    first, last = arguments["steps"]
    steps(optimizer, range(first, last), range(world.rank, world.rank + 1))
    seen = {f"seen.{name}": p.detach().clone() for name, p in optimizer.model.named_parameters()}
    num_held = sum(h.local.numel() for h in optimizer._held().values() if h.local is not None)
    return {**everything(optimizer), **seen, "num_held": num_held}


def load(optimizer: MuonAdamW, saved: dict[str, Tensor]) -> None:
    """As the training loop does: the parameters in place, then the state."""
    with torch.no_grad():
        for name, parameter in optimizer.model.named_parameters():
            parameter.copy_(saved[name])
    prefix = "optim."
    optimizer.load_state_dict({n.removeprefix(prefix): t for n, t in saved.items() if n.startswith(prefix)})


def train_early_and_late(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    """Two steps of two micro-batches, gradients sent during the last backward pass and after it."""
    found: dict[str, Any] = {}
    for is_early in (True, False):
        optimizer = MuonAdamW(model(arguments["dtype"]), OptimConfig(), world=world)
        for step in range(2):
            for part in range(2):
                seed = 100 * step + 10 * part + world.rank
                ids = torch.randint(0, 70, (2, 17), generator=torch.Generator().manual_seed(seed))
                loss = optimizer.model.loss(ids[:, :-1], ids[:, 1:], reduction="sum") / 100
                if part == 1 and is_early:
                    optimizer.reduce_in_next_backward()
                loss.backward()
            if is_early and step == 0:
                found["num_sent_in_backward"] = optimizer._exchange._num_started  # type: ignore[attr-defined]
            optimizer.reduce_gradients()
            optimizer.step(lr_multiplier=1.0, momentum=0.9, weight_decay=0.1)
            optimizer.zero_grad()
        found |= {f"{is_early}.{name}": tensor for name, tensor in everything(optimizer).items()}
    return found


def round_trip(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    """Three steps, of which the last after the state went through DTensors and torch's checkpoint format."""
    import torch.distributed.checkpoint as dcp

    optimizer = MuonAdamW(model(), OptimConfig(), world=world)
    steps(optimizer, range(2), range(world.rank, world.rank + 1))
    state = optimizer.sharded_state_dict()
    whole = {name: parameter.detach().clone() for name, parameter in optimizer.model.named_parameters()}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(arguments["checkpoint"]))
    steps(optimizer, range(2, 3), range(world.rank, world.rank + 1))
    again = MuonAdamW(model(), OptimConfig(), world=world)
    with torch.no_grad():
        for name, parameter in again.model.named_parameters():
            parameter.copy_(whole[name])
    empty = again.sharded_state_dict()
    dcp.load(empty, storage_reader=dcp.FileSystemReader(arguments["checkpoint"]))
    again.load_state_dict(empty)
    steps(again, range(2, 3), range(world.rank, world.rank + 1))
    after_two = {f"two.{name}": tensor for name, tensor in whole.items()}
    return after_two | everything(optimizer) | {f"again.{name}": t for name, t in everything(again).items()}


def exchange_small_tensors(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    """One of each collective, on values that tell a careless sum from a careful one."""
    from nanochat_core.base import distributed

    whole = torch.zeros(4)
    whole[2 * world.rank : 2 * world.rank + 2] = torch.tensor([[-0.0, 1e-42], [torch.nan, -7.0]][world.rank])
    distributed.union_of_parts(whole)
    found: dict[str, Any] = {
        "whole": whole.view(torch.int32),
        "size_and_rank": [distributed.current_world().size, distributed.current_world().rank],
    }
    for dtype in (torch.float32, torch.bfloat16):
        sent = (torch.arange(6) + 10 * world.rank).to(dtype)
        received, gathered = torch.empty(3, dtype=dtype), torch.empty(4, dtype=dtype)
        distributed.start_reduce_scatter(received, sent).wait()
        distributed.start_all_gather(gathered, sent[:2]).wait()
        found |= {f"reduced {dtype}": received, f"gathered {dtype}": gathered}
    return found


def gradients_with_one_bad_number(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    """Which ranks see a NaN that one rank's gradient of one parameter holds; each parameter named in its turn."""
    optimizer = MuonAdamW(model(arguments["dtype"]), OptimConfig(), world=world)
    found = {}
    for name in arguments["names"]:
        exact_gradients(optimizer.model, 0, range(world.rank, world.rank + 1))
        if world.rank == 1:
            gradient = optimizer.model.get_parameter(name).grad
            assert gradient is not None
            gradient.view(-1)[-1] = torch.nan
        optimizer.reduce_gradients()
        found[name] = optimizer.has_finite_gradients()
        optimizer.zero_grad()
    return found


def train_in_fp8(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    """Four steps with fp8 products in the layers, with a save or a resume after the second where it is asked for."""
    from nanochat_core.model.fp8 import enable_fp8

    def made() -> MuonAdamW:
        one = model(torch.bfloat16)
        enable_fp8(one, arguments["scaling"])
        return MuonAdamW(one, OptimConfig(), world=world)

    optimizer = made()
    for step in range(4):
        ids = torch.randint(0, 70, (2, 17), generator=torch.Generator().manual_seed(100 * step + world.rank))
        (optimizer.model.loss(ids[:, :-1], ids[:, 1:], reduction="sum") / 64).backward()
        optimizer.reduce_gradients()
        optimizer.step(lr_multiplier=0.5, momentum=0.9, weight_decay=0.1)
        optimizer.zero_grad()
        if step == 1 and arguments["then"] != "nothing":
            saved = everything(optimizer)
            if arguments["then"] == "resume":
                optimizer = made()
                load(optimizer, saved)
    return everything(optimizer)
