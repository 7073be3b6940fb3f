"""Resume from the UI, by the requests that its buttons send; and what people see of a run."""

from pathlib import Path

import pytest
from prefect_team import Team

pytestmark = pytest.mark.slow
RETRY = {"state": {"type": "SCHEDULED", "name": "AwaitingRetry"}, "force": True}
EARLY = ("corpus", "tokenizer", "tokens")
LINE = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello %d"}]}\n'
SFT = "sft.source=path"


@pytest.fixture(scope="module", autouse=True)
def _worker(team: Team) -> None:
    team.work("cpu", "driver")


@pytest.fixture(scope="module")
def talks(team: Team) -> Path:
    """Conversations that cannot be read, until somebody mends them."""
    folder = team.folder / "talks"
    folder.mkdir()
    (folder / "train.jsonl").write_text("not json\n" * 50)
    return folder


@pytest.fixture(scope="module")
def failed(team: Team, talks: Path) -> str:
    run_id = team.speedrun(SFT, f"sft.path={talks}", "pretrain.max_tokens=5120", until="sft")
    team.wait(run_id, "Failed")
    return run_id


def test_retry_reuses_what_is_finished(team: Team, failed: str, talks: Path) -> None:
    (talks / "train.jsonl").write_text("".join(LINE % number for number in range(300)))
    team.api(f"flow_runs/{failed}/set_state", RETRY)
    done = team.wait(failed, "Completed")
    assert done["run_count"] == 2
    states = team.until(lambda: team.tasks(failed), lambda states: len(states.get("sft", [])) == 1)
    for step in EARLY:  # another file of tests may have made them
        assert states[step].count("Cached") >= 1, step
    for step in ("pretrain", "evaluate_base"):
        assert sorted(states[step]) == ["Cached", "Completed"], step
    assert sorted(states["conversations"]) == ["Completed", "Failed"]
    assert states["sft"] == ["Completed"]


def test_a_new_run_with_the_same_parameters_reuses_everything(team: Team, failed: str) -> None:
    again = team.start(**team.run(failed)["parameters"])
    team.wait(again, "Completed")
    states = team.until(lambda: team.tasks(again), lambda states: "sft" in states)
    assert {state for found in states.values() for state in found} == {"Cached"}


def test_names_say_what_and_how_big(team: Team, failed: str) -> None:
    run = team.run(failed)
    day, last = run["start_time"][:10], failed.replace("-", "")[-4:]
    assert run["name"] == f"speedrun-d2-{day}-{last}"
    names = {task["name"] for task in team.api("task_runs/filter", {"flow_runs": {"id": {"any_": [failed]}}})}
    assert "pretrain · depth 2 · 5.12K tokens" in names


def test_progress_summary_and_log_are_artifacts_of_the_run(team: Team, failed: str) -> None:
    found = {(artifact["key"], artifact["type"]): artifact for artifact in team.artifacts(failed)}
    assert found["pretrain-progress", "progress"]["data"] == 100
    assert "validation bpb" in found["pretrain-progress", "progress"]["description"]
    assert "## Steps" in found["speedrun-report", "markdown"]["data"]
    assert "/home/store/blobs/" in found["pretrain-log", "markdown"]["data"]
    assert str(team.folder / "home/store") in found["store", "markdown"]["data"]
    assert "tensorboard --logdir" in found["tensorboard-sft", "markdown"]["data"]
    assert len(team.api("logs/filter", {"logs": {"flow_run_id": {"any_": [failed]}}, "limit": 200})) < 200
