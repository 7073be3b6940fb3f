"""GPU steps on the gpu pool: sent, shown, and carried on by another worker when theirs is taken away."""

import dataclasses
import json
import os
import signal
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from conftest import MICRO
from gpu_machine import machine_with
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import FlowRun
from prefect_team import ENDLESS, Team

from flows import placement, waits
from flows.gpu_step import SentArtifact, check_same, config_of, found
from flows.placement import sent_inputs
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.gpus import UNLISTED
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.step import Ref
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config

BUSY = {"state": {"type": "RUNNING", "name": "Running"}, "force": True}
NIGHT = ("runtime.gpu=H100", "pretrain.max_tokens=8192", "pretrain.validate_every_steps=none", "seed=8")
LONG = ("pretrain.max_tokens=204800", "runtime.checkpoint_every_s=2")  # 400 steps


@pytest.mark.slow
def test_a_wait_has_its_reason(team: Team) -> None:
    pool = {"name": "spare", "type": "process", "base_job_template": {}}
    team.api("work_pools/", pool)
    sent = FlowRun(flow_id=uuid4(), name="gpu-step-sft", work_pool_name="spare")
    maintenance = team.api("deployments/name/maintenance/maintenance", method="GET")
    with team.as_client(), get_client(sync_client=True) as client:
        assert waits.reason(client, sent) == "no worker of the pool spare is alive: prefect worker start --pool spare"
        team.api("work_pools/spare/workers/heartbeat", {"name": "gpu-7"})
        assert waits.live_workers(client, "spare") == ["gpu-7"]
        assert "will take it" in waits.reason(client, sent)
        team.api("work_pools/spare", {"concurrency_limit": 1}, method="PATCH")
        team.api(f"deployments/{maintenance['id']}", {"work_pool_name": "spare"}, method="PATCH")
        other = team.run(team.start("maintenance/maintenance"))
        team.api(f"flow_runs/{other['id']}/set_state", BUSY)
        assert f"takes 1 at a time: {other['name']} since " in waits.reason(client, sent)
        team.api("work_pools/spare", {"is_paused": True}, method="PATCH")
        assert "is paused: prefect work-pool resume spare" in waits.reason(client, sent)
        assert waits.live_workers(client, "nonesuch") == []
    team.api(f"flow_runs/{other['id']}", method="DELETE")
    team.api(f"deployments/{maintenance['id']}", {"work_pool_name": "cpu"}, method="PATCH")


@pytest.mark.slow
def test_auto_goes_to_the_pool_that_lives_then_to_the_gpu_here_and_else_waits(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop, server = plan_run(load_config("tiny")), plan_run(load_config("d12"))
    monkeypatch.setattr(placement, "POOL", "auto-test")
    with team.as_client():
        assert placement.chosen(laptop)[0] == "inline", "what is planned for processors needs no pool"
        monkeypatch.setattr(placement.gpus, "visible", lambda: [UNLISTED])
        assert placement.chosen(server) == ("inline", "this machine has a GPU, and the pool auto-test no live worker")
        monkeypatch.setattr(placement.gpus, "visible", list)
        where, why = placement.chosen(server)
        assert (where, "prefect worker start --pool auto-test" in why) == ("pool", True)
        team.api("work_pools/", {"name": "auto-test", "type": "process", "base_job_template": {}})
        team.api("work_pools/auto-test/workers/heartbeat", {"name": "gpu-7"})
        assert placement.chosen(server) == ("pool", "it has the live worker gpu-7")


@pytest.fixture(scope="module")
def staffed(team: Team) -> Team:
    """With a worker for each pool."""
    team.work("cpu", "driver")
    team.work("gpu", "gpu-0")
    return team


@pytest.mark.slow
def test_a_cached_step_is_found_before_anything_is_sent(staffed: Team) -> None:
    first = staffed.speedrun(until="pretrain", placement="pool")
    staffed.wait(first, "Completed")
    [child] = staffed.children()
    assert child["state_name"] == "Completed"
    again = staffed.speedrun(until="pretrain", placement="pool")
    staffed.wait(again, "Completed")
    states = staffed.until(lambda: staffed.tasks(again), lambda states: "pretrain" in states)
    assert states["pretrain"] == ["Cached"]
    assert len(staffed.children()) == 1


@pytest.mark.slow
@pytest.mark.torture  # a cancel that stops the ranks after a checkpoint is in test_zombies.py
def test_a_cancel_of_the_parent_cancels_the_child(staffed: Team) -> None:
    run_id = staffed.speedrun("seed=5", *ENDLESS, "runtime.gpu=H100", until="pretrain", placement="auto")
    staffed.wait_for_training()
    staffed.api(f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    staffed.until(staffed.ranks, lambda ranks: not ranks, timeout_s=30)
    staffed.wait(run_id, "Cancelled")
    states = staffed.until(lambda: staffed.tasks(run_id), lambda states: states.get("pretrain") == ["Cancelled"])
    assert "Crashed" not in str(states)
    staffed.wait(staffed.children()[-1]["id"], "Cancelled")


@pytest.mark.slow
@pytest.mark.torture
def test_a_step_goes_on_with_another_worker_when_its_own_is_killed(staffed: Team) -> None:
    before = {child["id"] for child in staffed.children()}
    others = set((staffed.folder / "home/store").glob("partial/pretrain/*"))
    first = staffed.workers["gpu-0"]
    run_id = staffed.speedrun("seed=6", *LONG, until="pretrain", placement="pool")
    staffed.wait_for_training()
    partial = staffed.folder / "home/store/partial/pretrain"
    [folder] = staffed.until(
        lambda: {path.parent.parent for path in partial.glob("*/step-*/complete.json")} - others, bool
    )
    [engine] = [pid for pid in staffed.engines() if _parent(pid) == first.pid]
    first.kill()
    os.kill(engine, signal.SIGKILL)
    staffed.work("gpu", "gpu-1")
    staffed.wait(run_id, "Completed")
    children = [child for child in staffed.children() if child["id"] not in before]
    assert [child["state_name"] for child in children] == ["Crashed", "Completed"]
    states = staffed.until(lambda: staffed.tasks(run_id), lambda states: states.get("pretrain", [""])[0] == "Completed")
    assert states["pretrain"] == ["Completed"], "for the parent it is one task run"
    assert _resumed_from(staffed, folder.name) > 0
    links = [artifact["data"] for artifact in staffed.artifacts(run_id) if artifact["key"] == "pretrain-run"]
    assert {child["id"] for child in children} == {link.rpartition("/")[2].rstrip(")") for link in links}


@pytest.mark.slow
@pytest.mark.torture
def test_a_nightly_from_its_schedule_trains_on_the_machine_that_has_the_gpu(
    team: Team, tmp_path: Path, s3_url: str
) -> None:
    """Two machines: homes of their own, an object store in common, and a GPU in one of them only."""
    team.stop()
    driver = {**machine_with(tmp_path / "driver", 0), "NANOCHAT_HOME": str(tmp_path / "driver/home")}
    trainer = {**machine_with(tmp_path / "trainer", 1), "NANOCHAT_HOME": str(tmp_path / "trainer/home")}
    for machine, pool, name in ((driver, "cpu", "driver"), (trainer, "gpu", "gpu-box")):
        team.machine = {**machine, "NANOCHAT_STORE": s3_url}
        team.work(pool, name, module="flows.stack_worker")
    there = team.api("deployments/name/nightly/nightly", method="GET")
    assert there["parameters"]["placement"] == "auto"
    sets = [*MICRO, *NIGHT, "corpus.source=path", f"corpus.path={team.corpus}"]
    soon = datetime.now(UTC) + timedelta(minutes=1, seconds=20)
    at = {"cron": f"{soon.minute} {soon.hour} * * *", "timezone": "UTC"}
    asked = {"active": True, "schedule": at, "parameters": {"preset": "tiny", "overrides": sets}}
    [schedule] = there["schedules"]
    team.api(f"deployments/{there['id']}/schedules/{schedule['id']}", asked, method="PATCH")
    wanted = {"flows": {"name": {"any_": ["nightly"]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 1}
    try:
        [run] = team.until(lambda: team.api("flow_runs/filter", wanted), bool, timeout_s=120)
        assert run["auto_scheduled"]
        team.wait(run["id"], "Completed")
    finally:
        team.machine = {}
        team.api(f"deployments/{there['id']}/schedules/{schedule['id']}", {"active": False}, method="PATCH")
        team.stop()
    log = team.log(run["id"])
    assert "GPU steps run on the gpu pool: it has the live worker gpu-box" in log, log
    children = [child for child in team.children() if child["parent_task_run_id"] in _task_ids(team, run["id"])]
    assert {child["parameters"]["step"] for child in children} == {"pretrain", "evaluate_base"}
    for child in children:
        assert (child["state_name"], child["work_pool_name"]) == ("Completed", "gpu")
        assert f"{child['parameters']['step']} on GPU 0, of 1 here" in team.log(child["id"])
        assert child["labels"]["prefect.worker.name"] == "gpu-box"
    assert _worked_on(tmp_path / "driver").isdisjoint({"pretrain", "evaluate_base"})
    assert team.artifacts(run["id"])[0]["key"] == "nightly-verdict"


def _task_ids(team: Team, run_id: str) -> set[str]:
    return {task["id"] for task in team.api("task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})}


def _worked_on(machine: Path) -> set[str]:
    """Steps whose work was done in a home."""
    return {path.name.partition("-")[0] for path in (machine / "home/work").glob("*-*")}


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _resumed_from(team: Team, fingerprint: str) -> int:
    """The step at which the last attempt of the training began."""
    manifest = team.folder / f"home/store/steps/pretrain/{fingerprint}.json"
    metrics = json.loads(manifest.read_text())["files"]["log/metrics.jsonl"]["sha256"]
    lines = (team.folder / f"home/store/blobs/sha256/{metrics[:2]}/{metrics}").read_text().splitlines()
    starts = [record for record in map(json.loads, lines) if record["event"] == "start"]
    assert len(starts) == 2
    return int(starts[-1]["step"])


def test_trainings_and_evaluations_go_to_the_pool_and_data_does_not() -> None:
    sent = {name for name in STEPS if STEPS[name].needs_gpu}
    assert {"pretrain", "sft", "evaluate_base", "evaluate_core", "benchmark_base", "evaluate_chat"} <= sent
    assert sent.isdisjoint({"corpus", "tokenizer", "tokens", "core_bundle", "benchmarks", "conversations", "report"})


@pytest.fixture
def made(home: Path, micro_plan: RunPlan) -> dict[str, Ref]:
    corpus = make(STEPS["corpus"], micro_plan)
    return {"corpus": corpus, "tokenizer": make(STEPS["tokenizer"], micro_plan, corpus, None)}


def test_what_is_sent_finds_the_same_inputs(made: dict[str, Ref], micro_plan: RunPlan) -> None:
    sent = json.loads(json.dumps(sent_inputs({"tokenizer": made["tokenizer"]})))
    refs = found({name: SentArtifact(**fields) for name, fields in sent.items()})
    assert list(refs) == ["corpus", "tokenizer"]
    assert {name: ref.digest for name, ref in refs.items()} == {name: ref.digest for name, ref in made.items()}
    assert refs["tokenizer"].inputs["corpus"].fingerprint == made["corpus"].fingerprint


def test_an_input_of_another_store_is_named() -> None:
    with pytest.raises(MissingError, match="tokens/0000"):
        found({"tokens": SentArtifact(fingerprint="0" * 64)})


def test_a_worker_that_would_make_something_else_refuses(made: dict[str, Ref], micro_plan: RunPlan) -> None:
    check_same("tokenizer", micro_plan, {"corpus": made["corpus"]}, made["tokenizer"].fingerprint)
    other = dataclasses.replace(micro_plan.config.tokenizer, vocab_size=600)
    changed = plan_run(dataclasses.replace(micro_plan.config, tokenizer=other))
    with pytest.raises(ConfigError, match="is wanted"):
        check_same("tokenizer", changed, {"corpus": made["corpus"]}, made["tokenizer"].fingerprint)


def test_a_configuration_survives_the_way(micro_plan: RunPlan) -> None:
    values = json.loads(json.dumps(dataclasses.asdict(micro_plan.config)))
    assert config_of(values) == micro_plan.config
    with pytest.raises(ConfigError, match="does not fit"):
        config_of({**values, "sft": {"epoches": 2}})
    mix = ["corpus.sources.a.weight=2", "corpus.sources.b.weight=1", "pretrain.phases.late.weights.b=1"]
    mixed = load_config("tiny", [*mix, "corpus.sources.a.source=embedded", "corpus.sources.b.source=embedded"])
    assert config_of(json.loads(json.dumps(dataclasses.asdict(mixed)))) == mixed
