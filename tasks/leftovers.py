"""Task runs that a killed process left behind: a later try of the same flow run says that they are gone.

Prefect keeps the state of a task run in the process that runs it. When that is killed, its task run stays Running for
ever, also after the retry has finished, and a run's page then shows two states that contradict each other.
"""

import contextlib
import logging
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectException
from prefect.states import Crashed

log = logging.getLogger(__name__)
_told: set[UUID] = set()


def tell() -> None:
    """Call what an earlier try of the current flow run left unfinished Crashed; once, before the first task."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or TaskRunContext.get() is not None:
        return
    run = context.flow_run
    if run.id in _told:
        return
    _told.add(run.id)
    if run.run_count < 1:  # the engine's copy is from before this try
        return
    unfinished = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING]))
    )
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    with contextlib.suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        for left in client.read_task_runs(flow_run_filter=of_run, task_run_filter=unfinished):
            log.info("%s was left by a process that is gone", left.name)
            client.set_task_run_state(left.id, Crashed(message="its process was killed; the run goes on"), force=True)
