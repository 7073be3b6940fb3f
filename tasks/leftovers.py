"""Task runs whose state is not what happened to them: left by a killed process, or crashed by a cancel.

Prefect keeps the state of a task run in the process that runs it. When that is killed, its task run stays Running for
ever, also after the retry has finished, and a run's page then shows two states that contradict each other. And a step
that somebody cancelled reads Crashed, as if something had gone wrong: it is Cancelled, and says what it has kept.
"""

import contextlib
import logging
import time
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterTaskRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Crashed

log = logging.getLogger(__name__)
SETTLE_S = 3.0  # the state that a step's own process gave it is on its way to the server
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
    with contextlib.suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        for left in _task_runs(client, run, StateType.PENDING, StateType.RUNNING):
            log.info("%s was left by a process that is gone", left.name)
            client.set_task_run_state(left.id, Crashed(message="its process was killed; the run goes on"), force=True)


def call_cancelled(flow: Any, flow_run: FlowRun, state: Any) -> None:
    """Hook of a cancel: the steps that it ended are Cancelled, with the step of their checkpoint.

    A worker calls it by keyword, in a process of its own; the names of its parameters are Prefect's.
    """
    del flow, state
    time.sleep(SETTLE_S)
    with contextlib.suppress(httpx.HTTPError, PrefectException), get_client(sync_client=True) as client:
        for left in _task_runs(client, flow_run, StateType.PENDING, StateType.RUNNING, StateType.CRASHED):
            if left.flow_run_run_count >= flow_run.run_count:  # not what an earlier try had left
                client.set_task_run_state(left.id, Cancelled(message=_last_words(client, left)), force=True)


def _task_runs(client: SyncPrefectClient, run: FlowRun, *kinds: StateType) -> list[TaskRun]:
    return client.read_task_runs(
        flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[run.id])),
        task_run_filter=TaskRunFilter(state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[*kinds]))),
    )


def _last_words(client: SyncPrefectClient, task_run: TaskRun) -> str:
    """What the step's progress card says last."""
    of_step = ArtifactFilter(
        task_run_id=ArtifactFilterTaskRunId(any_=[task_run.id]), type=ArtifactFilterType(any_=["progress"])
    )
    cards = client.read_artifacts(artifact_filter=of_step)
    return next((card.description.splitlines()[-1] for card in cards if card.description), "it was cancelled")
