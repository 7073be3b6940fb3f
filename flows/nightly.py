"""The nightly: train anew on cached data, compare with the pinned baseline, fail on a regression.

What decides is in nanochat_core/gate; the steps are those of flows/speedrun.py up to the base model's evaluation. A
retry of the run goes on with the same night, from its last checkpoint.
"""

from collections.abc import Sequence

from flows.parameters import Placement, PresetName, check_cost, depth_of, run_name
from flows.recorded import flow
from flows.speedrun import Make, run_until
from nanochat_core.gate.finish import FinishedNight, finish_night, raise_if_red
from nanochat_core.gate.night import Asked, run_night
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.sweep.cells import last_step


def nightly_name() -> str:
    """nightly-d12-2026-11-22-a1b2."""
    from prefect import runtime

    return run_name("nightly", depth_of(runtime.flow_run.parameters))


@flow(
    name="nightly",
    description="Train again, compare with the pinned baseline, tell a regression from noise.",
    flow_run_name=nightly_name,
    has_steps=True,
)
def nightly(
    preset: PresetName = "d12",
    overrides: list[str] | None = None,
    seeds: int = 1,
    max_cost_usd: float | None = None,
    placement: Placement = "inline",
    full: bool = False,
) -> FinishedNight:
    """Train the preset's base model with a new seed and judge it.

    Args:
        preset: What is trained: d12 on GPUs, tiny on a laptop.
        overrides: Any setting of the preset, each as section.field=value; nights are compared with equal ones only.
        seeds: Trainings of a night at least; more fill a baseline sooner.
        max_cost_usd: Refuse to start when the plan of one training costs more than this.
        placement: Where GPU steps run. inline: in this run's own process. pool: each on a worker of the gpu pool.
            auto: on the pool where it has a live worker, else here where this machine has a GPU, else it waits for one.
        full: Train in full, also where a short training says that nothing changed or that it is worse.
    """
    from prefect import runtime

    from flows.placement import placed
    from tasks import make, policy
    from tasks.gate import publish_night

    policy.begin_run()
    plan = plan_run(load_config(preset, overrides or ()))
    check_cost(plan, max_cost_usd)
    asked_by = str(runtime.flow_run.id) if runtime.flow_run.id else None
    with placed(placement, plan):
        finished = train_and_judge(plan, preset, overrides or [], make, seeds=seeds, asked_by=asked_by, is_full=full)
    publish_night(finished)
    raise_if_red(finished)
    return finished


def train_and_judge(
    plan: RunPlan,
    preset: str,
    overrides: Sequence[str],
    make: Make,
    *,
    seeds: int = 1,
    asked_by: str | None = None,
    is_full: bool = False,
) -> FinishedNight:
    """One night with `make`, the Prefect tasks or the core's own functions."""

    def train(seeded: RunPlan) -> list[Ref]:
        return run_until(make, seeded, last_step(seeded))

    asked = Asked(preset=preset, overrides=tuple(overrides), seeds=seeds, asked_by=asked_by, is_full=is_full)
    return finish_night(run_night(plan, asked, train))
