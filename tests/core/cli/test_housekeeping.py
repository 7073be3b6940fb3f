"""`runs gc` and `refs`: what they print is what happens, and wrong names are one line and a hint."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from nanochat_core import workspace
from nanochat_core.cli import housekeeping
from nanochat_core.cli.app import Verbs
from nanochat_core.store import Artifact, Store

NOTHING = {"inputs": {}, "config": {}, "code": {}, "packages": {}, "metrics": {}, "provenance": {}}
ALL = ("--keep-runs", "0", "--keep-days", "0", "--grace-hours", "0")


@pytest.fixture
def app() -> typer.Typer:
    app, runs = typer.Typer(cls=Verbs), typer.Typer()
    app.add_typer(runs, name="runs")
    runs.command("list")(lambda: None)
    housekeeping.register(app)
    housekeeping.register_gc(runs)
    return app


@pytest.fixture
def run(app, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def store(home) -> Store:
    return workspace.current().store


def publish(store: Store, tmp_path: Path, fingerprint: str) -> Artifact:
    folder = tmp_path / fingerprint
    folder.mkdir()
    (folder / "own").write_text(fingerprint)
    return store.publish(folder, step="sft", fingerprint=fingerprint, **NOTHING)


def test_the_dry_run_prints_the_lines_of_the_real_run(run, store, tmp_path):
    store.set_ref("kept", "1", publish(store, tmp_path, "a" * 64))
    publish(store, tmp_path, "b" * 64)
    dry = run("runs", "gc", "--dry-run", *ALL)
    assert dry.exit_code == 0, dry.stderr
    real = run("runs", "gc", *ALL)
    *dry_lines, dry_sum = dry.stdout.splitlines()
    *real_lines, real_sum = real.stdout.splitlines()
    assert dry_lines == real_lines
    assert [line.split()[0] for line in real_lines] == ["manifest", "blob"]
    assert "2 things would be deleted" in dry_sum
    assert real_sum == dry_sum.replace("would be deleted", "deleted")
    assert [artifact.fingerprint for artifact in store.artifacts()] == ["a" * 64]
    assert "0 things deleted" in run("runs", "gc", *ALL).stdout


def test_by_default_what_is_young_stays(run, store, tmp_path):
    publish(store, tmp_path, "a" * 64)
    assert "0 things deleted" in run("runs", "gc").stdout
    assert "0 things deleted" in run("runs", "gc", "--keep-runs", 0, "--keep-days", 0).stdout, "the grace time"


def test_gc_as_json_is_nothing_but_json(run, store, tmp_path):
    publish(store, tmp_path, "a" * 64)
    told = json.loads(run("runs", "gc", "--json", *ALL).stdout)
    assert told["is_dry_run"] is False
    assert [item["kind"] for item in told["items"]] == ["manifest", "blob"]
    assert told["num_bytes"] == sum(item["num_bytes"] for item in told["items"]) > 0


def test_a_promoted_artifact_is_what_the_name_means(run, store, tmp_path):
    for letter in "ab":
        store.set_ref("tiny-chat", letter, publish(store, tmp_path, letter * 64))
    assert run("refs", "promote", "tiny-chat@a", "baseline").exit_code == 0
    assert store.ref("baseline").fingerprint == "a" * 64
    done = run("refs", "promote", "tiny-chat", "baseline", "--version", "2.0")
    assert "baseline@2.0 is sft bbbb" in done.stdout
    assert store.ref("baseline").fingerprint == "b" * 64
    assert store.ref("baseline", "a" * 12).fingerprint == "a" * 64


def test_a_pinned_artifact_outlives_its_name_and_an_unpinned_one_does_not(run, store, tmp_path):
    store.set_ref("tiny-chat", "a", publish(store, tmp_path, "a" * 64), expires=True)
    store.put_run("r1", {"steps": [{"step": "sft", "fingerprint": publish(store, tmp_path, "b" * 64).fingerprint}]})
    assert "1 artifact" in run("refs", "pin", "tiny-chat").stdout
    assert "1 artifact" in run("refs", "pin", "r1").stdout
    store.remove_ref("tiny-chat")
    assert "0 things" in run("runs", "gc", *ALL).stdout
    listed = run("refs", "list").stdout
    assert "tiny-chat@a" in listed
    assert "r1" in listed
    assert run("refs", "unpin", "tiny-chat").stdout == "tiny-chat@a is not pinned any more\n"
    assert run("refs", "unpin", "r1").exit_code == 0
    run("runs", "gc", *ALL)
    assert store.artifacts() == []


def test_refs_are_listed_for_people_and_for_programs(run, store, tmp_path):
    store.set_ref("tiny-chat", "a", publish(store, tmp_path, "a" * 64), expires=True)
    run("refs", "promote", "tiny-chat", "baseline")
    run("refs", "pin", "baseline")
    told = json.loads(run("refs", "list", "--json").stdout)
    assert [(ref["name"], ref["is_pinned"], ref["expires"]) for ref in told["refs"]] == [
        ("baseline", True, False),
        ("tiny-chat", False, True),
    ]
    [pin] = told["pins"]
    assert pin["artifacts"] == [["sft", "a" * 64]]
    shown = run("refs", "list").stdout
    assert "expires with its run" in shown
    assert "pinned" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["refs", "promote", "absent", "baseline"], 3, "no ref absent"),
        (["refs", "pin", "absent"], 3, "no run and no ref absent"),
        (["refs", "unpin", "absent"], 3, "absent is not pinned"),
        (["refs", "pin", "../x"], 2, "'../x'"),
        (["runs", "gc", "--keep-days", "-1"], 2, "keep-days"),
    ],
)
def test_wrong_names_are_one_line_and_a_hint(run, store, arguments, code, said):
    done = run(*arguments)
    assert done.exit_code == code
    assert said in done.stderr
    assert done.stdout == ""


def test_every_verb_has_help_with_two_examples(run):
    for verb in ("refs list", "refs promote", "refs pin", "refs unpin", "runs gc"):
        done = run(*verb.split(), "--help")
        assert done.exit_code == 0
        assert done.stdout.count(f"nanochat {verb}") >= 2
