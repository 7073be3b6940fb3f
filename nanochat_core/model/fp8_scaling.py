"""Scales of fp8 tensors: one per tensor, a power of two, from the tensor itself or from the last steps.

Dynamic scaling looks for the largest value before it casts, which reads every tensor twice. Delayed scaling casts with
a scale from the largest values of the last steps and notes this step's on the way; a value that outgrows the headroom
saturates and is counted. Powers of two make scaling exact: as long as nothing saturates or underflows, the product does
not depend on the scale, so delayed and dynamic scaling give the same bits. A run begins dynamically: most gradients are
zero at first, behind projections that start at zero, and then grow by orders of magnitude within a few steps.
Delayed scaling is Transformer Engine's recipe (docs.nvidia.com/deeplearning/transformer-engine).
"""

from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn

from nanochat_core.base.errors import CorruptError
from nanochat_core.kernels.quantized import Record

Scaling = Literal["dynamic", "delayed"]
INPUT_DTYPE, GRAD_DTYPE = torch.float8_e4m3fn, torch.float8_e5m2  # gradients want range more than precision
HISTORY_STEPS = 16
BOOTSTRAP_STEPS = HISTORY_STEPS
HEADROOM = 1.25  # what a value may grow by within a step before it saturates
FP32_BIAS, FP32_MANTISSA_BITS = 127, 23
SMALLEST_AMAX = 1e-12  # below it a tensor counts as zero; keeps products of two inverse scales normal in fp32


def scale_for(amax: Tensor, limit: Tensor | float) -> Tensor:
    """The largest power of two that keeps `amax` within `limit`."""
    _, exponent = torch.frexp(limit / amax.clamp(min=SMALLEST_AMAX))
    # put together from its bits: a GPU's pow may be off by a few units in the last place
    return ((exponent.clamp(-125, 127) - 1 + FP32_BIAS) << FP32_MANTISSA_BITS).view(torch.float32)


class Fp8State(nn.Module):
    """Scales, histories and counters of all casts of a model, one slot for each tensor that is cast.

    `advance` closes a step; the optimizer calls it. `state_tensors` is what a checkpoint between two steps has to hold
    for a resumed run to end in the same bits.
    """

    amax: Tensor
    history: Tensor
    scales: Tensor
    inverses: Tensor
    saturated: Tensor
    total_saturated: Tensor
    limits: Tensor

    def __init__(self, slots: dict[str, torch.dtype], *, scaling: Scaling) -> None:
        super().__init__()
        self.scaling = scaling
        self.slots = {name: index for index, name in enumerate(slots)}
        self.dtypes = list(slots.values())
        self.num_steps = 0
        size = len(slots)
        tensors = {
            "amax": torch.zeros(size),  # of this step so far
            "history": torch.zeros(HISTORY_STEPS, size),
            "scales": torch.ones(size),
            "inverses": torch.ones(size),
            "saturated": torch.zeros(size, dtype=torch.int32),
            "total_saturated": torch.zeros(size, dtype=torch.int64),
            "limits": torch.tensor([torch.finfo(dtype).max for dtype in self.dtypes]),
        }
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def is_dynamic(self) -> bool:
        return self.scaling == "dynamic" or self.num_steps < BOOTSTRAP_STEPS

    def record(self, slot: int) -> Record:
        """Where the cast of this slot notes what it saw."""
        return Record(self.amax[slot : slot + 1], self.saturated[slot : slot + 1])

    def delayed_scale(self, slot: int) -> tuple[Tensor, Tensor]:
        """(scale, inverse) of this step, one element each."""
        return self.scales[slot : slot + 1], self.inverses[slot : slot + 1]

    @torch.no_grad()
    def advance(self) -> None:
        """Close a step: its largest values, over all ranks, enter the history, and new scales follow from it."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            # equal scales and counts on all ranks: a checkpoint of one serves all
            dist.all_reduce(self.amax, op=dist.ReduceOp.MAX)
            dist.all_reduce(self.saturated)
        self.history[self.num_steps % HISTORY_STEPS] = self.amax
        # new tensors, not new values: a backward pass may still hold views of the old ones
        self.scales = scale_for(self.history.amax(0) * HEADROOM, self.limits)
        self.inverses = self.scales.reciprocal()
        self.total_saturated += self.saturated
        self.forget()
        self.num_steps += 1

    def saturations(self) -> dict[str, int]:
        """How many values saturated since the run began, by slot, on this rank in the open step; waits for the GPU."""
        counts = (self.total_saturated + self.saturated).tolist()
        return {name: counts[index] for name, index in self.slots.items() if counts[index]}

    def state_tensors(self) -> dict[str, Tensor]:
        """Named tensors for a checkpoint, on the CPU; slots are in the order of the model's layers."""
        kept = {name: getattr(self, name).cpu().clone() for name in ("history", "total_saturated")}
        return {**kept, "num_steps": torch.tensor(self.num_steps)}

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state_tensors` of the same model gave."""
        own = self.state_tensors()
        wrong = sorted(name for name in own.keys() | tensors.keys() if not _same_shape(own, tensors, name))
        if wrong:
            raise CorruptError(
                f"the fp8 state does not fit the model: {', '.join(wrong)} differ",
                hint="resume with the config that wrote the checkpoint, or start the run anew",
            )
        for name in own.keys() - {"num_steps"}:
            getattr(self, name).copy_(tensors[name])
        self.num_steps = int(tensors["num_steps"])
        self.scales = scale_for(self.history.amax(0) * HEADROOM, self.limits)
        self.inverses = self.scales.reciprocal()
        self.forget()

    def forget(self) -> None:
        """Drop what casts have noted since the last step: they belonged to none."""
        self.amax, self.saturated = torch.zeros_like(self.amax), torch.zeros_like(self.saturated)


def _same_shape(own: dict[str, Tensor], other: dict[str, Tensor], name: str) -> bool:
    return name in own and name in other and own[name].shape == other[name].shape
