"""One Prefect task per step, made from the table of steps. What a step does is in nanochat_core/steps."""

from typing import Any

from prefect.client.schemas.objects import State

from nanochat_core.base.stopping import was_told
from nanochat_core.pipeline.step import Ref, Step
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan
from tasks import policy
from tasks.scale_out import encoded_shards
from tasks.summary import publish_summary

__all__ = ["TASKS", "make", "publish_summary"]

TASKS = {name: policy.step_task(step) for name, step in STEPS.items()}


def make(step: Step, plan: RunPlan, *refs: Ref | None) -> Ref | None:
    """Run one step as its Prefect task; None, and no task run at all, where the plan leaves it out.

    `refs`: what its inputs made, in their order; None for an input that the plan leaves out.
    """
    if not step.is_wanted(plan):
        return None
    if was_told():  # and went on: what a Ctrl-C broke may be caught in between
        raise KeyboardInterrupt
    policy.begin_run()
    inputs = step.named(refs)
    if step.name == "tokens":
        encoded_shards(plan, inputs)  # on a cluster, where runtime.scale_out names one
    made: Any = TASKS[step.name](plan, inputs)  # its state where it was cached
    ref: Ref = made.result() if isinstance(made, State) else made
    return ref
