"""Iso-FLOP curves: several depths at each of several FLOP budgets, and the laws that follow from them.

Each cell is the pipeline of flows/speedrun.py up to the base model's evaluation, cut to the tokens that its budget
pays for. Cells share everything but the training, and a finer grid later runs its new cells only.
"""

import time

from flows.miniseries import publish, run_sweep
from flows.parameters import Placement, sweep_name
from flows.recorded import flow
from nanochat_core.sweep.cells import MIN_STEPS, plan_scaling_laws
from nanochat_core.sweep.finish import FinishedSweep, finish_sweep


@flow(
    name="scaling-laws",
    description="Depths x FLOP budgets: the best size and length at each budget, and exponents.",
    flow_run_name=sweep_name,
    has_steps=True,
)
def scaling_laws(
    preset: str = "series",
    budgets_flops: list[float] | None = None,
    depths: list[int] | None = None,
    overrides: list[str] | None = None,
    parallel: int = 1,
    max_cost_usd: float | None = None,
    min_steps: int = MIN_STEPS,
    noise_bpb: float | None = None,
    placement: Placement = "inline",
) -> FinishedSweep:
    """Train a grid of models at equal compute and fit how the best one grows.

    Args:
        preset: Name of a preset whose width follows depth: series (a laptop), d12, gpt2.
        budgets_flops: Training FLOPs of each row of the grid; by default 1e18 to 1e19, or 1e12 to 4e12 on a CPU.
        depths: Layers of each column; by default 12, 14, ... 26, or 1, 2, 3, 4 for a CPU preset.
        overrides: Changes to the preset, each as section.field=value.
        parallel: Trainings at once.
        max_cost_usd: Refuse to start a sweep whose plan is over this, and start no further cell once it is spent.
        min_steps: Cells with fewer optimizer steps are left out.
        noise_bpb: Scatter of bits per byte from seed to seed, where known; else judged by the fit's residuals.
        placement: Where GPU steps run: inline, pool or auto, as for speedrun.
    """
    from flows.placement import placed
    from tasks import make

    started_at = time.time()
    sweep = plan_scaling_laws(
        preset, overrides or (), budgets=budgets_flops, depths=depths, min_steps=min_steps, parallel=parallel
    )
    with placed(placement, sweep.cells[0].plan):
        done = run_sweep(sweep, make, parallel=parallel, max_cost_usd=max_cost_usd)
    return publish(finish_sweep(sweep, done, started_at=started_at, settings={"noise_bpb": noise_bpb}))
