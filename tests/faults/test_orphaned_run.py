"""A run whose worker was killed hears a cancel by itself, although nobody reads its lines any more."""

import logging
import os
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from prefect.client.schemas.objects import FlowRun, State, StateType

from tasks.pulse import Pulse


@pytest.fixture
def stops() -> Iterator[list[int]]:
    """The signals that would have ended this process."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = signal.signal(signal.SIGTERM, note)
    yield received
    signal.signal(signal.SIGTERM, before)


def run_in(kind: StateType) -> FlowRun:
    return FlowRun(
        flow_id="0" * 32, deployment_id="1" * 32, name="a-run", run_count=1, state=State(type=kind), state_type=kind
    )


class BrokenPipe(logging.Handler):
    """What rich does when it prints a line into a pipe that nobody reads: it raises SystemExit, in whatever thread."""

    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(1)


def test_a_cancel_stops_a_run_whose_worker_is_gone_without_waiting_for_it(stops: list[int]) -> None:
    watch = Pulse(run_in(StateType.RUNNING), "speedrun")
    watch.num_working = 1
    assert watch.look(run_in(StateType.CANCELLING), 0.0), "its worker lives, and has its grace"
    watch.parent_pid = os.getpid()  # as if this process had been given to another parent since
    assert not watch.look(run_in(StateType.CANCELLING), 1.0)
    assert stops == [signal.SIGTERM]


def test_a_stop_does_not_wait_for_a_line_that_nobody_can_read(stops: list[int]) -> None:
    log, handler = logging.getLogger("tasks.pulse"), BrokenPipe()
    watch = Pulse(run_in(StateType.RUNNING), "speedrun")
    watch.parent_pid = os.getpid()
    log.addHandler(handler)
    try:
        with pytest.raises(SystemExit):
            watch.look(run_in(StateType.CANCELLING), 0.0)
    finally:
        log.removeHandler(handler)
    assert stops == [signal.SIGTERM]
