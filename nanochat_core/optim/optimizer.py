"""One optimizer for the whole model and for any number of ranks: state by parameter name, schedules from the caller.

All state exists from construction, so the layout of a checkpoint is known before the first step, and it is a flat
dictionary of tensors: `exp_avg.<parameter>`, `exp_avg_sq.<parameter>`, `momentum.<parameter>`,
`second_moment.<parameter>` and `step`. Matrices that Muon stacks share a buffer; their entries are views of it.
Of several ranks each holds the state of what it updates (exchange.py); `state_dict` gathers all of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.base import distributed
from nanochat_core.base.distributed import World
from nanochat_core.base.errors import CorruptError
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.adamw import adamw_step
from nanochat_core.optim.exchange import Alone, Arrivals, Exchange, Piece, Sharded
from nanochat_core.optim.groups import OptimConfig, ParamGroup, parameter_groups
from nanochat_core.optim.muon import muon_step, second_moment_shape


@dataclass(frozen=True)
class Held:
    """One state of one parameter: its shape, and the rows of it that this rank holds."""

    shape: torch.Size
    rows: slice
    local: Tensor | None
    """None: another rank holds all of it."""
    is_shared: bool
    """Whether the rest of it is on other ranks."""


@dataclass(frozen=True, kw_only=True)
class _AdamWState:
    group: ParamGroup
    pieces: list[Piece]
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]

    def held(self) -> Iterator[tuple[str, Held]]:
        for kind, tensors in (("exp_avg", self.exp_avgs), ("exp_avg_sq", self.exp_avg_sqs)):
            shapes = {name: param.shape for name, param in self.group.params.items()}
            yield from _held(kind, shapes, self.pieces, tensors)


@dataclass(frozen=True, kw_only=True)
class _MuonState:
    group: ParamGroup
    pieces: list[Piece]
    momentum: Tensor
    second_moment: Tensor

    def held(self) -> Iterator[tuple[str, Held]]:
        for kind, bank in (("momentum", self.momentum), ("second_moment", self.second_moment)):
            shapes = dict.fromkeys(self.group.params, bank.shape[1:])
            yield from _held(kind, shapes, self.pieces, list(bank.unbind()))


class MuonAdamW:
    """Muon on the matrices of the layers, AdamW on everything else.

    The model is on its device and its `compute_dtype` is set before; several ranks exchange gradients and new values
    in that dtype. `world`: by default that of the process group that is up. Between the last backward pass and `step`
    comes `reduce_gradients`. With `is_lazy` new values may still be on their way when `step` returns: a forward pass of
    the model waits for those of a layer just before it, and so does every method here; who reads the parameters in
    another way calls `wait` first.
    """

    def __init__(self, model: GPT, config: OptimConfig, *, world: World | None = None, is_lazy: bool = False) -> None:
        self.model = model
        self.groups = parameter_groups(model, config)
        self.num_steps = 0
        self._world = world or distributed.current_world()
        self._exchange: Exchange = Alone()
        if self._world.size > 1:
            self._exchange = Sharded(self.groups, world=self._world, dtype=model.compute_dtype)
            if is_lazy:
                model.await_parameters = Arrivals(self._exchange, num_layers=model.config.n_layer)
        self._is_lazy = is_lazy
        self._adamw = [_new_adamw_state(g, self._exchange.pieces(g)) for g in self.groups if g.kind == "adamw"]
        self._muon = [_new_muon_state(g, self._exchange.pieces(g)) for g in self.groups if g.kind == "muon"]

    def reduce_in_next_backward(self) -> None:
        """To be called before the last backward pass of a step, where nothing changes the gradients after it.

        Each gradient is then added up over the ranks as soon as it is there, while the backward pass goes on.
        """
        self._exchange.reduce_in_next_backward()

    def reduce_gradients(self, *, scale: float = 1.0) -> None:
        """Add up the gradients of all ranks, as far as that has not happened yet, and divide them by `scale`.

        Every rank calls it.
        """
        self._exchange.finish_reduce()
        if scale != 1.0:
            torch._foreach_div_([grad for group in self.groups for grad in self._exchange.gradients(group)], scale)

    def has_finite_gradients(self) -> Tensor:
        """Whether the summed gradients of what this rank updates are all numbers: bool (), on the model's device."""
        grads = [grad for group in self.groups for grad in self._exchange.gradients(group)]
        return torch.stack(torch._foreach_norm(grads)).isfinite().all()

    @torch.no_grad()
    def step(self, *, lr_multiplier: float, momentum: float, weight_decay: float) -> None:
        """Update every parameter from its gradient; of several ranks every one calls it, after `reduce_gradients`.

        `lr_multiplier` is the schedule's factor on every group's rate; `momentum` and `weight_decay` are Muon's values
        for this step (AdamW's decay is fixed by its groups).
        """
        self.num_steps += 1
        if self.model.fp8 is not None:
            self.model.fp8.advance()  # before anything is gathered, which its exchange would wait for
        for adamw in self._adamw:
            group, grads = adamw.group, self._exchange.gradients(adamw.group)
            if grads:
                adamw_step(
                    [piece.tensor for piece in self._exchange.pieces(group)],
                    grads,
                    exp_avgs=adamw.exp_avgs,
                    exp_avg_sqs=adamw.exp_avg_sqs,
                    step=self.num_steps,
                    lr=group.lr * lr_multiplier,
                    betas=group.betas,
                    eps=group.eps,
                    weight_decay=group.weight_decay,
                )
            self._exchange.start_gather(group)
        for muon in self._muon:
            group, grads = muon.group, self._exchange.gradients(muon.group)
            if grads:
                muon_step(
                    [piece.tensor for piece in self._exchange.pieces(group)],
                    grads,
                    momentum_buffer=muon.momentum,
                    second_moment=muon.second_moment,
                    lr=group.lr * lr_multiplier,
                    momentum=momentum,
                    beta2=group.betas[1],
                    weight_decay=weight_decay,
                    dtype=self.model.compute_dtype,
                )
            self._exchange.start_gather(group)
        if not self._is_lazy:
            self._exchange.finish_gather()

    def wait(self) -> None:
        """Until every parameter is new on this rank."""
        self._exchange.finish_gather()

    def zero_grad(self) -> None:
        """Drop all gradients: the next backward then writes instead of adds."""
        for group in self.groups:
            for param in group.params.values():
                param.grad = None

    def _held(self) -> dict[str, Held]:
        parts: list[_AdamWState | _MuonState] = [*self._adamw, *self._muon]
        return {name: held for part in parts for name, held in part.held()}

    def state_dict(self) -> dict[str, Tensor]:
        """Every state tensor by name, whole and plain; of several ranks every one calls it and gets all.

        Alone: views, to be copied or written before the next step. Of several ranks: copies, and the model's
        parameters are complete fp32 masters on every rank when it returns, so that they can be saved with it.
        """
        self._exchange.complete()
        state = {name: _gathered(held, self.model.device) for name, held in self._held().items()}
        return {**state, "step": torch.tensor(self.num_steps)}

    def sharded_state_dict(self) -> dict[str, Tensor]:
        """As `state_dict`, with what is not on every rank cut by rows into DTensors of equal parts: copies, too.

        A matrix's state lives whole on one rank; here it is cut like a table, so that it has one name and one layout
        at every number of ranks. Beside the result one tensor at a time is held whole.
        """
        if self._world.size == 1:
            return self.state_dict()
        from torch.distributed.tensor import DTensor, Shard, init_device_mesh

        self._exchange.complete()
        device, rank = self.model.device, self._world.rank
        mesh = init_device_mesh(device.type, (self._world.size,))
        state: dict[str, Tensor] = {"step": torch.tensor(self.num_steps)}
        for name, held in self._held().items():
            whole = _gathered(held, device)
            if held.is_shared:
                parts = whole.chunk(self._world.size)
                local = parts[rank].clone() if rank < len(parts) else whole[:0].clone()
                whole = DTensor.from_local(
                    local, mesh, [Shard(0)], run_check=False, shape=whole.shape, stride=whole.stride()
                )
            state[name] = whole
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a state that one of the two above gave for the same model and config, at any number of ranks.

        The model's own parameters are to be loaded before: several ranks take their masters from them here.
        """
        own = self._held()
        different = sorted((own.keys() | {"step"}) ^ state.keys())
        different += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
        if different:
            raise CorruptError(
                f"the optimizer state does not fit the model: {len(different)} tensors differ, e.g. {different[0]}",
                hint="resume with the config that wrote the checkpoint, or start the run anew",
            )
        for name, held in own.items():
            gather = getattr(state[name], "full_tensor", None)  # a DTensor's
            whole = gather() if gather is not None else state[name]
            if held.local is not None:
                held.local.copy_(whole[held.rows] if held.is_shared else whole)
        self.num_steps = int(state["step"])
        self._exchange.adopt()


def _new_adamw_state(group: ParamGroup, pieces: list[Piece]) -> _AdamWState:
    return _AdamWState(
        group=group,
        pieces=pieces,
        exp_avgs=[torch.zeros_like(piece.tensor) for piece in pieces],
        exp_avg_sqs=[torch.zeros_like(piece.tensor) for piece in pieces],
    )


def _new_muon_state(group: ParamGroup, pieces: list[Piece]) -> _MuonState:
    param = next(iter(group.params.values())).detach()
    rows, columns = param.shape
    return _MuonState(
        group=group,
        pieces=pieces,
        momentum=param.new_zeros(len(pieces), rows, columns),
        second_moment=param.new_zeros(len(pieces), *second_moment_shape(rows, columns)),
    )


def _held(
    kind: str, shapes: dict[str, torch.Size], pieces: list[Piece], tensors: list[Tensor]
) -> Iterator[tuple[str, Held]]:
    own = {piece.name: (piece, tensor) for piece, tensor in zip(pieces, tensors, strict=True)}
    for name, shape in shapes.items():
        piece, tensor = own.get(name, (None, None))
        if piece is None:
            yield f"{kind}.{name}", Held(shape, slice(0, 0), None, is_shared=True)
        else:
            yield f"{kind}.{name}", Held(shape, piece.rows, tensor, is_shared=piece.is_shared)


def _gathered(held: Held, device: torch.device) -> Tensor:
    if not held.is_shared:
        assert held.local is not None
        return held.local
    whole = torch.zeros(held.shape, device=device)
    if held.local is not None:
        whole[held.rows] = held.local
    distributed.union_of_parts(whole)
    return whole
