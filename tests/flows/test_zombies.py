"""No orphan, no zombie: a run that is cancelled or killed leaves no rank behind, and its state tells what happened.

The whole matrix is for `make faults`; these are its short cells, on a real server with real process workers.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MICRO, ROOT
from prefect_team import ENDLESS, Team

pytestmark = pytest.mark.slow
ALIVE = """
import pathlib, sys, time
from prefect import flow
from tasks import policy, pulse
@flow
def busy():
    policy.begin_run()
    with pulse.in_step():
        while not pathlib.Path(sys.argv[1]).exists():
            time.sleep(0.1)
busy()
"""
RANKS_GONE_S = 15.0
STATE_TRUE_S = 60.0


@pytest.fixture
def worker(team: Team) -> Iterator["subprocess.Popen[bytes]"]:
    worker = team.work("cpu", "driver")
    yield worker
    team.stop()


def training(team: Team, seed: int) -> str:
    """A run in the middle of a training of its own."""
    run_id = team.speedrun(*ENDLESS, f"seed={seed}", until="pretrain")
    team.wait(run_id, "Running")
    team.wait_for_training()
    return run_id


def kill(pids: list[int], sig: int = signal.SIGKILL) -> None:
    assert pids, "there was nothing to kill"
    for pid in pids:
        os.kill(pid, sig)


def assert_ranks_end(team: Team) -> None:
    began = time.monotonic()
    team.until(team.ranks, lambda ranks: not ranks, timeout_s=RANKS_GONE_S)
    assert time.monotonic() - began <= RANKS_GONE_S
    assert team.processes("nanochat_core.base.one_node") == {}


def checkpoints(team: Team) -> set[str]:
    """Their names; one is written before each validation as well, and two are kept."""
    store, work = team.folder / "home/store/partial/pretrain", team.folder / "home/work"
    return {str(path) for path in (*store.glob("*/step-*"), *work.glob("pretrain-*/checkpoints/step-*"))}


def test_a_cancel_stops_the_ranks_after_a_checkpoint(team: Team, worker: "subprocess.Popen[bytes]") -> None:
    run_id = training(team, 1)
    before = checkpoints(team)
    state = {"type": "CANCELLING", "name": "Cancelling", "message": "as the UI's button"}
    team.api(f"flow_runs/{run_id}/set_state", {"state": state})
    assert_ranks_end(team)
    assert checkpoints(team) - before
    assert team.wait(run_id, "Cancelled", timeout_s=STATE_TRUE_S)["state_type"] == "CANCELLED"


def test_a_killed_flow_process_leaves_no_rank_and_is_crashed(team: Team, worker: "subprocess.Popen[bytes]") -> None:
    run_id = training(team, 2)
    kill(team.engines())
    assert_ranks_end(team)
    team.wait(run_id, "Crashed", timeout_s=STATE_TRUE_S)


@pytest.mark.torture
def test_a_killed_worker_and_flow_process_leave_no_rank_and_are_crashed(
    team: Team, worker: "subprocess.Popen[bytes]"
) -> None:
    run_id = training(team, 3)
    worker.kill()
    kill(team.engines())
    assert_ranks_end(team)
    crashed = team.wait(run_id, "Crashed", timeout_s=STATE_TRUE_S)
    assert "no sign of life" in crashed["state"]["message"]


@pytest.mark.torture
def test_a_cancel_of_a_run_without_a_worker_stops_it_too(team: Team) -> None:
    sets = [*MICRO, *ENDLESS, "seed=4", "corpus.source=path", f"corpus.path={team.corpus}"]
    options = [part for value in sets for part in ("--set", value)]
    command = [sys.executable, "-m", "flows.cli", "run", "tiny", "--until", "pretrain", *options]
    with (team.folder / "local.log").open("wb") as log:
        local = subprocess.Popen(
            command, cwd=ROOT, env=team.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        team.wait_for_training()
        [run] = team.api("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}})
        team.api(f"flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
        local.wait(60)
        assert team.ranks() == []
        team.wait(run["id"], "Cancelled", timeout_s=STATE_TRUE_S)
    finally:
        local.kill()


def test_a_live_run_that_was_called_crashed_is_running_again(team: Team, tmp_path: Path) -> None:
    enough = tmp_path / "enough"
    with (team.folder / "alive.log").open("wb") as log:
        command = [sys.executable, "-c", ALIVE, str(enough)]
        alive = subprocess.Popen(command, cwd=ROOT, env=team.environment, stdout=log, stderr=log)
    try:
        query = {"flows": {"name": {"any_": ["busy"]}}, "flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
        [run] = team.until(lambda: team.api("flow_runs/filter", query), bool)
        message = "no sign of life for 45 s: a server that stalled says so"
        crashed = {"type": "CRASHED", "name": "Crashed", "message": message}
        team.api(f"flow_runs/{run['id']}/set_state", {"state": crashed, "force": True})
        team.wait(run["id"], "Running")
        enough.touch()
        assert alive.wait(90) == 0
        team.wait(run["id"], "Completed")
    finally:
        alive.kill()
