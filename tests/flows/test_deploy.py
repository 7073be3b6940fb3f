"""`nanochat deploy` on a real server, and what the server then refuses, schedules and shows."""

import json
import shutil
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from prefect_team import Team, team_in

from flows import deploy, parameters
from flows.parameters import SETTINGS, Settings, check_cost, depth_of
from nanochat_core.base.errors import ConfigError, MissingError, NanochatError
from nanochat_core.bounds import BOUNDS
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from tasks import log_budget

FILE = yaml.safe_load((ROOT / "prefect.yaml").read_text())
LINES = """
import logging, sys
from prefect import flow
from tasks.policy import begin_run
@flow
def chatter():
    begin_run()
    log = logging.getLogger("nanochat_core.train")
    for number in range(int(sys.argv[1])):
        log.info("step %d", number)
    log.warning("the end")
    from prefect.runtime import flow_run
    return flow_run.id
print(chatter())
"""


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, small_corpus: Path) -> Iterator[Team]:
    with team_in(tmp_path_factory.mktemp("deploy"), small_corpus) as team:
        yield team


def told(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return {f"{item['kind']} {item['name']}": item["did"] for item in json.loads(done.stdout)}


@pytest.mark.slow
def test_deploying_again_changes_nothing(team: Team) -> None:
    first = told(team.nanochat("deploy", "--all", "--json"))
    assert set(first.values()) == {"created"}
    before = everything(team)
    second = told(team.nanochat("deploy", "--all", "--json"))
    assert second == dict.fromkeys(first, "unchanged")
    assert everything(team) == before


def everything(team: Team) -> list[object]:
    paths = ("deployments", "work_pools", "automations", "v2/concurrency_limits")
    found = [team.api(f"{path}/filter", {}) for path in paths]
    changing = ("status", "last_polled", "active_slots", "default_queue_id")
    return [[{k: v for k, v in item.items() if k not in changing} for item in items] for items in found]


@pytest.mark.slow
def test_the_server_holds_what_the_files_say(team: Team) -> None:
    held = {item["name"]: item for item in team.api("deployments/filter", {})}
    for spec in FILE["deployments"]:
        there = held.pop(spec["name"])
        assert there["entrypoint"] == spec["entrypoint"]
        assert there["description"] == spec["description"].strip()
        assert there["tags"] == spec["tags"]
        assert there["parameters"] == spec.get("parameters", {})
        assert there["work_pool_name"] == spec["work_pool"]["name"]
        assert there["job_variables"] == spec["work_pool"]["job_variables"]
        crons = [(entry["schedule"]["cron"], entry["schedule"]["timezone"]) for entry in there["schedules"]]
        assert crons == [(entry["cron"], entry["timezone"]) for entry in spec.get("schedules", [])]
    assert held == {}
    pools = {pool["name"]: pool for pool in team.api("work_pools/filter", {})}
    assert (pools["cpu"]["concurrency_limit"], pools["gpu"]["concurrency_limit"]) == (None, None)


def copied(folder: Path, **changes: object) -> Path:
    """A checkout's files with other values for the deployment `maintenance`."""
    (folder / "deployments").mkdir(parents=True)
    for name in ("pools", "automations"):
        shutil.copy(ROOT / f"deployments/{name}.yaml", folder / f"deployments/{name}.yaml")
    changed = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    [maintenance] = [spec for spec in changed["deployments"] if spec["name"] == "maintenance"]
    maintenance |= changes
    (folder / "prefect.yaml").write_text(yaml.safe_dump(changed))
    return folder


def registered(team: Team, root: Path, **options: bool) -> dict[str, str]:
    """What deploying `maintenance` from the files of `root` said: its own line, and a line for each value kept."""
    with team.as_client():
        done = list(deploy.register_all(root, ["maintenance"], **options))[-1]
    return {done.name: done.did} | {name: f"{there} != {file}" for name, (there, file) in done.kept.items()}


@pytest.mark.slow
def test_what_people_changed_stays_and_is_named_until_overwritten(team: Team, tmp_path: Path) -> None:
    name, path = "maintenance/maintenance", "deployments/name/maintenance/maintenance"
    there = team.api(path, method="GET")
    [schedule] = there["schedules"]
    cron = {"cron": "0 9 * * *", "timezone": "Asia/Tokyo", "day_or": True}
    edited = {"active": False, "schedule": cron, "parameters": {"dry_run": True}}
    team.api(f"deployments/{there['id']}/schedules/{schedule['id']}", edited, method="PATCH")
    team.api(f"deployments/{there['id']}", {"parameters": {"dry_run": True}, "concurrency_limit": 3}, method="PATCH")
    team.api(f"deployments/{there['id']}/schedules", [{"active": False, "schedule": {"interval": 86400.0}}])

    root = copied(tmp_path / "a", tags=["nanochat"])  # the file has news as well, of a field that nobody edited
    dry = registered(team, root, dry_run=True)
    assert dry[name] == "would be updated: tags, pull_steps"
    assert team.api(path, method="GET")["tags"] == there["tags"]
    told = registered(team, root)
    assert told.pop(name) == "updated: tags, pull_steps"
    assert {key: value.split(" != ")[0] for key, value in told.items() if "schedule weekly schedule" not in key} == {
        "parameters": "{'dry_run': True}",
        "concurrency_limit": "3",
        "schedule weekly active": "False",
        "schedule weekly parameters": "{'dry_run': True}",
    }
    again = team.api(path, method="GET")
    assert (again["tags"], again["parameters"]) == (["nanochat"], {"dry_run": True})
    assert again["global_concurrency_limit"]["limit"] == 3
    weekly, own = sorted(again["schedules"], key=lambda entry: entry["slug"] is None)
    assert (weekly["active"], weekly["schedule"]["cron"]) == (False, "0 9 * * *")
    assert own["schedule"]["interval"] == 86400.0

    assert registered(team, root)[name] == "unchanged"  # still kept, and said again
    done = registered(team, root, overwrite=True)
    assert [*done] == [name]
    back = team.api(path, method="GET")
    assert (back["parameters"], back["global_concurrency_limit"]["limit"]) == ({"dry_run": False}, 1)
    weekly, own = sorted(back["schedules"], key=lambda entry: entry["slug"] is None)
    assert (weekly["active"], weekly["schedule"]["cron"], weekly["parameters"]) == (True, "30 4 * * 0", {})
    assert own["schedule"]["interval"] == 86400.0  # of nobody's file


@pytest.mark.slow
def test_a_schedule_taken_away_stays_away_and_one_gone_from_the_file_goes(team: Team, tmp_path: Path) -> None:
    path = "deployments/name/maintenance/maintenance"
    there = team.api(path, method="GET")
    [weekly] = [entry for entry in there["schedules"] if entry["slug"] == "weekly"]
    team.api(f"deployments/{there['id']}/schedules/{weekly['id']}", method="DELETE")
    told = registered(team, ROOT)
    assert told["schedule weekly"] == "None != 30 4 * * 0"
    assert "weekly" not in [entry["slug"] for entry in team.api(path, method="GET")["schedules"]]
    assert "schedule weekly" in registered(team, ROOT, overwrite=True)["maintenance/maintenance"]
    without = registered(team, copied(tmp_path / "b", schedules=[]))
    assert without["maintenance/maintenance"].endswith("schedule weekly removed")
    assert "weekly" not in [entry["slug"] for entry in team.api(path, method="GET")["schedules"]]
    registered(team, ROOT)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"preset": "nonesuch"},
        {"settings": {"depth": 0}},
        {"settings": {"depht": 4}},
        {"settings": {"corpus_source": "web"}},
        {"until": "nowhere"},
        {"placement": "moon"},
        {"overrides": "sft.epochs=2"},
        {"overrides": ["sft.epoches=2"]},
    ],
)
def test_the_form_refuses_what_cannot_work(team: Team, parameters: dict[str, object]) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        team.start(**parameters)
    assert refused.value.code in (409, 422)


@pytest.mark.slow
def test_a_misspelt_override_is_refused_with_the_setting_that_is_meant(team: Team) -> None:
    there = team.api("deployments/name/speedrun/speedrun", method="GET")
    for typed, meant in (("pretrain.dpeth=4", "pretrain.depth"), ("vocab_size=512", "tokenizer.vocab_size")):
        overrides = ["seed=1", typed]
        with pytest.raises(urllib.error.HTTPError) as refused:
            team.start(overrides=overrides)
        words = refused.value.read().decode()
        assert f"'{typed}' is no section.field=value of a setting: did you mean {meant}?" in words
        values = {**there["parameters"], "overrides": overrides}  # the form asks this before it sends anything
        found = team.api("ui/schemas/validate", {"schema": there["parameter_openapi_schema"], "values": values})
        assert f"did you mean {meant}?" in str(found)


@pytest.mark.slow
def test_the_form_shows_empty_fields_and_selects(team: Team) -> None:
    schema = team.api("deployments/name/speedrun/speedrun", method="GET")["parameter_openapi_schema"]["properties"]
    assert not any("anyOf" in field or field.get("default", "") is None for field in schema.values())
    assert schema["until"]["enum"] == schema["fresh"]["items"]["enum"] == [*STEPS]
    assert schema["fresh"]["type"] == schema["overrides"]["type"] == "array"
    run = team.run(team.start(overrides=["sft.epochs=2", "runtime.gpu=H100"], until="corpus", fresh=["corpus"]))
    team.api(f"flow_runs/{run['id']}", method="DELETE")


@pytest.mark.parametrize(
    ("name", "shown"),
    [("imaginary-spider", "dated"), ("Incredible-Emu", "dated"), ("Awesome-Vicuña", "dated"), ("", "dated"),
     ("wider mlp", "wider mlp"), ("my-run", "my-run"),
     ("speedrun-d24-2026-11-22-a1b2", "speedrun-d24-2026-11-22-a1b2")],
)  # fmt: skip
def test_a_name_that_somebody_typed_stays(monkeypatch: pytest.MonkeyPatch, name: str, shown: str) -> None:
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__NAME", name)
    monkeypatch.setattr(parameters, "dated_name", lambda *parts: "dated")
    assert parameters.run_name("speedrun", "d24") == shown


@pytest.mark.slow
def test_the_scheduler_makes_runs(team: Team) -> None:
    """With SQLAlchemy 2.1 it silently makes none."""
    count = lambda: team.api("flow_runs/count", {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}})  # noqa: E731
    assert team.until(count, lambda number: number > 0) > 0


@pytest.mark.slow
@pytest.mark.parametrize("number", [50_000, pytest.param(1_000_000, marks=pytest.mark.torture)])
def test_any_number_of_lines_leaves_hundreds_of_records(team: Team, number: int) -> None:
    environment = {**team.environment, "PREFECT_LOGGING_EXTRA_LOGGERS": "nanochat_core"}
    environment |= {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
    done = subprocess.run(
        [sys.executable, "-c", LINES, str(number)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.split()[-1]
    query = {"logs": {"flow_run_id": {"any_": [run_id]}}, "limit": 200, "sort": "TIMESTAMP_DESC"}
    records = team.until(lambda: team.api("logs/filter", query), lambda found: "the end" in str(found))
    count = sum(len(team.api("logs/filter", {**query, "offset": offset})) for offset in range(0, 1000, 200))
    assert log_budget.BURST < count <= log_budget.MOST
    assert any(record["message"].startswith("the end") for record in records)


def test_every_setting_of_the_form_is_one_of_the_configuration_with_its_bounds() -> None:
    schema = Settings.model_json_schema()["properties"]
    assert set(schema) == {*SETTINGS, "max_cost_usd"}
    assert all(field["description"] for field in schema.values())
    for name, setting in SETTINGS.items():
        if setting in BOUNDS:
            assert schema[name]["minimum"] == BOUNDS[setting][0]
            assert schema[name].get("maximum", float("inf")) in (BOUNDS[setting][1], float("inf"))


def test_settings_change_the_configuration_and_overrides_win() -> None:
    settings = Settings(depth=4, seed=7, corpus_source="path", corpus_path="/a folder/*.txt", sft_epochs=2)
    config = load_config("tiny", [*settings.overrides(), "sft.epochs=3"])
    assert (config.pretrain.depth, config.seed, config.corpus.path) == (4, 7, "/a folder/*.txt")
    assert config.sft.epochs == 3
    assert Settings().overrides() == []


def test_a_plan_over_the_limit_is_refused_before_it_starts() -> None:
    plan = plan_run(load_config("gpt2"))
    check_cost(plan, None)
    check_cost(plan, 1e6)
    with pytest.raises(NanochatError, match="costs about"):
        check_cost(plan, 1.0)


def test_a_run_that_cannot_be_planned_still_has_a_name() -> None:
    assert depth_of({"preset": "tiny", "settings": Settings(depth=5)}) == "d5"
    assert depth_of({"preset": "tiny", "overrides": ["pretrain.depth=6"]}) == "d6"
    assert depth_of({"preset": "nonesuch"}) == "nonesuch"


def test_a_misspelt_key_is_refused(tmp_path: Path) -> None:
    for spec in ({"name": "a", "tag": []}, {"name": "a", "schedules": [{"cron": "* * * * *", "timezon": "UTC"}]}):
        (tmp_path / "prefect.yaml").write_text(yaml.safe_dump({"deployments": [spec]}))
        with pytest.raises(ConfigError, match="unknown keys"):
            deploy.read_deployments(tmp_path)


def test_a_deployment_that_is_not_there_is_named() -> None:
    with pytest.raises(MissingError, match="nonesuch"):
        deploy.chosen(deploy.read_deployments(ROOT), ["nonesuch"])
    with pytest.raises(MissingError, match=r"flows/nonesuch\.py"):
        deploy.load_flow("flows/nonesuch.py:nonesuch")
