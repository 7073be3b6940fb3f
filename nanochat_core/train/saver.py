"""Checkpoints written beside the training: the loop waits for a copy of the state, a thread does the rest.

The copy goes to host memory that is kept for the next one (pinned on a GPU, where the copy is queued between the
kernels of two steps and an event tells the thread when it is there). One is written at a time: who wants the next one
waits. An error in the thread is raised in the loop, at its next step. Ranks that hold parts of the optimizer plan and
write together; they talk over a gloo group of their own, because collectives of two threads would mix in the
training's. On several nodes, which share no disk, the parts are gathered to the first rank instead.
"""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DeviceMesh, DTensor

from nanochat_core.base import distributed
from nanochat_core.base.distributed import World
from nanochat_core.base.errors import HardwareError, NanochatError
from nanochat_core.base.limits import limit_error
from nanochat_core.train import checkpoint, parts
from nanochat_core.train.checkpoint import Draft, TakenOverError

LAST_WORDS_S = 20.0  # for the write under way when the training breaks off


class Saver:
    """Writes one checkpoint after the other into a folder. All ranks make one, and call its methods together."""

    def __init__(
        self, folder: Path, *, world: World, device: torch.device, has_common_disk: bool, successor: Path | None = None
    ) -> None:
        self.folder, self.world, self.device, self.successor = folder, world, device, successor
        self.has_common_disk = has_common_disk
        self._tag = distributed.from_main(str(os.getpid()), world)
        self._host: dict[str, torch.Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._step = 0
        self._group: Any = None
        self._mesh: DeviceMesh | None = None

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._thread is not None and self._thread.is_alive()

    def begin(
        self, step: int, tensors: Mapping[str, torch.Tensor], *, state: dict[str, Any], records: Path, best: int | None
    ) -> Path:
        """Take a copy of `tensors` and start to write it; waits for the one before. Returns its folder-to-be."""
        self.wait()
        copies, is_ready, is_together = self._copy(tensors)
        draft = Draft(
            folder=self.folder,
            step=step,
            tensors=copies,
            state=state,
            records=records.read_bytes() if self.world.is_main else b"",
            tag=self._tag,
            successor=self.successor,
            best_step=best,
        )
        self._step = step
        if self.world.is_main or is_together:
            group = self._own_group() if is_together else None
            self._thread = threading.Thread(
                target=self._write, args=(draft, is_ready, group), name="checkpoint", daemon=True
            )
            self._thread.start()
        return draft.final

    def raise_if_failed(self) -> None:
        """Raise what went wrong in the thread since the last call."""
        error, self._error = self._error, None
        if error is None:
            return
        if isinstance(error, NanochatError | TakenOverError):
            raise error
        doing = f"writing the checkpoint of step {self._step}"
        if limit := limit_error(error, doing=doing, where=str(self.folder)):
            raise limit from error
        if isinstance(error, OSError):
            raise HardwareError(
                f"the checkpoint of step {self._step} was not written: {error}", hint=f"check the disk of {self.folder}"
            ) from error
        raise RuntimeError(f"the checkpoint of step {self._step} was not written: {error}") from error

    def wait(self) -> None:
        """Until nothing is being written; raises what went wrong."""
        if self._thread is not None:
            self._thread.join()
        self.raise_if_failed()

    def leave(self) -> None:
        """Give the write under way a moment when the training breaks off; what broke it is told, not this."""
        if self._thread is not None:
            self._thread.join(LAST_WORDS_S)

    def _write(self, draft: Draft, is_ready: "torch.cuda.Event | None", group: Any) -> None:
        try:
            if self.device.type == "cuda":
                torch.cuda.set_device(self.device)  # of this thread: else it opens a context on the first GPU
            if is_ready is not None:
                is_ready.synchronize()
            checkpoint.write(draft, group=group, is_main=self.world.is_main)
        except BaseException as error:
            self._error = error

    def _copy(
        self, tensors: Mapping[str, torch.Tensor]
    ) -> tuple[dict[str, torch.Tensor], "torch.cuda.Event | None", bool]:
        """Copies in host memory of what this rank writes, when they are there, and whether all ranks write."""
        whole, sharded = parts.split(tensors)
        if sharded and not self.has_common_disk:
            whole |= {name: tensor.full_tensor() for name, tensor in sharded.items()}  # every rank takes part
            sharded = {}
        copies: dict[str, torch.Tensor] = {}
        if self.world.is_main:
            copies = {name: self._copied(name, tensor) for name, tensor in whole.items()}
        for name, tensor in sharded.items():
            copies[name] = parts.on_host(tensor, self._copied(name, tensor.to_local()), self._own_mesh(tensor))
        is_ready = None
        if self.device.type == "cuda":
            # on the training's own stream: the next update of the weights then comes after the copy by itself
            is_ready = torch.cuda.Event()
            is_ready.record()
        return copies, is_ready, bool(sharded)

    def _copied(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        held = self._host.get(name)
        if held is None or held.shape != tensor.shape or held.dtype != tensor.dtype:
            is_pinned = tensor.device.type == "cuda"
            held = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=is_pinned)
            self._host[name] = held
        return held.copy_(tensor.detach(), non_blocking=True)

    def _own_mesh(self, tensor: DTensor) -> DeviceMesh:
        """The ranks of the tensor's mesh as a mesh of processors: their copies are in host memory."""
        if self._mesh is None:
            self._mesh = DeviceMesh("cpu", tensor.device_mesh.mesh)
        return self._mesh

    def _own_group(self) -> Any:
        if self._group is None:
            self._group = dist.new_group(backend="gloo")
        return self._group
