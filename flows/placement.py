"""Where GPU steps run: in this run's own process (inline), or each as a run of the `gpu_step` deployment (pool).

`auto` decides by what is there when the run begins, and says in the run's log which and why: a plan for processors
runs here; others go to the pool where it has a live worker, stay here where this machine has a GPU, and else are sent
all the same and wait for a worker. A training that nobody placed would otherwise run for days on a driver without one.

The two sides share the store and nothing else. What travels is the step's name, the configuration and the
fingerprints of its inputs; what comes back is the artifact under the fingerprint that the driver expects. A cached
step is found here, before anything is sent. A child that vanished (its machine was taken away) is followed by another
one, which goes on from the last checkpoint; the store's lease keeps the first one from writing should it wake up.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    ArtifactFilterType,
    FlowRunFilter,
    FlowRunFilterIdempotencyKey,
)
from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.deployments import run_deployment
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, PREFECT_UI_URL, temporary_settings
from prefect.states import Cancelling, State

from flows import waits
from nanochat_core import observe, workspace
from nanochat_core.base import gpus
from nanochat_core.base.child import NonFiniteError
from nanochat_core.base.errors import MissingError, NanochatError
from nanochat_core.pipeline.execute import accepted, execute, ref_of, reusable
from nanochat_core.pipeline.step import ChecksFailedError, Ref, StepKey, step_key
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan
from nanochat_core.store.manifest import Artifact
from tasks import policy
from tasks.artifacts import create_link_artifact

DEPLOYMENT, POOL = "gpu_step/gpu_step", "gpu"
log = logging.getLogger("nanochat_core.placement")  # the loggers below this name reach the run's page
POLL_S = 2.0
RELAY_S = 10.0  # how often the child's progress is read
MAX_CHILDREN = 6  # of one step that vanished, before the parent gives up: the machines are then not the cause
STOP_WAIT_S = 20.0  # for a cancelled child; a cancelled run itself has 30 s


@contextlib.contextmanager
def placed(placement: str, plan: RunPlan) -> Iterator[None]:
    """Within the block GPU steps go where `placement` says: "inline", "pool", or "auto"."""
    if placement == "auto":
        placement, why = chosen(plan)
        policy.show_core_logs()
        log.info("GPU steps run %s: %s", "on the gpu pool" if placement == "pool" else "in this process", why)
    with policy.sending(send_step if placement == "pool" else None):
        yield


def chosen(plan: RunPlan) -> tuple[str, str]:
    """Where `auto` sends the GPU steps of a plan, and why."""
    if plan.config.runtime.gpu == "CPU":
        return "inline", "the plan is for processors (runtime.gpu)"
    with get_client(sync_client=True) as client:
        workers = waits.live_workers(client, POOL)
    if workers:
        return "pool", f"it has the live worker {workers[0]}"
    if gpus.visible():
        return "inline", f"this machine has a GPU, and the pool {POOL} no live worker"
    return "pool", f"this machine has no GPU; no worker of the pool is alive yet: prefect worker start --pool {POOL}"


def send_step(name: str, plan: RunPlan, inputs: Mapping[str, Ref]) -> Ref:
    """The ref of a GPU step: found in the store, or made by a worker of the gpu pool."""
    step, space, began = STEPS[name], workspace.current(), time.monotonic()
    key = step_key(step, plan, step.digests(inputs))
    if accepted(step, plan, key):  # found in the store, so there is nothing to send
        return execute(step, plan, inputs)
    observer = observe.current()
    observer.step_started(name, step.title(plan))
    before = space.store.find(name, key.fingerprint)
    found = None if name in plan.fresh else reusable(space, name, key)
    if found is None:
        try:
            found = _made_elsewhere(name, plan, inputs, key, before)
        except BaseException as error:
            observer.step_failed(name, str(error) or type(error).__name__)
            raise
        ref = ref_of(found, inputs, is_cached=False)
    else:
        ref = ref_of(found, inputs)
    seconds = time.monotonic() - began
    observer.step_finished(name, is_cached=ref.is_cached, seconds=seconds, headline=step.headline(ref.metrics))
    return ref


def sent_inputs(inputs: Mapping[str, Ref]) -> dict[str, dict[str, Any]]:
    """Fingerprints of the inputs and of all that they were made from, by step: small, and enough to find them."""
    sent: dict[str, dict[str, Any]] = {}
    for name, ref in inputs.items():
        sent |= sent_inputs(ref.inputs)
        sent[name] = {"fingerprint": ref.fingerprint, "inputs": list(ref.inputs)}
    return sent


def _made_elsewhere(
    name: str, plan: RunPlan, inputs: Mapping[str, Ref], key: StepKey, before: Artifact | None
) -> Artifact:
    """Send the step, again where a child vanished, and find what it made."""
    parameters = {
        "step": name,
        "config": asdict(plan.config),
        "inputs": sent_inputs(inputs),
        "fingerprint": key.fingerprint,
        "fresh": name in plan.fresh,
        **({"accept_drift": True} if name in plan.accept_drift else {}),
    }
    with get_client(sync_client=True) as client:
        child = _follow_children(client, name, parameters)
    made = workspace.current().store.find(name, key.fingerprint)
    if made is None or (parameters["fresh"] and made == before):
        raise MissingError(
            f"{name} was made by {child.name}, and is not in {workspace.current().store.url}",
            hint="give the workers of both pools the same NANOCHAT_STORE",
        )
    return made


def _follow_children(client: SyncPrefectClient, name: str, parameters: dict[str, Any]) -> FlowRun:
    """Children one after the other until one completes; an earlier try's child that still runs is joined."""
    vanished = 0
    for number in range(1000):
        child = _start(client, name, parameters, number)
        if child.state is not None and child.state.is_final():
            continue  # of an earlier try of the parent: what it made would have been found
        observe.current().note(f"{name} runs on the gpu pool as {child.name}: {_link(child.id)}")
        create_link_artifact(link=_link(child.id), link_text=f"{name} on the gpu pool", key=f"{_key(name)}-run")
        child = _wait(client, name, child)
        assert child.state is not None
        if child.state.is_completed():
            return child
        if not child.state.is_crashed():
            raise _error_kind(child.state.message or "")(
                f"{name} ended as {child.state.name} on the gpu pool: {child.state.message or 'no message'}",
                hint=f"its run: {_link(child.id)}; retry this run to try again",
            )
        vanished += 1
        observe.current().note(f"{name}: {child.name} vanished ({child.state.message}); it is sent again")
        if vanished == MAX_CHILDREN:
            break
    raise NanochatError(f"{name} vanished {vanished} times on the gpu pool", hint="look at the pool's workers")


def _error_kind(message: str) -> type[NanochatError]:
    """What the child failed with, as its state's message names it: a training that diverged is told from a fault."""
    return next((kind for kind in (ChecksFailedError, NonFiniteError) if kind.__name__ in message), NanochatError)


def _start(client: SyncPrefectClient, name: str, parameters: dict[str, Any], number: int) -> FlowRun:
    """Child `number` of this step in this run; a retry of the parent finds it by its key and starts no other."""
    context = FlowRunContext.get()
    parent = context.flow_run.id if context and context.flow_run else None
    key = f"{parent}-{name}-{parameters['fingerprint'][:16]}-{number}"
    same = FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=[key]))
    if parent and (there := client.read_flow_runs(flow_run_filter=same)):
        return there[0]
    try:
        run: FlowRun = run_deployment(
            DEPLOYMENT,
            parameters=parameters,
            timeout=0,
            flow_run_name=f"gpu-step-{_key(name)}",  # until it starts and names itself
            idempotency_key=key if parent else None,  # should two retries come here at once
            tags=["nanochat"],
        )
    except ObjectNotFound as error:
        raise MissingError(
            f"there is no deployment {DEPLOYMENT} on this server", hint="nanochat deploy gpu_step"
        ) from error
    return run


def _wait(client: SyncPrefectClient, name: str, child: FlowRun) -> FlowRun:
    """Until the child's run has ended; a stop of this run stops the child first."""
    relayed, told = 0.0, ""
    try:
        while child.state is None or not child.state.is_final():
            time.sleep(POLL_S)
            # The server may be away for a while; the training goes on. The next look is soon: no retries of this one.
            with contextlib.suppress(httpx.HTTPError), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                child = client.read_flow_run(child.id)
                if time.monotonic() - relayed >= RELAY_S:
                    relayed = time.monotonic()
                    percent, text = _progress(client, child)
                    observe.current().step_progress(name, percent, 100.0, text)
                    if "waits" in text and text != told:  # here for a worker, or there for a GPU
                        told = text
                        observe.current().note(text)
    except BaseException as error:
        if not isinstance(error, Exception):  # a cancel or Ctrl-C: nobody wants the child's result any more
            _cancel(client, child)
        raise
    return child


def _progress(client: SyncPrefectClient, child: FlowRun) -> tuple[float, str]:
    """How far the child says it is."""
    if child.state is None or not child.state.is_running():
        return 0.0, f"{child.name} waits: {waits.reason(client, child)}"
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter(
            flow_run_id=ArtifactFilterFlowRunId(any_=[child.id]), type=ArtifactFilterType(any_=["progress"])
        )
    )
    if not found:
        return 0.0, f"{child.name}: started"
    newest = max(found, key=lambda artifact: str(artifact.updated))
    return float(newest.data or 0.0), (newest.description or child.name).splitlines()[-1]


def _cancel(client: SyncPrefectClient, child: FlowRun) -> None:
    deadline = time.monotonic() + STOP_WAIT_S
    state: State[Any] | None = child.state
    with contextlib.suppress(httpx.HTTPError):
        client.set_flow_run_state(child.id, Cancelling(message="the run that wanted it was stopped"))
        while time.monotonic() < deadline and not (state and state.is_final()):
            time.sleep(0.5)
            state = client.read_flow_run(child.id).state


def _link(run_id: UUID) -> str:
    return f"{PREFECT_UI_URL.value() or ''}/runs/flow-run/{run_id}"


def _key(name: str) -> str:
    return name.replace("_", "-")
