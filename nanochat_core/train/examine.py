"""After a step whose loss or gradient was no number: which rows it was made of, and what they hold.

The step was not applied, so the weights are those before it: each rank asks them again for the loss of each of its own
rows. What is found goes into a file beside the log, to look the rows up with; the error names the first of them.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanochat_core.base import distributed
from nanochat_core.base.distributed import World
from nanochat_core.data.loader import SOURCES, PackedDocuments, SeveralSources, read_batch
from nanochat_core.train.loop import Training
from nanochat_core.train.rows import RowPrediction
from nanochat_core.train.settings import TrainJob

NAME = "non-finite.json"
NUM_NAMED = 5


def examine(training: Training, job: TrainJob, step: int, *, world: World) -> str:
    """What people should know of the batch of step `step` (counted from 0); writes non-finite.json. All ranks call."""
    objective = training.objective
    if not isinstance(objective, RowPrediction):
        return f"its questions are drawn from {job.paths.rows} by seed {job.settings.seed} and step {step}"
    rows = objective.order.rows_at(step)
    losses = row_losses(objective, rows, world=world)
    bad = [int(row) for row, loss in zip(rows, losses, strict=True) if not np.isfinite(loss)]
    source = Path(job.paths.rows) / _name_of(objective.rows)
    found = {
        "step": step,
        "rows_file": str(source),
        "rows": [int(row) for row in rows],
        "row_losses": [float(loss) if np.isfinite(loss) else None for loss in losses],
        "rows_without_a_finite_loss": bad,
        "documents": {str(row): documents_of(objective.rows, row) for row in bad[:NUM_NAMED]},
    }
    path = Path(job.paths.work) / NAME
    if world.is_main:
        path.write_text(json.dumps(found, indent=1))
    named = bad or [int(row) for row in rows]
    shown = ", ".join(map(str, named[:NUM_NAMED])) + (" ..." if len(named) > NUM_NAMED else "")
    what = "without a finite loss" if bad else "of the batch, each with a finite loss by itself"
    return f"rows {what}: {shown} of {source}; all of them and their documents: {path}"


@torch.no_grad()
def row_losses(objective: RowPrediction, rows: np.ndarray, *, world: World) -> np.ndarray:
    """The summed loss of every row of a global batch, in its order, on every rank."""
    batch = read_batch(objective.rows, rows, rank=world.rank, world_size=world.size)
    losses = torch.zeros(len(rows), dtype=torch.float64)
    device = objective.model.device
    for number, (ids, targets) in enumerate(zip(batch.ids, batch.targets, strict=True)):
        loss = objective.loss(ids[None].to(device), targets[None].to(device))
        losses[number * world.size + world.rank] = loss.double().cpu()
    return distributed.sum_over_ranks(losses, world).numpy()


def _name_of(rows: Any) -> str:
    """Where a training's rows are, below the folder of its input."""
    if isinstance(rows, SeveralSources):
        return SOURCES  # one after the other, by name
    return "train.rows.npz" if isinstance(rows, PackedDocuments) else "train"


def documents_of(source: Any, row: int) -> list[dict[str, Any]]:
    """The documents that a packed row is cut from: shard, number in it, and which of the shard's tokens."""
    if isinstance(source, SeveralSources):
        name, own = source.place(row)
        return [{"source": name, **each} for each in documents_of(source.parts[name], own)]
    if not isinstance(source, PackedDocuments):
        return []
    index = source.index
    pieces = index.pieces[index.row_starts[row] : index.row_starts[row + 1]]
    return [
        {
            "shard": shard,
            "document": int(np.searchsorted(source.shards.doc_starts[shard], start, side="right")) - 1,
            "first_token": start,
            "num_tokens": length,
        }
        for shard, start, length in pieces.tolist()
    ]
