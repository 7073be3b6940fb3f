"""Learning from rows of tokens: the objective that pretraining and fine-tuning share.

The batch of step s is a pure function of the rows, the seed and s. The summed loss is divided by the targets of the
whole global batch, so one process that accumulates gives what eight give.
"""

from collections.abc import Callable

import torch

from nanochat_core.base.distributed import World
from nanochat_core.data.loader import BatchOrder, RowSource, read_batch
from nanochat_core.model.gpt import GPT
from nanochat_core.train.loop import Learnt
from nanochat_core.train.settings import TrainJob


class RowPrediction:
    """The next token of every row."""

    def __init__(
        self, model: GPT, rows: RowSource, job: TrainJob, *, world: World, before_last: Callable[[], None]
    ) -> None:
        self.model, self.rows, self.world = model, rows, world
        self.before_last = before_last
        """Called before the last backward pass of a step: from then on gradients may be sent."""
        self.batch_rows = job.runtime.device_batch_rows
        self.order = BatchOrder(
            num_rows=rows.num_rows, total_batch_rows=job.settings.total_batch_rows, seed=job.settings.seed
        )

    def backward(self, step: int) -> Learnt:
        """Gradients of this rank's micro-batches."""
        rows = self.order.rows_at(step)
        batch = read_batch(self.rows, rows, rank=self.world.rank, world_size=self.world.size)
        total = torch.zeros((), dtype=torch.float64)
        device = self.model.device
        parts = list(zip(batch.ids.split(self.batch_rows), batch.targets.split(self.batch_rows), strict=True))
        for number, (ids, targets) in enumerate(parts, start=1):
            loss = self.model.loss(ids.to(device), targets.to(device), reduction="sum")
            if number == len(parts):
                self.before_last()
            (loss / batch.num_targets).backward()
            total += loss.detach().double().cpu()
        return Learnt(total, divisor=batch.num_targets, num_tokens=len(rows) * (self.rows.row_len - 1))
