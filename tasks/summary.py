"""What people see of a run in Prefect: a markdown artifact with the headline numbers."""

from prefect.artifacts import create_markdown_artifact

from nanochat_core.pipeline.finish import FinishedRun, finish_run
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan
from nanochat_core.report.markdown import summarize


def publish_summary(plan: RunPlan, refs: list[Ref], *, started_at: float) -> FinishedRun:
    """Record the run and attach its summary to the current flow run."""
    finished = finish_run(plan, refs, started_at=started_at)
    create_markdown_artifact(
        markdown=summarize(plan, refs),
        key="speedrun-report",
        description=f"speedrun {plan.config.preset} ({finished.run_id}): what came out",
    )
    return finished
