"""One optimizer for the whole model: state by parameter name, schedules from the caller.

All state exists from construction, so the layout of a checkpoint is known before the first step, and it is a flat
dictionary of tensors: `exp_avg.<parameter>`, `exp_avg_sq.<parameter>`, `momentum.<parameter>`,
`second_moment.<parameter>` and `step`. Matrices that Muon stacks share a buffer; their entries are views of it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from nanochat_core.base.errors import CorruptError
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.adamw import adamw_step
from nanochat_core.optim.groups import OptimConfig, ParamGroup, parameter_groups
from nanochat_core.optim.muon import muon_step, second_moment_shape


@dataclass(frozen=True, kw_only=True)
class _AdamWState:
    group: ParamGroup
    exp_avgs: list[Tensor]
    exp_avg_sqs: list[Tensor]

    def named(self) -> dict[str, Tensor]:
        pairs = (("exp_avg", self.exp_avgs), ("exp_avg_sq", self.exp_avg_sqs))
        return {f"{kind}.{name}": t for kind, ts in pairs for name, t in zip(self.group.params, ts, strict=True)}


@dataclass(frozen=True, kw_only=True)
class _MuonState:
    group: ParamGroup
    momentum: Tensor
    second_moment: Tensor

    def named(self) -> dict[str, Tensor]:
        pairs = (("momentum", self.momentum), ("second_moment", self.second_moment))
        return {f"{kind}.{name}": t for kind, ts in pairs for name, t in zip(self.group.params, ts, strict=True)}


class MuonAdamW:
    """Muon on the matrices of the layers, AdamW on everything else."""

    def __init__(self, model: GPT, config: OptimConfig) -> None:
        self.model = model
        self.groups = parameter_groups(model, config)
        self.num_steps = 0
        self._adamw = [_new_adamw_state(group) for group in self.groups if group.kind == "adamw"]
        self._muon = [_new_muon_state(group) for group in self.groups if group.kind == "muon"]

    @torch.no_grad()
    def step(self, *, lr_multiplier: float, momentum: float, weight_decay: float) -> None:
        """Update every parameter from its gradient.

        `lr_multiplier` is the schedule's factor on every group's rate; `momentum` and `weight_decay` are Muon's values
        for this step (AdamW's decay is fixed by its groups).
        """
        self.num_steps += 1
        for adamw in self._adamw:
            group = adamw.group
            adamw_step(
                list(group.params.values()),
                _gradients(group),
                exp_avgs=adamw.exp_avgs,
                exp_avg_sqs=adamw.exp_avg_sqs,
                step=self.num_steps,
                lr=group.lr * lr_multiplier,
                betas=group.betas,
                eps=group.eps,
                weight_decay=group.weight_decay,
            )
        for muon in self._muon:
            muon_step(
                list(muon.group.params.values()),
                _gradients(muon.group),
                momentum_buffer=muon.momentum,
                second_moment=muon.second_moment,
                lr=muon.group.lr * lr_multiplier,
                momentum=momentum,
                beta2=muon.group.betas[1],
                weight_decay=weight_decay,
                dtype=self.model.compute_dtype,
            )

    def zero_grad(self) -> None:
        """Drop all gradients: the next backward then writes instead of adds."""
        for group in self.groups:
            for param in group.params.values():
                param.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Every state tensor by name; views, to be copied or written before the next step."""
        parts: list[_AdamWState | _MuonState] = [*self._adamw, *self._muon]
        state = {name: tensor for part in parts for name, tensor in part.named().items()}
        return {**state, "step": torch.tensor(self.num_steps)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Copy a state that `state_dict` of the same model and config gave."""
        own = self.state_dict()
        different = sorted(own.keys() ^ state.keys())
        different += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
        if different:
            raise CorruptError(
                f"the optimizer state does not fit the model: {len(different)} tensors differ, e.g. {different[0]}",
                hint="resume with the config that wrote the checkpoint, or start the run anew",
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])
        self.num_steps = int(state["step"])


def _new_adamw_state(group: ParamGroup) -> _AdamWState:
    params = group.params.values()
    return _AdamWState(
        group=group,
        exp_avgs=[torch.zeros_like(param, requires_grad=False) for param in params],
        exp_avg_sqs=[torch.zeros_like(param, requires_grad=False) for param in params],
    )


def _new_muon_state(group: ParamGroup) -> _MuonState:
    params = list(group.params.values())
    rows, columns = params[0].shape
    return _MuonState(
        group=group,
        momentum=params[0].new_zeros(len(params), rows, columns, requires_grad=False),
        second_moment=params[0].new_zeros(len(params), *second_moment_shape(rows, columns), requires_grad=False),
    )


def _gradients(group: ParamGroup) -> list[Tensor]:
    missing = [name for name, param in group.params.items() if param.grad is None]
    assert not missing, f"no gradient for {missing[0]}: step() needs a backward pass through the loss first"
    return [param.grad for param in group.params.values() if param.grad is not None]
