"""Why something waits, in words for a run's page and its log: a pool without workers, a limit, a pause.

Prefect shows `Scheduled`, `Late` or `Pending` and no reason. Everything here only reads the server, and says nothing
where the server does not answer: a reason is a comfort, never a condition.
"""

from http import HTTPStatus

from httpx import HTTPStatusError
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus

BUSY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
NAMED = 3  # runs, at most


def live_workers(client: SyncPrefectClient, pool: str) -> list[str]:
    """Names of the pool's workers that show signs of life; a pool that is not there has none."""
    try:
        workers = client.read_workers_for_work_pool(pool)
    except HTTPStatusError as error:
        if error.response.status_code == HTTPStatus.NOT_FOUND:
            return []
        raise
    return [worker.name for worker in workers if worker.status == WorkerStatus.ONLINE]


def reason(client: SyncPrefectClient, run: FlowRun) -> str:
    """Why a run that was sent to a pool has not started."""
    pool = client.read_work_pool(run.work_pool_name or "")
    if pool.is_paused:
        return f"the pool {pool.name} is paused: prefect work-pool resume {pool.name}"
    if not live_workers(client, pool.name):
        return f"no worker of the pool {pool.name} is alive: prefect worker start --pool {pool.name}"
    others = [other for other in _busy(client, pool.name) if other.id != run.id]
    if pool.concurrency_limit is not None and len(others) >= pool.concurrency_limit:
        return f"the pool {pool.name} takes {pool.concurrency_limit} at a time: {told(others)}"
    return f"a worker of the pool {pool.name} will take it within seconds"


def told(runs: list[FlowRun]) -> str:
    """Runs by name, and since when they go."""
    since = [f"{run.name} since {run.start_time:%H:%M} UTC" if run.start_time else run.name for run in runs[:NAMED]]
    return ", ".join(since) + (f" and {len(runs) - NAMED} more" if len(runs) > NAMED else "")


def _busy(client: SyncPrefectClient, pool: str) -> list[FlowRun]:
    return client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=BUSY))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[pool])),
    )
