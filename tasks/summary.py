"""What people see of a finished run in Prefect: a page with the headline numbers, tables, and where things are.

The page comes first; the tables are the same scores for whoever wants to sort them. Links name the report, the store
and the TensorBoard folders; a browser opens those that are web addresses, the others are paths to copy.
"""

from typing import Any

from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from nanochat_core import workspace
from nanochat_core.pipeline.finish import FinishedRun, finish_run
from nanochat_core.pipeline.step import LOG_FOLDER, Ref
from nanochat_core.pipeline.trainings import TENSORBOARD
from nanochat_core.plan import RunPlan
from nanochat_core.report import outline, scores
from nanochat_core.report.markdown import summarize

Rows = list[dict[str, Any]]


def publish_summary(plan: RunPlan, refs: list[Ref], *, started_at: float) -> FinishedRun:
    """Record the run and attach its summary to the current flow run."""
    finished = finish_run(plan, refs, started_at=started_at)
    about = f"speedrun {plan.config.preset} ({finished.run_id})"
    create_markdown_artifact(
        markdown=summarize(plan, refs), key="speedrun-report", description=f"{about}: what came out"
    )
    for key, rows in score_tables(refs).items():
        create_table_artifact(table=rows, key=key, description=f"{about}: {key.replace('-', ' ')}")
    for key, (link, text) in links(finished).items():
        create_link_artifact(link=link, link_text=text, key=key, description=f"{about}: {key.replace('-', ' ')}")
    return finished


def score_tables(refs: list[Ref]) -> dict[str, Rows]:
    """Tables of the run's scores by artifact key; a run without an evaluation has none."""
    asked = [
        {"benchmark": row.name, "right": row.accuracy, "of": row.num_asked, "±": row.standard_error}
        for row in outline.benchmark_rows(refs)
    ]
    marks = scores.stage_table({ref.step: ref.metrics for ref in refs})
    stages = [
        {"benchmark": row.name}
        | {stage: cell.accuracy if cell else "" for stage, cell in zip(marks.stages, row.cells, strict=True)}
        for row in marks.rows
    ]
    return {key: rows for key, rows in (("held-out-questions", asked), ("chat-benchmarks", stages)) if rows}


def links(finished: FinishedRun) -> dict[str, tuple[str, str]]:
    """Where the run's results are, by artifact key: link and text."""
    space = workspace.current()
    url = space.store.url
    found = {"store": (url if "://" in url else f"file://{url}", url)}
    if finished.report is not None:
        found["report"] = (finished.report.as_uri(), str(finished.report))
    for ref in finished.refs:
        artifact = space.store.find(ref.step, ref.fingerprint)
        logs = [name for name in artifact.files if name.startswith(f"{LOG_FOLDER}/{TENSORBOARD}/")] if artifact else []
        if artifact is not None and logs:
            folder = space.store.fetch(artifact, logs) / LOG_FOLDER / TENSORBOARD
            found[f"tensorboard-{ref.step}"] = (folder.as_uri(), f"tensorboard --logdir {folder}")
    return found
