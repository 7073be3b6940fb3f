"""What a run does when the server says that it is cancelled, over, or somebody else's."""

import logging
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

import pytest
from http_server import Fault, HttpServer
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

import tasks.pulse
from tasks.pulse import PERIOD, WORKER_GRACE_S, Pulse


@pytest.fixture
def stops() -> Iterator[list[int]]:
    """The signals that would have ended this process."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = signal.signal(signal.SIGTERM, note)
    yield received
    signal.signal(signal.SIGTERM, before)


def run_in(kind: StateType, *, run_count: int = 1, has_worker: bool = True) -> FlowRun:
    fields = {"flow_id": "0" * 32, "name": "a-run", "run_count": run_count}
    if has_worker:
        fields["deployment_id"] = "1" * 32
    return FlowRun(**fields, state=State(type=kind), state_type=kind)


def pulse(*, has_worker: bool = True, is_working: bool = True) -> Pulse:
    made = Pulse(run_in(StateType.RUNNING, has_worker=has_worker), "speedrun")
    made.num_working = int(is_working)
    return made


def test_a_running_run_goes_on(stops: list[int]) -> None:
    watch = pulse()
    assert all(watch.look(run_in(StateType.RUNNING), now) for now in range(100))
    assert stops == []


def test_a_cancel_that_no_worker_hears_stops_the_run(stops: list[int]) -> None:
    watch = pulse(has_worker=False)
    assert not watch.look(run_in(StateType.CANCELLING), 0.0)
    assert stops == [signal.SIGTERM]
    assert watch.was_cancelled


def test_a_worker_has_its_grace_before_a_cancel_is_taken_up(stops: list[int]) -> None:
    watch = pulse()
    assert watch.look(run_in(StateType.CANCELLING), 100.0)
    assert watch.look(run_in(StateType.CANCELLING), 100.0 + WORKER_GRACE_S - 1)
    assert stops == []
    assert not watch.look(run_in(StateType.CANCELLING), 100.0 + WORKER_GRACE_S)
    assert stops == [signal.SIGTERM]


@pytest.mark.parametrize("kind", [StateType.CRASHED, StateType.SCHEDULED, StateType.CANCELLED, StateType.COMPLETED])
def test_a_run_that_was_given_away_stops_at_the_second_look(stops: list[int], kind: StateType) -> None:
    watch = pulse()
    assert watch.look(run_in(kind), 0.0)
    assert not watch.look(run_in(kind), 10.0)
    assert stops == [signal.SIGTERM]
    assert not watch.was_cancelled


def test_a_run_that_somebody_else_runs_again_stops(stops: list[int]) -> None:
    watch = pulse()
    for run_count in (2, 2, 3):
        assert watch.look(run_in(StateType.RUNNING, run_count=run_count), 0.0)
    assert not watch.look(run_in(StateType.RUNNING, run_count=3), 10.0)
    assert stops == [signal.SIGTERM]


def test_one_look_that_is_not_confirmed_stops_nothing(stops: list[int]) -> None:
    watch = pulse()
    for kind in (StateType.SCHEDULED, StateType.RUNNING, StateType.CRASHED, StateType.RUNNING):
        assert watch.look(run_in(kind), 0.0)
    assert stops == []


def test_a_run_that_is_over_is_not_watched_any_more(stops: list[int]) -> None:
    assert not pulse(is_working=False).look(run_in(StateType.COMPLETED), 0.0)
    assert stops == []


class BrokenPipe(logging.Handler):
    """What rich does when it prints a line into a pipe that nobody reads: it raises SystemExit, in whatever thread."""

    def emit(self, record: logging.LogRecord) -> None:
        raise SystemExit(1)


def test_a_cancel_stops_a_run_whose_worker_is_gone_without_waiting_for_it(stops: list[int]) -> None:
    watch = pulse()
    assert watch.look(run_in(StateType.CANCELLING), 0.0), "its worker lives, and has its grace"
    watch.parent_pid = os.getpid()  # as if this process had been given to another parent since
    assert not watch.look(run_in(StateType.CANCELLING), 1.0)
    assert stops == [signal.SIGTERM]


def test_a_stop_does_not_wait_for_a_line_that_nobody_can_read(stops: list[int]) -> None:
    log, handler = logging.getLogger("tasks.pulse"), BrokenPipe()
    watch = pulse(is_working=False)
    watch.parent_pid = os.getpid()
    log.addHandler(handler)
    try:
        with pytest.raises(SystemExit):
            watch.look(run_in(StateType.CANCELLING), 0.0)
    finally:
        log.removeHandler(handler)
    assert stops == [signal.SIGTERM]


def test_a_beat_that_fails_does_not_delay_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the client's retries, four answers of an overloaded server would keep the pulse still for half a minute."""
    beats: list[float] = []
    monkeypatch.setenv(PERIOD, "0.05")
    monkeypatch.setattr(tasks.pulse, "emit_event", lambda *_, **__: beats.append(time.monotonic()))
    over = run_in(StateType.COMPLETED)
    with HttpServer() as server, temporary_settings({PREFECT_API_URL: f"{server.url}/api"}):
        path = f"/api/flow_runs/{over.id}"
        server.files[path] = over.model_dump_json().encode()
        server.script(path, *[Fault(status=503)] * 4)
        Pulse(over, "speedrun").run()
        assert [request.status for request in server.seen(path)] == [503] * 4 + [200]
    # no request without a beat of its own: the client's retries would be requests between two beats. On a loaded
    # machine one more beat comes when a request does not even reach the server
    assert len(beats) >= 5
