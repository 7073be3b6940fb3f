"""A run that waits says for what, on its page and in its log: real runs on a real server, on a machine that says it
has GPUs."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from conftest import ROOT
from gpu_machine import A100, machine_with
from prefect.client.orchestration import get_client
from prefect_team import ENDLESS, Team

from flows import waits
from flows.stack_process import children_of

pytestmark = pytest.mark.slow
SOMEBODY = """
import sys, time
from nanochat_core.base import gpu_slots
with gpu_slots.taken(1, owner="somebody's notebook", on_wait=print, note=print):
    print("has it", flush=True)
    time.sleep(600)
"""
ENDS = """
import os, signal
import prefect.flow_engine as engine
from prefect.context import FlowRunContext
from flows.recorded import flow

os.environ["PREFECT__FLOW_RUN_ID"] = "of its own"  # as in the process that a worker starts
ask = engine.propose_state_sync

def told_to_stop(client, state, **more):
    answer = ask(client, state, **more)
    if state.is_completed():  # the server has it, and its answer is on the way
        os.kill(os.getpid(), signal.SIGTERM)
    return answer

engine.propose_state_sync = told_to_stop

@flow(name="ends")
def ends():
    print(FlowRunContext.get().flow_run.id, flush=True)

ends()
"""
SINCE = r"since \d\d:\d\d UTC"


@pytest.fixture
def crew(team: Team, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Team]:
    """With a worker that drives runs, on a machine with as many GPUs as the test says."""
    team.machine = machine_with(tmp_path, request.param)
    team.work("cpu", f"driver-{request.param}")
    yield team
    team.machine = {}
    team.stop()


@pytest.mark.torture  # who waits for what is in tests/core/base/test_gpu_slots.py, and how a page hears it below
@pytest.mark.parametrize("crew", [1], indirect=True)
def test_a_run_says_who_has_the_gpu_and_another_one_who_makes_its_step(crew: Team) -> None:
    with subprocess.Popen([sys.executable, "-c", SOMEBODY], cwd=ROOT, env=crew.environment, stdout=-1) as somebody:
        try:
            assert somebody.stdout is not None
            assert b"on GPU 0" in somebody.stdout.readline()
            first = crew.speedrun("seed=21", until="pretrain")
            reason = rf"waits for 1 of 1 GPUs: GPU 0 has somebody's notebook {SINCE}"
            crew.until(lambda: crew.log(first), lambda log: re.search(f"pretrain {reason}", log) is not None)
            crew.until(lambda: crew.cards(first, "pretrain-progress"), lambda card: re.search(reason, card) is not None)
            second = crew.speedrun("seed=21", until="pretrain")
            holder = rf"pretrain is being made by {crew.run(first)['name']} \(process \d+ on .*\) {SINCE}; waiting"
            crew.until(lambda: crew.log(second), lambda log: re.search(holder, log) is not None)
        finally:
            somebody.kill()
    crew.wait(first, "Completed")
    crew.wait(second, "Completed")
    assert "pretrain on GPU 0, of 1 here" in crew.log(first)
    assert crew.tasks(second)["pretrain"] == ["Cached"]


@pytest.mark.torture
@pytest.mark.parametrize("crew", [2], indirect=True)
def test_two_runs_get_a_gpu_each_and_a_third_one_that_of_a_run_that_is_killed(crew: Team) -> None:
    runs = []
    for seed in (31, 32):
        runs.append(crew.speedrun(*ENDLESS, f"seed={seed}", until="pretrain"))
        crew.until(lambda: crew.log(runs[-1]), lambda log: "pretrain on GPU" in log)
    names = [crew.run(run_id)["name"] for run_id in runs]
    crew.until(lambda: set(map(gpu_of, crew.ranks())), lambda seen: seen == {A100.format(0), A100.format(1)})
    third = crew.speedrun("seed=33", until="pretrain")
    log = crew.until(lambda: crew.log(third), lambda log: "waits for 1 of 2 GPUs" in log)
    assert re.search(rf"GPU 0 has {names[0]} .* {SINCE}, GPU 1 has {names[1]} .* {SINCE}", log)
    crew.until(lambda: crew.cards(third, "pretrain-progress"), lambda card: f"GPU 1 has {names[1]}" in card)
    [engine] = [pid for pid in crew.engines() if run_of(pid) == runs[1]]
    os.kill(engine, signal.SIGKILL)
    killed = time.monotonic()
    crew.until(lambda: crew.log(third), lambda log: "pretrain on GPU 1, of 2 here" in log, timeout_s=40)
    print(f"GPU 1 was free {time.monotonic() - killed:.1f} s after the kill")
    crew.wait(third, "Completed")


def gpu_of(rank: int) -> str:
    return variable(rank, "CUDA_VISIBLE_DEVICES")


def run_of(engine: int) -> str:
    return str(UUID(variable(engine, "PREFECT__FLOW_RUN_ID")))


def variable(pid: int, name: str) -> str:
    words = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace").split("\0")
    return dict(word.partition("=")[::2] for word in words)[name]


def test_a_run_that_nobody_takes_has_the_reason_in_its_log(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waits, "PATIENCE_S", 0.0)
    path = "deployments/name/maintenance/maintenance"
    there = team.api(path, method="GET")
    options = {"collision_strategy": "ENQUEUE"}
    team.api("work_pools/", {"name": "empty", "type": "process", "base_job_template": {}})
    changes = {"work_pool_name": "empty", "concurrency_limit": 1, "concurrency_options": options}
    team.api(f"deployments/{there['id']}", changes, method="PATCH")
    first, second = (team.start("maintenance/maintenance", tags=("nanochat",)) for _ in range(2))
    try:
        with team.as_client(), get_client(sync_client=True) as client:
            for _ in range(2):
                waits.tell(client)
            no_worker = "waits: no worker of the pool empty is alive: prefect worker start --pool empty"
            assert team.log(first).splitlines() == [no_worker], "once"
            pending = {"state": {"type": "PENDING", "name": "Pending"}}
            team.api(f"flow_runs/{first}/set_state", pending)  # as a worker does
            team.api(f"flow_runs/{second}/set_state", pending)
            assert team.run(second)["state_name"] == waits.QUEUED
            team.api(f"flow_runs/{first}/set_state", {"state": {"type": "RUNNING", "name": "Running"}})
            time.sleep(1)
            team.api(f"flow_runs/{second}", {"tags": ["nanochat"]}, method="PATCH")
            monkeypatch.setattr(waits, "PATIENCE_S", -60.0)  # Prefect tries it again in half a minute
            waits.tell(client)
            line = team.log(second).splitlines()[-1]
            name = re.escape(team.run(first)["name"])
            assert re.fullmatch(rf"waits: its deployment takes no more at a time: {name} {SINCE}", line)
    finally:
        for run_id in (first, second):
            team.api(f"flow_runs/{run_id}", method="DELETE")
        back = {"work_pool_name": "cpu", "concurrency_options": {"collision_strategy": "CANCEL_NEW"}}
        team.api(f"deployments/{there['id']}", back, method="PATCH")


def submitting(team: Team, run_id: str, worker: str) -> None:
    """What a worker says of a run before it starts the run's process."""
    team.api(f"flow_runs/{run_id}/set_state", {"state": {"type": "PENDING", "name": "Pending"}})
    team.api(f"flow_runs/{run_id}/labels", {"prefect.worker.name": worker}, method="PATCH")
    team.api(f"flow_runs/{run_id}/set_state", {"state": {"type": "PENDING", "name": waits.SUBMITTING}})


def test_what_a_worker_took_and_did_not_begin_goes_back_with_its_slot(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = team.start("maintenance/maintenance")
    limit = team.api("deployments/name/maintenance/maintenance", method="GET")["global_concurrency_limit"]["id"]

    def slots() -> int:
        return int(team.api(f"v2/concurrency_limits/{limit}", method="GET")["active_slots"])

    with team.as_client(), get_client(sync_client=True) as client:
        submitting(team, run_id, "gone")
        waits.give_back(client)
        waits.leave("cpu", "somebody-else")
        waits.leave("gpu", "gone")
        assert (team.run(run_id)["state_name"], slots()) == (waits.SUBMITTING, 1)
        waits.leave("cpu", "gone")
        assert (team.run(run_id)["state_name"], slots()) == ("AwaitingRetry", 0)
        monkeypatch.setattr(waits, "TAKEN_S", 0.0)
        for names in (["Pending"], ["Pending", waits.SUBMITTING]):
            for name in names:
                team.api(f"flow_runs/{run_id}/set_state", {"state": {"type": "PENDING", "name": name}})
            waits.give_back(client)
            assert (team.run(run_id)["state_name"], slots()) == ("AwaitingRetry", 0)
        team.api(f"flow_runs/{run_id}/set_state", {"state": {"type": "RUNNING", "name": "Running"}})
        waits.give_back(client)
        assert team.run(run_id)["state_name"] == "Running"
    assert "the worker gone ended before the run began: it is scheduled again" in team.log(run_id)
    team.api(f"flow_runs/{run_id}", method="DELETE")


def test_what_ran_with_an_earlier_worker_of_the_name_is_crashed_when_it_comes_back(team: Team) -> None:
    run_id = team.start("maintenance/maintenance")
    submitting(team, run_id, "was-killed")
    team.api(f"flow_runs/{run_id}/set_state", {"state": {"type": "RUNNING", "name": "Running"}})
    before, after = (datetime.now(UTC) + timedelta(seconds=shift) for shift in (-60, 1))
    with team.as_client(), get_client(sync_client=True) as client:
        for pool, worker, began in (
            ("gpu", "was-killed", after),
            ("cpu", "another", after),
            ("cpu", "was-killed", before),
        ):
            waits.bury(client, pool=pool, worker=worker, began=began)
            assert team.run(run_id)["state_name"] == "Running"
        waits.bury(client, pool="cpu", worker="was-killed", began=after)
    assert team.run(run_id)["state_name"] == "Crashed"
    assert "its worker was-killed ended before it" in team.run(run_id)["state"]["message"]
    team.api(f"flow_runs/{run_id}", method="DELETE")


def test_a_crash_that_the_automation_leaves_alone_or_did_not_hear_of_is_resumed(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed = {"state": {"type": "CRASHED", "name": "Crashed", "message": "its worker ended"}}
    tagged, plain = (team.start("maintenance/maintenance", tags=tags) for tags in (("nanochat", "autoresume"), ()))
    states = []
    with team.as_client(), get_client(sync_client=True) as client:
        for _ in range(waits.BEGIN_AGAIN + 1):
            for run_id in (tagged, plain):
                team.api(f"flow_runs/{run_id}/set_state", crashed)
            waits.begin_again(client)
            states.append(team.run(tagged)["state_name"])
            assert team.run(plain)["state_name"] == "Crashed"
        assert states == ["AwaitingRetry"] * waits.BEGIN_AGAIN + ["Crashed"], "never began: three times"
        assert "it crashed before it began: scheduled again (3 of 3)" in team.log(tagged)

        [automation] = [one for one in team.api("automations/filter", {}) if one["name"] == waits.AUTORESUME]
        switch = f"automations/{automation['id']}"
        team.api(switch, {"enabled": False}, method="PATCH")  # so that this test is the one who resumes
        ran = team.start("maintenance/maintenance", tags=("nanochat", "autoresume"))
        for state in ({"state": {"type": "RUNNING", "name": "Running"}}, crashed):
            team.api(f"flow_runs/{ran}/set_state", state)
        waits.begin_again(client)
        assert team.run(ran)["state_name"] == "Crashed", "too soon"
        monkeypatch.setattr(waits, "UNHEARD_S", 0.0)
        waits.begin_again(client)
        assert team.run(ran)["state_name"] == "Crashed", "somebody paused it"
        team.api(switch, {"enabled": True}, method="PATCH")
        waits.begin_again(client)
        assert team.run(ran)["state_name"] == "AwaitingRetry"
        assert "nobody heard that it crashed: scheduled again (1 of 5)" in team.log(ran)
    for run_id in (tagged, plain, ran):
        team.api(f"flow_runs/{run_id}", method="DELETE")


def test_a_run_that_has_completed_stays_so_whoever_comes_late(team: Team) -> None:
    """Its worker was stopped a moment too late: Prefect would call it Crashed. Another one would run it again."""
    command = [sys.executable, "-c", ENDS]
    done = subprocess.run(command, cwd=ROOT, env=team.environment, capture_output=True, text=True, timeout=120)
    run_id = done.stdout.strip()
    assert team.run(run_id)["state_name"] == "Completed", done.stderr
    late = ({"type": "PENDING", "name": "Pending"}, {"type": "PENDING", "name": waits.SUBMITTING}, {"type": "RUNNING"})
    for state in late:  # a worker that was held up, and the process that it starts
        team.api(f"flow_runs/{run_id}/set_state", {"state": state})
        assert team.run(run_id)["state_name"] == "Completed"


@pytest.mark.torture
def test_a_worker_that_is_stopped_between_taking_a_run_and_beginning_it_gives_it_back(team: Team) -> None:
    for _ in range(10):
        worker = team.work("cpu", "short-lived", module="flows.stack_worker")
        team.until(lambda: team.api("work_pools/cpu/workers/filter", {}), lambda seen: any(
            one["name"] == "short-lived" and one["status"] == "ONLINE" for one in seen))  # fmt: skip
        run_id = team.start("maintenance/maintenance")
        while (seen := team.run(run_id)["state_name"]) not in (waits.SUBMITTING, "Running"):
            pass
        [inner] = children_of(worker.pid)
        os.kill(inner, signal.SIGSTOP)
        was_between = seen == waits.SUBMITTING and not team.engines()
        worker.terminate()
        assert worker.wait(60) == 0
        if was_between:
            break
    assert was_between, "the moment was never hit"
    assert team.run(run_id)["state_name"] == "AwaitingRetry"
    team.work("cpu", "next")
    team.wait(run_id, "Completed")
