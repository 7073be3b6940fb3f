"""A server that is away for a while, and for minutes; all cells of the kill matrix are played by faults/matrix.py."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_lane import Cell, Lane
from prefect_team import LEASES

pytestmark = pytest.mark.slow


@pytest.fixture
def lane(tmp_path: Path, small_corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lane]:
    """A server and a worker, and a training that outlasts the outage."""
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE", LEASES)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker that ignores it ignores SIGTERM too
    made = Lane(tmp_path / "lane", small_corpus, num_steps=300)
    try:
        made.prepare("speedrun")
        yield made
    finally:
        made.close()
        signal.signal(signal.SIGINT, before)


@pytest.mark.torture  # in short: test_server_kills.py, and tests/flows/test_prefect_plugin.py for a server that stays
def test_a_server_that_dies_and_comes_back_costs_the_training_nothing(lane: Lane) -> None:
    lane.outage_s = 5.0
    away = lane.play(Cell("server", "KILL"), None, at_step=10)
    assert away.broken == []
    assert away.states[-1] == "Completed"
    assert not away.was_retried
    assert away.slowdown is None or away.slowdown < 2  # None: this machine trained faster than the server came back


@pytest.mark.torture
@pytest.mark.timeout(3000)
def test_minutes_without_the_server_do_not_slow_the_training(lane: Lane) -> None:
    lane.num_steps = int(os.environ.get("NANOCHAT_OUTAGE_STEPS", "6000"))
    lane.outage_s = float(os.environ.get("NANOCHAT_OUTAGE_S", "120"))
    away = lane.play(Cell("server", "KILL"), None, at_step=200)
    print(f"\n| server away for {lane.outage_s:.0f} s | {away.states} | step time x {away.slowdown} | {away.broken} |")
    assert away.broken == []
    assert away.states[-1] == "Completed"
    assert away.slowdown is not None, "the training was over before the server was back: more steps"
    assert away.slowdown < 1.5


@pytest.mark.torture
@pytest.mark.timeout(1800)
def test_a_training_may_end_while_the_server_is_away(lane: Lane) -> None:
    """By default Prefect's client gives up after a minute: checks and log of the step would not be recorded."""
    lane.outage_s, lane.num_steps = 150.0, 600
    away = lane.play(Cell("server", "KILL"), None, at_step=10)
    print(f"\n| training over, server away for {lane.outage_s:.0f} s | {away.states} | {away.broken} |")
    assert away.slowdown is None, "the training was not over before the server was back: fewer steps"
    assert away.broken == []
    assert away.states[-1] == "Completed"
    assert not away.was_retried
    shown = {artifact["key"] for artifact in lane.team.api("artifacts/filter", {})}
    assert shown >= {"pretrain-checks", "pretrain-log"}
