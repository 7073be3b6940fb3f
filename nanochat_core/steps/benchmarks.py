"""The items of the chat benchmarks, as every model of the run is asked them."""

from typing import Any

from nanochat_core.pipeline.data_files import stamps
from nanochat_core.pipeline.measure import limited
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.plan import RunPlan


def settings(plan: RunPlan) -> dict[str, Any]:
    config = plan.config.benchmarks
    chosen = {name: getattr(config, name) for name in ("source", "names", "max_per_benchmark")}
    files = stamps(config.path) if config.source == "path" else []
    return {**chosen, "seed": plan.config.seed, "files": files}


def body(run: StepRun) -> Metrics:
    from nanochat_core.evals.benchmarks.registry import write_items

    return write_items(run.plan.config.benchmarks, run.out, seed=run.plan.config.seed)


benchmarks = Step(
    name="benchmarks",
    description="Fetch the items of the chat benchmarks.",
    title=lambda plan: limited(plan.config.benchmarks.names, plan.config.benchmarks.max_per_benchmark),
    headline=lambda metrics: f"{metrics['num_items']:,} items of {len(metrics['benchmarks'])} benchmarks",
    settings=settings,
    packages=("datasets",),
    body=body,
    is_wanted=lambda plan: plan.has_benchmarks,
)
