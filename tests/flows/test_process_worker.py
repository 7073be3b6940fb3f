"""What our worker says of a run too late, or of a server that was away, on a real server."""

import asyncio
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect_team import Team

from flows import waits
from flows.process_worker import ENDED, NOT_SUBMITTED, Worker

pytestmark = pytest.mark.slow
States = tuple[dict[str, str], ...]
PENDING = {"type": "PENDING", "name": "Pending"}
RUNNING = {"type": "RUNNING", "name": "Running"}
RETRY = {"type": "SCHEDULED", "name": "AwaitingRetry"}


def said(
    team: Team, run_id: str, message: str, *, before: States = (), since: States = (), times: int = 1
) -> list[str]:
    """The run's states when its worker, which took it after the states `before`, says so after those `since`."""

    async def say() -> None:
        async with get_client() as client:
            for state in before:
                await asyncio.to_thread(team.api, f"flow_runs/{run_id}/set_state", {"state": state})
            taken = await client.read_flow_run(UUID(run_id))
            for state in since:
                await asyncio.to_thread(team.api, f"flow_runs/{run_id}/set_state", {"state": state})
            await worker._propose_crashed_state(taken, message, client)

    worker, seen = Worker(work_pool_name="cpu"), []
    with team.as_client():
        for _ in range(times):
            asyncio.run(say())
            seen.append(team.run(run_id)["state_name"])
    return seen


def test_a_process_that_ended_crashes_its_own_attempt_and_no_later_one(team: Team) -> None:
    run_id = team.start("maintenance/maintenance")
    crashed = {"type": "CRASHED", "name": "Crashed"}
    for since in ((PENDING, RUNNING, crashed, RETRY), (PENDING, RUNNING, crashed, RETRY, PENDING)):
        assert said(team, run_id, ENDED, since=since) == [since[-1]["name"]]
        team.api(f"flow_runs/{run_id}/set_state", {"state": RETRY, "force": True})
    later = (PENDING, RUNNING, crashed, RETRY, PENDING, RUNNING)
    assert said(team, run_id, ENDED, since=later) == ["Running"]
    team.api(f"flow_runs/{run_id}/set_state", {"state": RETRY, "force": True})
    assert said(team, run_id, ENDED, before=(PENDING,), since=(RUNNING,)) == ["Crashed"]
    team.api(f"flow_runs/{run_id}", method="DELETE")


def test_a_run_that_could_not_be_submitted_goes_back_three_times(team: Team) -> None:
    run_id = team.start("maintenance/maintenance")
    seen = said(team, run_id, NOT_SUBMITTED, before=(PENDING,), times=waits.BEGIN_AGAIN + 1)
    assert seen == ["AwaitingRetry"] * waits.BEGIN_AGAIN + ["Crashed"]
    team.api(f"flow_runs/{run_id}", method="DELETE")
