"""Looking after the store, for a schedule: delete what nothing reaches any more, and show what that was.

The same collection as `nanochat runs gc`. Beside a running pipeline it is safe; two at once are not needed, and the
second one fails with the name of the first.
"""

from typing import Annotated, Any

from prefect import get_run_logger
from pydantic import Field

from flows.parameters import run_name
from flows.recorded import flow
from nanochat_core import workspace
from nanochat_core.base.units import size
from nanochat_core.config import RuntimeConfig
from nanochat_core.store.gc import Report, clean
from nanochat_core.store.reach import Policy
from tasks import policy as task_policy
from tasks.artifacts import create_markdown_artifact

ROWS_SHOWN = 200  # the artifact is for reading; `nanochat runs gc --json` has all of it
DEFAULTS = RuntimeConfig()


def maintenance_name() -> str:
    """maintenance-2026-11-22-a1b2."""
    return run_name("maintenance")


@flow(
    name="maintenance",
    description="Delete what no ref, pin, kept run or running step reaches.",
    flow_run_name=maintenance_name,
)
def maintenance(
    dry_run: bool = False,
    keep_runs: Annotated[int, Field(ge=0)] = DEFAULTS.keep_runs,
    keep_days: Annotated[float, Field(ge=0, le=36_500)] = DEFAULTS.keep_days,
) -> dict[str, Any]:
    """Collect the store's garbage.

    Args:
        dry_run: Only say what would be deleted.
        keep_runs: Keep what so many of the newest runs made.
        keep_days: Keep what is younger than this, finished or not.
    """
    task_policy.begin_run()
    space = workspace.current()
    logger = get_run_logger()
    policy = Policy(keep_runs=keep_runs, keep_days=keep_days)
    report = clean(space.store, space.home, policy, dry_run=dry_run)
    logger.info("%s, %d things", size(report.num_bytes), len(report.items))
    create_markdown_artifact(
        markdown=markdown(report, space.store.url),
        key="maintenance-report",
        description="what gc would delete" if dry_run else "what gc deleted",
    )
    return {key: value for key, value in report.to_json().items() if key != "items"}


def markdown(report: Report, url: str) -> str:
    """The report as a page: sums by kind, then the things themselves."""
    verb = "would be deleted" if report.is_dry_run else "deleted"
    kinds: dict[str, list[int]] = {}
    for item in report.items:
        kinds.setdefault(item.kind, []).append(item.num_bytes)
    sums = [f"| {kind} | {len(sizes)} | {size(sum(sizes))} |" for kind, sizes in kinds.items()]
    rows = [f"| {item.kind} | `{item.key}` | {size(item.num_bytes)} | {item.why} |" for item in report.items]
    left_out = [f"\n... and {len(rows) - ROWS_SHOWN} more"] if len(rows) > ROWS_SHOWN else []
    return "\n".join(
        [
            f"# Maintenance of {url}",
            f"\n{len(report.items)} things {verb}, {size(report.num_bytes)}. {report.num_artifacts_kept} artifacts and "
            f"{report.num_blobs_kept} blobs stay.\n",
            *(["| kind | things | size |", "|---|---|---|", *sums, ""] if sums else []),
            *(["| kind | what | size | why |", "|---|---|---|---|", *rows[:ROWS_SHOWN]] if rows else []),
            *left_out,
        ]
    )
