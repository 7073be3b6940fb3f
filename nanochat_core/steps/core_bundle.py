"""The data of the CORE benchmarks."""

from typing import Any

from nanochat_core.base.units import count
from nanochat_core.pipeline.data_files import stamps
from nanochat_core.pipeline.measure import limited
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.plan import RunPlan


def settings(plan: RunPlan) -> dict[str, Any]:
    config = plan.config.core
    if config.source == "path":
        return {"files": stamps(config.path)}
    return {"url": config.url, "sha256": config.sha256}


def body(run: StepRun) -> Metrics:
    from nanochat_core.evals.core.bundle_source import obtain_bundle

    return obtain_bundle(run.plan.config.core, run.out, downloads=run.work / "downloads")


core_bundle = Step(
    name="core_bundle",
    description="Fetch the data of the CORE benchmarks.",
    title=lambda plan: limited("CORE's benchmarks", plan.config.core.max_per_benchmark),
    headline=lambda metrics: f"{metrics['num_benchmarks']} benchmarks, {count(metrics['num_bytes'])}B",
    settings=settings,
    packages=(),
    body=body,
    is_wanted=lambda plan: plan.has_core,
)
