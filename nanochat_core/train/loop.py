"""The training loop that all stages share: they differ in where a step's gradient comes from, not here.

That of step s is a pure function of the weights, the seed and s, so a checkpoint needs the weights, the optimizer and
the step number, and a resumed run ends with the same bits. Gradients and the loss are those of the whole global batch,
added up over the ranks. Checkpoints are written beside the steps (saver.py), and one is begun before every validation.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from nanochat_core import schedules
from nanochat_core.base import distributed
from nanochat_core.base.distributed import World
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.files import write_whole
from nanochat_core.base.hardware import peak_memory_gib
from nanochat_core.base.records import RECORDS_NAME, RecordWriter, keep_until
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.optimizer import MuonAdamW
from nanochat_core.train import checkpoint
from nanochat_core.train.heartbeat import Heartbeat
from nanochat_core.train.loss_scale import INITIAL, SMALLEST, next_scale
from nanochat_core.train.saver import Saver
from nanochat_core.train.settings import TrainJob

LOSS_AVERAGE = 0.9  # share of the old value in the smoothed loss
NEVER = -1  # as the step of a validation


class NonFiniteLossError(RuntimeError):
    """A loss or gradient that is no number; the step was not applied."""


@dataclass(frozen=True)
class Learnt:
    """What a step's gradient was made of."""

    loss: torch.Tensor
    """() float64: this rank's part of the summed loss."""
    divisor: int
    """What the loss of all ranks is divided by; the gradients are already."""
    num_tokens: int
    """Of the whole global batch."""
    numbers: dict[str, float] = field(default_factory=dict)
    """What else the step's record says, of all ranks together."""


class Objective(Protocol):
    """Where gradients come from."""

    batch_rows: int
    """Of one pass on this device."""
    loss_scale: float
    """Factor on the gradients that it leaves (loss_scale.py); the loss that it tells of has none."""

    def backward(self, step: int) -> Learnt:
        """Leave this rank's share of the gradient of step `step` in the parameters."""
        ...


@dataclass
class Training:
    """What a stage hands to the loop."""

    model: GPT
    optimizer: MuonAdamW
    objective: Objective
    validate: Callable[[], dict[str, float]]
    """Headline numbers on what is held out."""
    validates_first: bool = False
    """Before the first step, too: where what it starts from is what it is compared with."""
    choices: dict[str, Any] = field(default_factory=dict)
    """What the machine decided, for the record of the start (choices.py)."""


@dataclass
class Progress:
    """What moves during a run and goes into every checkpoint."""

    step: int = 0
    """Steps taken."""
    smooth_loss: float | None = None
    train_s: float = 0.0
    """Seconds in training steps, over all attempts."""
    validated_step: int = 0
    """Steps taken at the last validation."""
    last_validation: dict[str, float] = field(default_factory=dict)
    num_tokens: int = 0
    """Tokens learnt from."""
    best_step: int | None = None
    """Steps taken when the loss on what is held out was lowest."""
    best_loss: float | None = None
    loss_scale: float = 1.0
    """In fp16, else 1."""
    good_steps: int = 0
    """Since the loss scale changed."""


class TrainingLoop:
    """One attempt at a training; `run` returns True when all steps are done, False when it was told to stop."""

    def __init__(
        self, training: Training, job: TrainJob, *, world: World, device: torch.device, is_stopping: Callable[[], bool]
    ) -> None:
        self.training, self.job, self.world, self.device = training, job, world, device
        self.settings, self.schedule = job.settings, job.settings.schedule
        self.is_stopping = is_stopping
        self.progress = Progress(validated_step=NEVER if training.validates_first else 0)
        self.metrics_path = Path(job.paths.work) / RECORDS_NAME
        self.metrics: RecordWriter | None = None
        self.has_common_disk = world.size == job.runtime.num_processes  # several nodes share none
        self.heartbeat = Heartbeat(Path(job.paths.work), rank=world.rank, hang_after_s=job.runtime.hang_after_s)
        self.saver = Saver(
            Path(job.paths.checkpoints),
            world=world,
            device=device,
            has_common_disk=self.has_common_disk,
            successor=Path(job.paths.successor) if job.paths.successor else None,
        )
        self._saved_at_s = time.monotonic()
        self._saved_step = 0
        self._left_out: list[str] = []  # why newer checkpoints than the one that was loaded were not
        self._is_scaled = training.model.compute_dtype == torch.float16
        self.progress.loss_scale = INITIAL if self._is_scaled else 1.0

    def run(self) -> bool:
        self.heartbeat.phase("start", 0)
        self._resume()
        self.metrics = RecordWriter(self.metrics_path) if self.world.is_main else None
        begun = {"step": self.progress.step, "num_steps": self.schedule.num_steps, "world_size": self.world.size}
        self._write("start", **begun, **self.training.choices, left_out=self._left_out)
        try:
            is_done = self._steps()
            self.heartbeat.phase("end", self.progress.step)
            self.saver.wait()
            distributed.barrier(self.world)  # torchrun ends the writing rank as soon as another one says "preempted"
        finally:
            self.saver.leave()
        if is_done:
            self._write("end", step=self.progress.step, train_s=self.progress.train_s)
        return is_done

    def _steps(self) -> bool:
        """Until all steps are done, or somebody says stop: with a checkpoint begun for where it stands."""
        progress = self.progress
        while True:
            if self._is_validation_due():  # first thing after a resume too: a kill may have come in mid-validation
                self._save()
                self._validate()
            if progress.step == self.schedule.num_steps:
                return True
            if distributed.any_rank(self.is_stopping(), self.world):
                self._save()
                return False
            self.heartbeat.step(progress.step)
            self._take_step()
            self.saver.raise_if_failed()
            if self._is_save_due():
                self._save()

    def _take_step(self) -> None:
        started = time.perf_counter()
        step = self.progress.step
        scale = self.training.objective.loss_scale = self.progress.loss_scale
        learnt = self.training.objective.backward(step)
        loss, is_sound = self._agree(learnt, scale)
        factor = schedules.lr_multiplier(self.schedule, step)
        decay = self.settings.optim["weight_decay"] * schedules.weight_decay_multiplier(self.schedule, step)
        if is_sound:
            momentum = schedules.muon_momentum(self.schedule, step)
            self.training.optimizer.step(lr_multiplier=factor, momentum=momentum, weight_decay=decay)
        elif self.training.model.fp8 is not None:
            self.training.model.fp8.forget()
        if self._is_scaled:
            learnt.numbers.update(loss_scale=scale, was_left_out=float(not is_sound))
            scaled = next_scale(scale, self.progress.good_steps, is_sound=is_sound)
            self.progress.loss_scale, self.progress.good_steps = scaled
        self.training.optimizer.zero_grad()
        self.progress.step += 1
        self._log_step(loss, factor, learnt, seconds=time.perf_counter() - started)

    def _agree(self, learnt: Learnt, scale: float) -> tuple[float, bool]:
        """Add up the ranks' gradients and losses: the mean loss in nats, and whether the gradients are all numbers.

        What a smaller loss scale does not mend is an error, and nothing of the step is applied.
        """
        optimizer = self.training.optimizer
        optimizer.reduce_gradients(scale=scale)
        own = torch.stack([learnt.loss, (~optimizer.has_finite_gradients()).to(learnt.loss)])
        loss, num_bad_ranks = distributed.sum_over_ranks(own, self.world).tolist()
        mean = loss / learnt.divisor
        if not math.isfinite(mean):
            raise NonFiniteLossError(f"the loss of step {self.progress.step} is {mean}; the step was not applied")
        if num_bad_ranks and scale <= SMALLEST:
            raise NonFiniteLossError(f"a gradient of step {self.progress.step} is no number; the step was not applied")
        return mean, not num_bad_ranks

    def _log_step(self, loss: float, lr_multiplier: float, learnt: Learnt, *, seconds: float) -> None:
        progress = self.progress
        old = progress.smooth_loss
        progress.smooth_loss = loss if old is None else LOSS_AVERAGE * old + (1 - LOSS_AVERAGE) * loss
        progress.train_s += seconds
        progress.num_tokens += learnt.num_tokens
        if progress.step % self.job.runtime.log_every_steps == 0 or progress.step == self.schedule.num_steps:
            self._write(
                "step",
                step=progress.step,
                loss=loss,
                smooth_loss=progress.smooth_loss,
                lr_multiplier=lr_multiplier,
                step_ms=seconds * 1e3,
                tokens_per_s=learnt.num_tokens / seconds,
                tokens=progress.num_tokens,
                train_s=progress.train_s,
                memory_gib=peak_memory_gib(self.device),
                **learnt.numbers,
            )

    def _is_validation_due(self) -> bool:
        step, every = self.progress.step, self.settings.validate_every_steps
        if step == self.progress.validated_step:
            return False
        return step in (0, self.schedule.num_steps) or (every is not None and step % every == 0)

    def _validate(self) -> None:
        self.heartbeat.phase("validation", self.progress.step)
        started = time.perf_counter()
        result = self.training.validate()
        self.progress.last_validation, self.progress.validated_step = result, self.progress.step
        loss, best = result.get("validation_loss"), self.progress.best_loss
        if loss is not None and (best is None or loss < best):
            self.progress.best_loss, self.progress.best_step = loss, self.progress.step
        seconds = time.perf_counter() - started
        self._write("validate", step=self.progress.step, train_s=self.progress.train_s, validate_s=seconds, **result)

    def _is_save_due(self) -> bool:
        """By step: always. By time: by the first rank's clock, and not while the one before is still being written."""
        runtime = self.job.runtime
        if runtime.checkpoint_every_steps is not None and self.progress.step % runtime.checkpoint_every_steps == 0:
            return True
        is_over = time.monotonic() - self._saved_at_s >= runtime.checkpoint_every_s
        return distributed.any_rank(self.world.is_main and is_over and not self.saver.is_busy, self.world)

    def _save(self) -> None:
        """Begin to write the state as it is now, unless that has been begun (or nothing has been learnt)."""
        step = self.progress.step
        if step == self._saved_step:
            return
        self.heartbeat.phase("checkpoint", step)
        started = time.perf_counter()
        folder = self.saver.begin(
            step, self._tensors(), state=self._state(), records=self.metrics_path, best=self.progress.best_step
        )
        self._saved_at_s, self._saved_step = time.monotonic(), step
        self._write("checkpoint", step=step, name=folder.name, save_s=time.perf_counter() - started)

    def _resume(self) -> None:
        """Continue from the newest readable checkpoint, where there is one."""
        self._check_kind()
        tensors = self._tensors()
        loaded = checkpoint.load_newest(
            Path(self.job.paths.checkpoints), tensors, world=self.world, has_common_disk=self.has_common_disk
        )
        if loaded is None:
            if self.world.is_main:
                write_whole(self.metrics_path, b"")
            return
        found, state, self._left_out = loaded
        # their step counts are numbers there, so the states are handed back to whom they belong
        self.training.optimizer.load_state_dict(_below("optim.", tensors))
        if self.training.model.fp8 is not None:
            self.training.model.fp8.load_state_tensors(_below("fp8.", tensors))
        for name in ("dtype", "fp8"):
            state.pop(name, None)
        batch_rows = state.pop("batch_rows", None)
        if self.job.runtime.device_batch_rows is None and batch_rows and self.world.size == state.pop("world_size", 0):
            self.training.objective.batch_rows = batch_rows  # as measured then: a sum of other parts rounds differently
        state.pop("world_size", None)
        self.progress = Progress(**state)
        self._saved_step = self.progress.step
        if self.world.is_main:
            write_whole(self.metrics_path, (found / RECORDS_NAME).read_bytes())
            keep_until(self.metrics_path, self.progress.step + 1)

    def _tensors(self) -> dict[str, torch.Tensor]:
        """The state as tensors by name, in parts where ranks share them; loading fills these very tensors."""
        model = {f"model.{name}": parameter.detach() for name, parameter in self.training.model.named_parameters()}
        optimizer = self.training.optimizer.sharded_state_dict()  # also completes the model's parameters
        fp8 = self.training.model.fp8
        scales = fp8.state_tensors() if fp8 is not None else {}
        return (
            model
            | {f"optim.{name}": tensor for name, tensor in optimizer.items()}
            | {f"fp8.{name}": tensor for name, tensor in scales.items()}
        )

    def _state(self) -> dict[str, Any]:
        kind = {"dtype": self._dtype(), "fp8": self._scaling()}
        made_by = {"batch_rows": self.training.objective.batch_rows, "world_size": self.world.size}
        return {**vars(self.progress), **kind, **made_by}

    def _check_kind(self) -> None:
        """A checkpoint of another compute type, or with other fp8 scales, would train on as something else."""
        checkpoints = Path(self.job.paths.checkpoints)
        state = distributed.from_main(checkpoint.newest_state(checkpoints) if self.world.is_main else None, self.world)
        if state is None:
            return
        for name, ours in (("dtype", self._dtype()), ("fp8", self._scaling())):
            if (made_in := state.get(name)) != ours:
                raise ConfigError(
                    f"the checkpoint of step {state['step']} was computed in {made_in or 'no fp8'}, this machine "
                    f"computes in {ours or 'no fp8'}",
                    hint=f"set pretrain.{name} to the one that both machines should use",
                )

    def _scaling(self) -> str | None:
        fp8 = self.training.model.fp8
        return f"fp8 with {fp8.scaling} scales" if fp8 is not None else None

    def _dtype(self) -> str:
        return str(self.training.model.compute_dtype).removeprefix("torch.")

    def _write(self, event: str, **values: Any) -> None:
        if self.metrics is not None:
            self.metrics.write(event, **values)


def _below(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
