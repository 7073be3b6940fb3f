"""What of each parameter this rank updates, and how gradients and new values travel for that.

Alone, a process updates every parameter whole. Several ranks share the work out (ZeRO, arXiv 1910.02054, stage 2): a
matrix of the layers has one owner, a lookup table is cut by rows, and what is smaller is updated by all. Parameters
travel in buckets with one part per rank, and they are views of their bucket, so nothing is stacked or copied to be
sent. Gradients are added up into the owner's part while the backward pass goes on, and the new values are gathered
while other groups are updated, both in the dtype that the model computes in. In bf16 the owner alone holds the fp32
master; the parameter itself is then everywhere, at the owner too, what was gathered: all ranks hold the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat_core.base.distributed import World, start_all_gather, start_reduce_scatter
from nanochat_core.optim.groups import ParamGroup

# N ranks, R rows and C columns of a parameter
Params = dict[str, nn.Parameter]


@dataclass(frozen=True)
class Piece:
    """What one rank updates of one parameter: a slice of its rows."""

    name: str
    rows: slice
    tensor: Tensor
    """Updated in place, fp32."""
    is_shared: bool
    """Whether other ranks update other rows of the parameter, or none of it; else all ranks update it alike."""


class Exchange(Protocol):
    """How the ranks share the work."""

    def pieces(self, group: ParamGroup) -> list[Piece]:
        """This rank's part of a group; the same memory each time."""
        ...

    def gradients(self, group: ParamGroup) -> list[Tensor]:
        """The gradient of each of these pieces, of all ranks together."""
        ...

    def reduce_in_next_backward(self) -> None:
        """The next backward pass is the step's last: gradients may leave as soon as it has made them."""
        ...

    def finish_reduce(self) -> None:
        """Add up what has not been added up yet, and wait for all of it."""
        ...

    def start_gather(self, group: ParamGroup) -> None:
        """The pieces of a group have their new values: begin to hand them out."""
        ...

    def finish_gather(self) -> None:
        """Wait until every parameter is new on this rank."""
        ...

    def complete(self) -> None:
        """Give every rank all fp32 masters as its parameters."""
        ...

    def adopt(self) -> None:
        """Parameters were overwritten from outside: take the masters from them."""
        ...


class Alone:
    """One process: every piece is a whole parameter, and nothing travels."""

    def pieces(self, group: ParamGroup) -> list[Piece]:
        return [Piece(name, slice(None), param.detach(), is_shared=False) for name, param in group.params.items()]

    def gradients(self, group: ParamGroup) -> list[Tensor]:
        return [_gradient(name, param) for name, param in group.params.items()]

    def reduce_in_next_backward(self) -> None: ...

    def finish_reduce(self) -> None: ...

    def start_gather(self, group: ParamGroup) -> None: ...

    def finish_gather(self) -> None: ...

    def complete(self) -> None: ...

    def adopt(self) -> None: ...


class Bucket:
    """Parameters that travel together, as N parts of equal size; the last parts may be padding."""

    def __init__(self, params: Params, part_numel: int, *, world: World, dtype: torch.dtype) -> None:
        self.params, self.dtype, self.world = params, dtype, world
        first = next(iter(params.values()))
        self.flat = first.detach().new_zeros(world.size * part_numel)  # (N * part,)
        at = 0
        for param in params.values():
            view = self.flat[at : at + param.numel()].view_as(param)
            view.copy_(param.detach())
            param.data = view
            at += param.numel()
        own = slice(world.rank * part_numel, (world.rank + 1) * part_numel)
        self.own = self.flat[own]
        self.master = self.own if dtype == torch.float32 else self.own.clone()
        self.gradient = torch.zeros_like(self.own)
        self.num_missing = len(params)
        """Parameters that the running backward pass has not reached yet."""
        self.work: Any = None
        self._sent: Tensor | None = None  # kept alive until it has left
        self._received: Tensor | None = None

    def own_rows(self) -> list[tuple[str, slice]]:
        """Which rows of which parameter this rank's part holds, without the padding; at most one."""
        names, rank = list(self.params), self.world.rank
        num_rows, columns = self.params[names[0]].shape
        per_rank = self.own.numel() // columns
        if per_rank == num_rows:  # a whole matrix for each rank
            return [(names[rank], slice(0, num_rows))] if rank < len(names) else []
        rows = slice(rank * per_rank, min((rank + 1) * per_rank, num_rows))
        return [(names[0], rows)] if rows.start < rows.stop else []

    @torch.no_grad()
    def start_reduce(self) -> None:
        grads = [_gradient(name, param).reshape(-1).to(self.dtype) for name, param in self.params.items()]
        padding = self.flat.numel() - sum(grad.numel() for grad in grads)
        if padding:
            grads.append(grads[0].new_zeros(padding))
        self._sent = torch.cat(grads) if len(grads) > 1 else grads[0].contiguous()
        self._received = self.gradient if self.dtype == torch.float32 else torch.empty_like(self.own, dtype=self.dtype)
        self.work = start_reduce_scatter(self._received, self._sent)

    @torch.no_grad()
    def finish_reduce(self) -> None:
        self.work.wait()
        if self.dtype != torch.float32 and self._received is not None:
            self.gradient.copy_(self._received)
        self.work = self._sent = self._received = None
        self.num_missing = len(self.params)

    @torch.no_grad()
    def start_gather(self) -> None:
        self._sent = self.master.clone() if self.dtype == torch.float32 else self.master.to(self.dtype)
        self._received = self.flat if self.dtype == torch.float32 else torch.empty_like(self.flat, dtype=self.dtype)
        self.work = start_all_gather(self._received, self._sent)

    @torch.no_grad()
    def finish_gather(self) -> None:
        if self.work is None:  # somebody needed it earlier
            return
        self.work.wait()
        if self.dtype != torch.float32 and self._received is not None:
            self.flat.copy_(self._received)
        self.work = self._sent = self._received = None
        self._has_changed()

    @torch.no_grad()
    def complete(self) -> None:
        if self.master is not self.own:
            start_all_gather(self.flat, self.master).wait()
            self._has_changed()

    @torch.no_grad()
    def adopt(self) -> None:
        if self.master is not self.own:
            self.master.copy_(self.own)

    def _has_changed(self) -> None:
        # a parameter whose storage was replaced keeps a version of its own, which a write to the bucket does not raise
        torch.autograd.graph.increment_version(list(self.params.values()))


class Sharded:
    """Several ranks."""

    def __init__(self, groups: Sequence[ParamGroup], *, world: World, dtype: torch.dtype) -> None:
        self.world = world
        self._of_group = {group.name: _buckets(group, world=world, dtype=dtype) for group in groups}
        everything = [bucket for buckets in self._of_group.values() for bucket in buckets]
        travelling = {name for bucket in everything for name in bucket.params}
        self.small = {n: p for group in groups for n, p in group.params.items() if n not in travelling}
        """Updated alike by all ranks."""
        self.buckets = sorted(everything, key=_readiness)
        """In the order in which the backward pass completes them, which is how every rank sends them."""
        self._own = {group.name: self._share(group) for group in groups}
        self._num_started = 0
        self._is_early = False
        for bucket in self.buckets:
            for param in bucket.params.values():
                param.register_post_accumulate_grad_hook(partial(self._has_gradient, bucket))

    def pieces(self, group: ParamGroup) -> list[Piece]:
        return [piece for piece, _ in self._own[group.name]]

    def gradients(self, group: ParamGroup) -> list[Tensor]:
        return [
            gradient if gradient is not None else _gradient(piece.name, group.params[piece.name])
            for piece, gradient in self._own[group.name]
        ]

    def reduce_in_next_backward(self) -> None:
        self._is_early = True

    def finish_reduce(self) -> None:
        while self._num_started < len(self.buckets):
            self._start_next()
        if self.small:
            grads = [_gradient(name, param) for name, param in self.small.items()]
            flat = torch.cat([grad.reshape(-1) for grad in grads])
            dist.all_reduce(flat)
            for grad, summed in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
                grad.copy_(summed.view_as(grad))
        for bucket in self.buckets:
            bucket.finish_reduce()
        self._num_started, self._is_early = 0, False

    def start_gather(self, group: ParamGroup) -> None:
        for bucket in self._of_group[group.name]:
            bucket.start_gather()

    def finish_gather(self) -> None:
        for buckets in self._of_group.values():
            for bucket in buckets:
                bucket.finish_gather()

    def complete(self) -> None:
        self.finish_gather()
        for bucket in self.buckets:
            bucket.complete()

    def adopt(self) -> None:
        self.finish_gather()
        for bucket in self.buckets:
            bucket.adopt()

    def _has_gradient(self, bucket: Bucket, param: nn.Parameter) -> None:
        if not self._is_early:
            return
        assert bucket.num_missing > 0, (
            "a gradient grew after it had been sent: reduce_in_next_backward() came too early"
        )
        bucket.num_missing -= 1
        while self._num_started < len(self.buckets) and self.buckets[self._num_started].num_missing == 0:
            self._start_next()

    def _start_next(self) -> None:
        self.buckets[self._num_started].start_reduce()
        self._num_started += 1

    def _share(self, group: ParamGroup) -> list[tuple[Piece, Tensor | None]]:
        """This rank's pieces of a group, each with where its gradient arrives; None: in the parameter itself."""
        own: list[tuple[Piece, Tensor | None]] = []
        for bucket in self._of_group[group.name]:
            for name, rows in bucket.own_rows():
                shape = (rows.stop - rows.start, group.params[name].size(1))
                values = slice(shape[0] * shape[1])  # what follows is padding
                piece = Piece(name, rows, bucket.master[values].view(shape), is_shared=True)
                own.append((piece, bucket.gradient[values].view(shape)))
        small = [(name, param) for name, param in group.params.items() if name in self.small]
        return own + [(Piece(name, slice(None), param.detach(), is_shared=False), None) for name, param in small]


class Arrivals:
    """Waits for new parameters as late as can be: for those of a layer when the forward pass comes to it."""

    def __init__(self, exchange: Sharded, *, num_layers: int) -> None:
        self.last = num_layers - 1
        first: list[Bucket] = []
        self.of_layer: list[list[Bucket]] = [[] for _ in range(num_layers)]
        for bucket in exchange.buckets:
            layers = [_layer(name) for name in bucket.params]
            if min(layers) < 0:
                first.append(bucket)
            else:
                self.of_layer[min(min(layers), self.last)].append(bucket)
        self.first = first

    def __call__(self, layer: int | None) -> None:
        for bucket in self.first if layer is None else self.of_layer[layer]:
            bucket.finish_gather()


def _buckets(group: ParamGroup, *, world: World, dtype: torch.dtype) -> list[Bucket]:
    """Muon's matrices N at a time, in the order of the layers; AdamW's tables one by one."""
    names = list(group.params)
    if group.kind == "muon":
        numel = group.params[names[0]].numel()
        chunks = [names[at : at + world.size] for at in range(0, len(names), world.size)]
        return [Bucket({n: group.params[n] for n in chunk}, numel, world=world, dtype=dtype) for chunk in chunks]
    tables = {n: p for n, p in group.params.items() if p.dim() == 2 and p.size(0) >= world.size}
    per_rank = {name: -(-table.size(0) // world.size) * table.size(1) for name, table in tables.items()}
    return [Bucket({n: table}, per_rank[n], world=world, dtype=dtype) for n, table in tables.items()]


def _readiness(bucket: Bucket) -> tuple[int, str]:
    """Small where the backward pass, from the head down to the embedding, is done with it early."""
    return max(_distance(name) for name in bucket.params), min(bucket.params)


def _distance(name: str) -> int:
    kind, _, rest = name.partition(".")
    if kind == "head":
        return -(1 << 20)
    return -int(rest.split(".")[0]) if kind in ("blocks", "value_embeds") else 1


def _layer(name: str) -> int:
    """The layer that first uses a parameter; -1: before the layers, a large number: after them."""
    kind, _, rest = name.partition(".")
    if kind in ("blocks", "value_embeds"):
        return int(rest.split(".")[0])
    return 1 << 20 if kind == "head" else -1


def _gradient(name: str, param: nn.Parameter) -> Tensor:
    assert param.grad is not None, f"no gradient for {name}: step() needs a backward pass through the loss first"
    return param.grad
