"""Why something waits, in words for a run's page and its log: a pool without workers, a limit, a pause.

Prefect shows `Scheduled`, `Late` or `Pending` and no reason. Nothing is said where the server does not answer: a reason
is a comfort, never a condition. What runs already says itself what it waits for (base/gpu_slots.py, the store's lease);
for a run that nobody has taken yet the processes speak that look after workers. They also give back what a worker took
and did not live to begin: Prefect looks for such a run nowhere, and it would be Pending, with its slot, for ever. And
they schedule crashed runs again that the automation of autoresume should have and did not.
"""

import contextlib
import functools
import logging
import random
import time
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import NoReturn

from httpx import HTTPError, HTTPStatusError
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import LogCreate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterExpectedStartTime,
    FlowRunFilterState,
    FlowRunFilterStateName,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    LogFilter,
    LogFilterFlowRunId,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, StateType, WorkerStatus
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import AwaitingRetry, Crashed

from tasks.pulse import SILENT

BUSY = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
NAMED = 3  # runs, at most
LOGGER = "nanochat_core.waits"
EVERY_S = 15.0
PATIENCE_S = 20.0  # a worker asks every 10 s for what is due
TAKEN_S = 300.0  # a run's process begins within seconds, on a starved machine minutes; a pod waits for its node: let be
SUBMITTING = "Submitting"  # Prefect's name for the state of a run whose worker, named in its labels, starts its process
BEGIN_AGAIN = 3  # times; what crashes so often before it begins has another reason than a worker that ended
AUTORESUME, RESUMES = "nanochat-autoresume", 5  # of deployments/automations.yaml
UNHEARD_S = 30.0  # a server that ends loses the events that it has not handled; the automation acts within seconds
BEGIN_WITHIN_S = 3600.0  # after the crash; whoever starts a worker days later does not mean what crashed last week
QUEUED = "AwaitingConcurrencySlot"  # Prefect's name for the state of a run that its deployment's limit holds back


def live_workers(client: SyncPrefectClient, pool: str) -> list[str]:
    """Names of the pool's workers that show signs of life; a pool that is not there has none."""
    try:
        workers = client.read_workers_for_work_pool(pool)
    except HTTPStatusError as error:
        if error.response.status_code == HTTPStatus.NOT_FOUND:
            return []
        raise
    return [worker.name for worker in workers if worker.status == WorkerStatus.ONLINE]


def watch(pool: str, worker: str) -> NoReturn:
    """Look after the runs of the server that nobody works for, as long as this worker lives; for a thread."""
    looks = (functools.partial(bury, pool=pool, worker=worker, began=datetime.now(UTC)), give_back, begin_again, tell)
    time.sleep(random.uniform(0, EVERY_S))  # workers that began together would say the same in one breath
    while True:
        for look in looks:
            with contextlib.suppress(HTTPError, PrefectException, RuntimeError), get_client(sync_client=True) as client:
                look(client)
        time.sleep(EVERY_S)


def bury(client: SyncPrefectClient, *, pool: str, worker: str, began: datetime) -> None:
    """Call Crashed what an earlier worker of this name was running: its runs ended with it.

    A run that was killed before its first sign of life would be missed by nobody else, and Running for ever.
    """
    running = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING]))
    ours = FlowRunFilterTags(all_=["nanochat"])
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=running, tags=ours)):
        by = (run.work_pool_name, run.labels.get("prefect.worker.name"))
        if by == (pool, worker) and run.state and run.state.timestamp < began:
            client.set_flow_run_state(run.id, Crashed(message=f"{SILENT}: its worker {worker} ended before it"))


def leave(pool: str, worker: str) -> None:
    """Give back what a worker that has ended took and did not begin, where the server answers within seconds."""
    impatient = temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: 5.0})
    away = contextlib.suppress(HTTPError, PrefectException, RuntimeError)
    with impatient, away, get_client(sync_client=True) as client:
        give_back(client, pool=pool, worker=worker)


def tell(client: SyncPrefectClient) -> None:
    """Write into the log of each run that is due and was not taken why that is, when it is news."""
    due = FlowRunFilterExpectedStartTime(before_=datetime.now(UTC) - timedelta(seconds=PATIENCE_S))
    scheduled = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.SCHEDULED]))
    ours = FlowRunFilterTags(all_=["nanochat"])
    waiting = FlowRunFilter(state=scheduled, expected_start_time=due, tags=ours)
    for run in client.read_flow_runs(flow_run_filter=waiting):
        if run.work_pool_name is None:
            continue
        text = f"waits: {reason(client, run)}"
        known = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id])))
        if text not in [line.message for line in known if line.name == LOGGER][-1:]:
            _note(client, run, text)


def give_back(client: SyncPrefectClient, *, pool: str = "", worker: str = "") -> None:
    """Schedule runs again that a worker took and nobody began: those of one that has ended, else all after `TAKEN_S`.

    Should a process have been that slow and begin after all, the start of the next one ends it (tasks/pulse.py), and
    only one of them holds the store's leases.
    """
    between = FlowRunFilterState(name=FlowRunFilterStateName(any_=[SUBMITTING] if worker else ["Pending", SUBMITTING]))
    ours = FlowRunFilterTags(all_=["nanochat"])
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=between, tags=ours)):
        by = run.labels.get("prefect.worker.name", "") if run.state_name == SUBMITTING else ""
        silent_s = (datetime.now(UTC) - run.state.timestamp).total_seconds() if run.state else 0.0
        is_lost = (run.work_pool_name, by) == (pool, worker) if worker else silent_s > TAKEN_S
        if is_lost and _is_as_seen(client, run) and client.read_work_pool(str(run.work_pool_name)).type == "process":
            late = f"{by or 'a worker'} took the run, which has not begun within {TAKEN_S / 60:.0f} min"
            told = f"the worker {worker} ended before the run began" if worker else late
            client.set_flow_run_state(run.id, AwaitingRetry(message=told), force=True)
            _note(client, run, f"{told}: it is scheduled again")


def begin_again(client: SyncPrefectClient) -> None:
    """Schedule runs with the tag autoresume again that crashed and that the automation did not hear of or leaves alone.

    It counts a run's starts, and one that crashed before it began, because its worker ended as it took it, has none.
    Where the automation is paused, what began stays Crashed, as somebody wishes.
    """
    crashed = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED]))
    ours = FlowRunFilterTags(all_=["nanochat", "autoresume"])
    due = FlowRunFilterExpectedStartTime(after_=datetime.now(UTC) - timedelta(days=7))
    for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=crashed, tags=ours, expected_start_time=due)):
        age_s = (datetime.now(UTC) - run.state.timestamp).total_seconds() if run.state else BEGIN_WITHIN_S
        if run.deployment_id is None or age_s >= BEGIN_WITHIN_S:
            continue
        if not run.run_count:
            times = sum(state.is_crashed() for state in client.read_flow_run_states(run.id))
            most, told = BEGIN_AGAIN, "it crashed before it began"
        else:
            is_heard = age_s < UNHEARD_S or not any(
                each.enabled for each in client.read_automations_by_name(AUTORESUME)
            )
            times, most, told = run.run_count, 0 if is_heard else RESUMES, "nobody heard that it crashed"
        if times <= most and _is_as_seen(client, run):
            message = f"{told}: scheduled again ({times} of {most})"
            client.set_flow_run_state(run.id, AwaitingRetry(message=message), force=True)
            _note(client, run, message)


def _is_as_seen(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Whether nobody did anything with it since: another worker's thread gives back as well."""
    now = client.read_flow_run(run.id)
    return run.work_pool_name is not None and now.state is not None and now.state == run.state


def _note(client: SyncPrefectClient, run: FlowRun, text: str) -> None:
    line = LogCreate(name=LOGGER, level=logging.INFO, message=text, timestamp=datetime.now(UTC), flow_run_id=run.id)
    client.create_logs([line])


def reason(client: SyncPrefectClient, run: FlowRun) -> str:
    """Why a run that was sent to a pool has not started."""
    if run.state_name == QUEUED and run.deployment_id is not None:
        of_it = DeploymentFilter(id=DeploymentFilterId(any_=[run.deployment_id]))
        others = [other for other in _busy(client, deployment_filter=of_it) if other.id != run.id]
        return f"its deployment takes no more at a time: {told(others) or 'the slot is about to be free'}"
    pool = client.read_work_pool(run.work_pool_name or "")
    if pool.is_paused:
        return f"the pool {pool.name} is paused: prefect work-pool resume {pool.name}"
    if not live_workers(client, pool.name):
        return f"no worker of the pool {pool.name} is alive: prefect worker start --pool {pool.name}"
    of_it = WorkPoolFilter(name=WorkPoolFilterName(any_=[pool.name]))
    others = [other for other in _busy(client, work_pool_filter=of_it) if other.id != run.id]
    if pool.concurrency_limit is not None and len(others) >= pool.concurrency_limit:
        return f"the pool {pool.name} takes {pool.concurrency_limit} at a time: {told(others)}"
    if others:
        return f"the workers of the pool {pool.name} are at {told(others)}; one that has room takes it within seconds"
    return f"a worker of the pool {pool.name} will take it within seconds"


def told(runs: list[FlowRun]) -> str:
    """Runs by name, and since when they go."""
    since = [f"{run.name} since {run.start_time:%H:%M} UTC" if run.start_time else run.name for run in runs[:NAMED]]
    return ", ".join(since) + (f" and {len(runs) - NAMED} more" if len(runs) > NAMED else "")


def _busy(client: SyncPrefectClient, **among: DeploymentFilter | WorkPoolFilter) -> list[FlowRun]:
    going = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=BUSY)))
    return client.read_flow_runs(flow_run_filter=going, **among)
