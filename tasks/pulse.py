"""Signs of life of a run, and the ear for what the server says of it.

Prefect's own heartbeat comes every 30 s at the most, too slow for a state that is true within a minute after worker
and flow process are gone; this one sends the same event every 10 s, so the automation of deployments/automations.yaml
may judge after 45. It also reads the run's state: a cancel of a run that no worker watches (started from a terminal, or
its worker died) would otherwise be heard by nobody, and a run that was given to somebody else must stop here. Both end
like a Ctrl-C: with a checkpoint. A server that does not answer stops nothing.
"""

import contextlib
import contextvars
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.context import FlowRunContext
from prefect.events import RelatedResource, emit_event
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Cancelled, Running

from nanochat_core.base.child import is_stopping
from tasks import leftovers

log = logging.getLogger(__name__)
PERIOD_S = 10.0
PERIOD = "NANOCHAT_PULSE_S"  # another period, for tests
WORKER_GRACE_S = 20.0  # a worker that hears of a cancel acts within seconds; after a restart of the server it is deaf
SILENT = "no sign of life"  # how the automation's message begins
LOOKS = 2  # a state that belongs to somebody else is believed when it was seen so often in a row

_pulses: dict[UUID, "Pulse"] = {}


def begin() -> None:
    """Start the pulse of the current flow run, once; nothing outside of one."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None or context.flow_run.id in _pulses:
        return
    _pulses.clear()  # those of earlier runs in this process have ended
    _pulses[context.flow_run.id] = pulse = Pulse(context.flow_run, context.flow.name if context.flow else "")
    # with the caller's settings, which name the server
    threading.Thread(target=contextvars.copy_context().run, args=(pulse.run,), name="pulse", daemon=True).start()


@contextlib.contextmanager
def in_step() -> Iterator[None]:
    """Within the block this process works for the run, so a stop is meant for it."""
    pulses = list(_pulses.values())
    for pulse in pulses:
        pulse.num_working += 1
    try:
        yield
    finally:
        for pulse in pulses:
            pulse.num_working -= 1


def tell_cancelled(flow: Any, flow_run: FlowRun, state: Any) -> None:
    """Hook of a crash: a run that ended because somebody cancelled it is Cancelled, and says so."""
    pulse = _pulses.get(flow_run.id)
    if pulse is not None and pulse.was_cancelled:
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(flow_run.id, Cancelled(message="stopped with a checkpoint"), force=True)
        leftovers.call_cancelled(flow, flow_run, state)


class Pulse:
    """Of one run in this process; ends with the run's final state."""

    def __init__(self, flow_run: FlowRun, flow: str) -> None:
        self.flow_run = flow_run
        self._run_count: int | None = (
            None  # as first seen on the server; the engine's own copy is from before the start
        )
        self.parent_pid = os.getppid()  # the worker, where one started this process
        self.num_working = 0
        self.was_cancelled = False
        self._suspicious = 0
        self._cancelling_since: float | None = None
        self._resource = {
            "prefect.resource.id": f"prefect.flow-run.{flow_run.id}",
            "prefect.resource.name": flow_run.name,
        }
        self._related = [_related("flow", str(flow_run.flow_id), name=flow)]
        self._related += [_related("tag", tag) for tag in flow_run.tags]

    def run(self) -> None:
        """Beat until the run is over."""
        # a beat that fails is followed by the next one; the client's own retries would pause up to two minutes between
        # two of them, also after the server is back, and the automation would call a run crashed that lives
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            self._beat()

    def _beat(self) -> None:
        period_s = float(os.environ.get(PERIOD, PERIOD_S))
        while True:
            emit_event("prefect.flow-run.heartbeat", resource=self._resource, related=self._related)
            time.sleep(period_s if self._cancelling_since is None else min(period_s, WORKER_GRACE_S))
            try:
                with get_client(sync_client=True) as client:
                    seen = client.read_flow_run(self.flow_run.id)
            except (httpx.HTTPError, RuntimeError) as error:
                log.debug("the server did not answer: %s", error)
                continue
            if not self.look(seen, time.monotonic()):
                return

    def look(self, seen: FlowRun, now_s: float) -> bool:
        """Act on the run's state as the server has it; False when there is nothing left to watch."""
        kind, message = seen.state_type, (seen.state.message if seen.state else None) or ""
        if self.num_working and kind == StateType.CRASHED and message.startswith(SILENT):
            return self._revive()
        is_over = kind in (StateType.COMPLETED, StateType.FAILED, StateType.CRASHED, StateType.CANCELLED)
        if is_over and not self.num_working:
            return False
        is_ours = kind in (StateType.RUNNING, StateType.CANCELLING, StateType.PAUSED, StateType.PENDING)
        self._run_count = seen.run_count if self._run_count is None else self._run_count
        self._suspicious = 0 if is_ours and seen.run_count == self._run_count else self._suspicious + 1
        if kind == StateType.CANCELLING:
            self._cancelling_since = self._cancelling_since or now_s
            has_worker = self.flow_run.deployment_id and os.getppid() == self.parent_pid
            grace_s = WORKER_GRACE_S if has_worker else 0.0
            if now_s - self._cancelling_since >= grace_s and not is_stopping():
                self.was_cancelled = True
                return self._stop("it was cancelled")
        if self._suspicious >= LOOKS and self.num_working:
            return self._stop(f"the server has it as {seen.state_name}, try {seen.run_count}")
        return True

    def _revive(self) -> bool:
        """A stalled server hears no signs of life (SQLite waits a minute for a lock), then judges a run that lives."""
        self._run_count = None  # setting the state counts as another try
        with contextlib.suppress(httpx.HTTPError, RuntimeError), get_client(sync_client=True) as client:
            client.set_flow_run_state(self.flow_run.id, Running(message="it lives"), force=True)
        log.warning("%s was called Crashed and lives: it is Running again", self.flow_run.name)
        return True

    def _stop(self, why: str) -> bool:
        """End this process like a Ctrl-C in a terminal or a worker's cancel; the ranks save a checkpoint first."""
        try:
            log.warning("stopping %s: %s", self.flow_run.name, why)
        finally:  # where the worker that reads our lines is gone, rich ends this thread with a SystemExit
            os.kill(os.getpid(), signal.SIGTERM)
        return False


def _related(role: str, number: str, *, name: str = "") -> RelatedResource:
    labels = {"prefect.resource.id": f"prefect.{role}.{number}", "prefect.resource.role": role}
    return RelatedResource.model_validate({**labels, **({"prefect.resource.name": name} if name else {})})
