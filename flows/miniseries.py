"""A series of compute-optimal models over depth: what more compute buys, and where the series passes GPT-2.

Each depth is the pipeline of flows/speedrun.py up to the base model's evaluation. Corpus, tokenizer and tokens are the
same for all, so they are made once; a depth added later runs that depth's steps only.
"""

import sys
import time
from typing import Any

from flows.parameters import Placement, sweep_name
from flows.recorded import flow
from flows.speedrun import Make, run_until
from nanochat_core.pipeline.step import Ref
from nanochat_core.sweep.cells import Cell, Sweep, last_step, plan_miniseries
from nanochat_core.sweep.execute import Execution, run_cells
from nanochat_core.sweep.finish import FinishedSweep, finish_sweep
from nanochat_core.sweep.price import check_cost, price_sweep
from nanochat_core.sweep.report import render_markdown


@flow(
    name="miniseries",
    description="One compute-optimal model per depth: loss and CORE over what they cost.",
    flow_run_name=sweep_name,
    has_steps=True,
)
def miniseries(
    preset: str = "series",
    depths: list[int] | None = None,
    overrides: list[str] | None = None,
    parallel: int = 1,
    max_cost_usd: float | None = None,
    placement: Placement = "inline",
) -> FinishedSweep:
    """Train a series of models over depth and compare them.

    Args:
        preset: Name of a preset whose width follows depth: series (a laptop), d12, gpt2.
        depths: Layers of each model; by default 12, 14, ... 26, or 2, 3, 4 for a CPU preset.
        overrides: Changes to the preset, each as section.field=value.
        parallel: Trainings at once; one by default, since a training takes the whole machine.
        max_cost_usd: Refuse to start a sweep whose plan is over this, and start no further depth once it is spent.
        placement: Where GPU steps run: inline, pool or auto, as for speedrun.
    """
    from flows.placement import placed
    from tasks import make

    started_at = time.time()
    sweep = plan_miniseries(preset, overrides or (), depths=depths, parallel=parallel)
    with placed(placement, sweep.cells[0].plan):
        done = run_sweep(sweep, make, parallel=parallel, max_cost_usd=max_cost_usd)
    return publish(finish_sweep(sweep, done, started_at=started_at))


def run_sweep(sweep: Sweep, make: Make, *, parallel: int, max_cost_usd: float | None) -> Execution:
    """Run every cell of a sweep with `make`, the Prefect tasks or the core's own functions."""
    check_cost(price_sweep(sweep), max_cost_usd)

    def run(cell: Cell) -> list[Ref]:
        return run_until(make, cell.plan, last_step(cell.plan))

    return run_cells(sweep, run, parallel=parallel, max_cost_usd=max_cost_usd, on_step=_name_task_run)


def publish(finished: FinishedSweep) -> FinishedSweep:
    """Attach the report's text to the current flow run."""
    from tasks.artifacts import create_markdown_artifact

    kind: str = finished.record["kind"].replace("_", "-")
    create_markdown_artifact(
        markdown=render_markdown(finished.record),
        key=f"{kind}-report",
        description=f"{kind} {finished.record['preset']} ({finished.run_id}): what came out",
    )
    return finished


def _name_task_run(cell: str, step: str) -> None:
    """Let the task run that is going on say which cell it belongs to; without Prefect there is none."""
    if "prefect" not in sys.modules:
        return
    from prefect.context import TaskRunContext

    context: Any = TaskRunContext.get()
    if context is not None:
        context.task_run.name = f"{step} {cell}"
