"""From a step of a training to its rows, their documents, and the lines of the files that those are from.

Which rows a step has learnt from is a pure function of what the training was told (data/loader.py), and that is kept
with its logs, so nothing has to be trained or stored to know it. A step that is named here is as the log counts them,
from 1: its batch is the loader's before it.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat_core.base.errors import MissingError
from nanochat_core.data.loader import order_of
from nanochat_core.record.step_log import read_log

if TYPE_CHECKING:
    from nanochat_core.data.loader import RowSource
    from nanochat_core.look.run_data import RunData

BEFORE_STEPS = 10  # a jump is measured from the mean of so many steps before it
LOG, TOLD = "metrics.jsonl", "plan.json"


@dataclass(frozen=True, kw_only=True)
class Spike:
    """The step whose loss is furthest above those before it."""

    step: int
    loss: float
    before: float
    """The mean loss of the steps before."""
    rise: float
    """loss - before."""
    above_others: float
    """How many times the usual distance between a step's loss and those before it."""


def rows_at(run: "RunData", step: int, *, training: str, rows: "RowSource") -> list[int]:
    """The rows that a step learnt from."""
    settings = json.loads(run.log(training, TOLD))["settings"]
    num_steps = settings["schedule"]["num_steps"]
    if not 1 <= step <= num_steps:
        raise MissingError(f"{training} of {run.run_id} has no step {step:,}", hint=f"it has 1 to {num_steps:,}")
    told = {name: settings[name] for name in ("total_batch_rows", "seed")}
    order = order_of(rows, **told, mix=settings.get("mix"))
    return [int(row) for row in order.rows_at(step - 1)]


def losses(run: "RunData", training: str) -> list[tuple[int, float]]:
    """(step, loss) of every step that the log has."""
    records = read_log(run.log(training, LOG), file=LOG)[0]
    return [(record["step"], float(record["loss"])) for record in records if record["event"] == "step"]


def spikes(curve: list[tuple[int, float]], *, most: int = 5) -> list[Spike]:
    """The steps that jump most above the mean of those before them, the highest first.

    At the beginning the loss falls faster than anything jumps, so a step counts where it is above its predecessors.
    """
    rises = []
    for at in range(2, len(curve)):
        before = [loss for _, loss in curve[max(0, at - BEFORE_STEPS) : at]]
        rises.append((curve[at][1] - sum(before) / len(before), at, sum(before) / len(before)))
    sizes = sorted(abs(rise) for rise, *_ in rises)
    usual = sizes[len(sizes) // 2] if sizes else 0.0
    highest = sorted((each for each in rises if each[0] > 0), reverse=True)[:most]
    return [
        Spike(step=curve[at][0], loss=curve[at][1], before=before, rise=rise, above_others=rise / max(usual, 1e-9))
        for rise, at, before in highest
    ]
