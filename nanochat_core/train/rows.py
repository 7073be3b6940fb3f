"""Learning from rows of tokens: the objective that pretraining and fine-tuning share.

The batch of step s is a pure function of the rows, the seed and s. The summed loss is divided by the targets of the
whole global batch, so one process that accumulates gives what eight give.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from nanochat_core.base.distributed import World
from nanochat_core.data.loader import RowSource, order_of
from nanochat_core.model.documents import Documents
from nanochat_core.model.gpt import GPT
from nanochat_core.train.feed import Feed
from nanochat_core.train.loop import Learnt
from nanochat_core.train.settings import TrainJob


class RowPrediction:
    """The next token of every row."""

    def __init__(
        self,
        model: GPT,
        rows: RowSource,
        job: TrainJob,
        *,
        world: World,
        batch_rows: int,
        bos: int | None,
        before_last: Callable[[], None],
    ) -> None:
        self.model, self.rows, self.world = model, rows, world
        self.before_last = before_last
        """Called before the last backward pass of a step: from then on gradients may be sent."""
        self.batch_rows = batch_rows
        """Of one pass on this device."""
        self.loss_scale = 1.0
        self.bos = bos
        """The id that begins a document, where documents of a row do not see each other."""
        settings = job.settings
        self.order = order_of(rows, total_batch_rows=settings.total_batch_rows, seed=settings.seed, mix=settings.mix)
        self._feed = Feed(rows, self.order, world=world, device=model.device)

    def loss(self, ids: Tensor, targets: Tensor, *, is_full: bool = False) -> Tensor:
        """Summed over the targets (B, T), in nats; `is_full`: none is ignored."""
        documents = Documents.of(ids, bos=self.bos)
        return self.model.loss(ids, targets, reduction="sum", documents=documents, is_full=is_full)

    def backward(self, step: int) -> Learnt:
        """Gradients of this rank's micro-batches."""
        batch = self._feed.at(step)
        num_tokens = self.order.total_batch_rows * (self.rows.row_len - 1)
        losses = []
        parts = list(zip(batch.ids.split(self.batch_rows), batch.targets.split(self.batch_rows), strict=True))
        for number, (ids, targets) in enumerate(parts, start=1):
            loss = self.loss(ids, targets, is_full=batch.num_targets == num_tokens)
            if number == len(parts):
                self.before_last()
            (loss / (batch.num_targets / self.loss_scale)).backward()
            losses.append(loss.detach())
        self._feed.prepare(step + 1)
        return Learnt(_total(losses), divisor=batch.num_targets, num_tokens=num_tokens)


def _total(losses: list[Tensor]) -> Tensor:
    """Their sum, float64 (), where they are; nothing waits for a GPU here."""
    stacked = torch.stack(losses)
    return (stacked.cpu() if stacked.device.type == "mps" else stacked).double().sum()  # mps has no float64
