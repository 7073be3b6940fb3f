"""What people see of a finished run in Prefect: a page with the headline numbers, tables, and where things are.

The page comes first; the tables are the same scores for whoever wants to sort them. Links name the report, the store
and the TensorBoard folders; a browser opens those that are web addresses, the others are paths to copy.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_core import workspace
from nanochat_core.pipeline.finish import FinishedRun, finish_run
from nanochat_core.pipeline.step import LOG_FOLDER, Ref, checks_of
from nanochat_core.pipeline.training import TENSORBOARD
from nanochat_core.plan import RunPlan
from nanochat_core.report import outline, scores
from nanochat_core.report.markdown import summarize
from tasks.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from tasks.progress import API_ERRORS, check_rows

log = logging.getLogger(__name__)
Rows = list[dict[str, Any]]
TABLES = {  # artifact key -> what it is; a run's page shows the first few words
    "held-out-questions": "how many held-out questions the models get right",
    "chat-benchmarks": "percent right, by benchmark and stage",
    "quality-checks": "what every step was checked for, all passed",
}


def publish_summary(plan: RunPlan, refs: list[Ref], *, started_at: float) -> FinishedRun:
    """Record the run and attach its summary to the current flow run."""
    finished = finish_run(plan, refs, started_at=started_at)
    try:
        _attach(plan, refs, finished)
    except API_ERRORS as error:  # the run is made and recorded; its page is a convenience
        log.warning("the summary of %s is not on the run's page: %s", finished.run_id, error)
    return finished


def _attach(plan: RunPlan, refs: list[Ref], finished: FinishedRun) -> None:
    places = links(finished)
    page = "\n\n".join([summarize(plan, refs).rstrip(), *checks_told(refs), places_told(places)])
    for key, place in places.items():
        create_link_artifact(link=place.link, link_text=place.text, key=key, description=place.what)
    for key, rows in (score_tables(refs) | check_table(refs)).items():
        create_table_artifact(table=rows, key=key, description=TABLES[key])
    # last: the newest is the first of its page (flows/guard.py)
    create_markdown_artifact(
        markdown=f"{page}\n", key="speedrun-report", description=f"START HERE: what came out of {finished.run_id}"
    )


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


def check_table(refs: list[Ref]) -> dict[str, Rows]:
    """The quality checks that every step passed, also those of steps that were found in the store."""
    rows = [{"step": ref.step} | row for ref in refs for row in check_rows(checks_of(ref.metrics))]
    return {"quality-checks": rows} if rows else {}


def checks_told(refs: list[Ref]) -> list[str]:
    """The checks in a sentence; what was made before there were checks has none."""
    counts = {ref.step: len(checks_of(ref.metrics)) for ref in refs}
    checked = [f"{step} {count}" for step, count in counts.items() if count]
    if not checked:
        return []
    num_checks = sum(counts.values())
    return [f"## Quality checks\n\nAll {num_checks} passed ({', '.join(checked)}): table `quality-checks`."]


@dataclass(frozen=True)
class Place:
    """Where something is."""

    link: str
    text: str
    what: str
    """A few words for people."""


def places_told(places: dict[str, Place]) -> str:
    """The links as a list, for those who read the page only."""
    lines = [f"- {place.what}: `{place.text}`" for place in places.values()]
    return "\n".join(["## Where things are", "", *lines])


def links(finished: FinishedRun) -> dict[str, Place]:
    """Where the run's results are, by artifact key."""
    space = workspace.current()
    url = space.store.url
    found = {}
    if finished.report is not None:
        found["report"] = Place(finished.report.as_uri(), str(finished.report), "the report with curves, on its driver")
    found["store"] = Place(url if "://" in url else Path(url).as_uri(), url, "the store with all artifacts")
    for ref in finished.refs:
        artifact = space.store.find(ref.step, ref.fingerprint)
        logs = [name for name in artifact.files if name.startswith(f"{LOG_FOLDER}/{TENSORBOARD}/")] if artifact else []
        if artifact is not None and logs:
            folder = space.store.fetch(artifact, logs) / LOG_FOLDER / TENSORBOARD
            told = f"curves of {ref.step} in TensorBoard"
            found[f"tensorboard-{ref.step}"] = Place(folder.as_uri(), f"tensorboard --logdir {folder}", told)
    return found
