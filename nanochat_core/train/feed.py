"""A rank's batches, on their way to a GPU while the one before is learnt from.

A copy from pageable memory makes the host wait for everything that the GPU still has to do. So the next batch is read
and sent from pinned memory on a stream of its own as soon as a step's work is queued, and an event tells the step that
uses it. Elsewhere a batch is read when it is wanted.
"""

import torch

from nanochat_core.base.distributed import World
from nanochat_core.data.loader import Batch, Order, RowSource, read_batch


class Feed:
    """The batch of a step, as this rank's part of it on the device."""

    def __init__(self, rows: RowSource, order: Order, *, world: World, device: torch.device) -> None:
        self.rows, self.order, self.world, self.device = rows, order, world, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._next: tuple[int, Batch, torch.cuda.Event] | None = None

    def at(self, step: int) -> Batch:
        """The batch of `step`."""
        if self._stream is None:
            return self._read(step).to(self.device)
        if self._next is None or self._next[0] != step:  # the first one, or the step is taken again
            self.prepare(step)
        assert self._next is not None
        _, batch, has_arrived = self._next
        self._next = None
        current = torch.cuda.current_stream(self.device)
        current.wait_event(has_arrived)
        for tensor in (batch.ids, batch.targets):
            tensor.record_stream(current)  # or its memory could be given away while the step still reads it
        return batch

    def prepare(self, step: int) -> None:
        """Read the batch of `step` and begin to send it."""
        if self._stream is None:
            return
        with torch.cuda.stream(self._stream):
            batch = self._read(step).to(self.device)
            self._next = step, batch, self._stream.record_event()

    def _read(self, step: int) -> Batch:
        return read_batch(self.rows, self.order.rows_at(step), rank=self.world.rank, world_size=self.world.size)
