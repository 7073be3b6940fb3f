"""The whole flow, on a real Prefect server that the command starts and stops itself."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from flows.server import EmbeddedServer
from nanochat_core import workspace

pytestmark = pytest.mark.slow
STEPS = [
    "corpus", "tokenizer", "tokens", "pretrain", "evaluate_base", "conversations", "sft", "evaluate_chat", "report",
]  # fmt: skip


def nanochat(*arguments: str, sets: list[str] = (), timeout: float = 300) -> subprocess.CompletedProcess[str]:  # type: ignore[assignment]
    options = [part for value in sets for part in ("--set", value)]
    command = [sys.executable, "-m", "flows.cli", *arguments, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home, store and Prefect database for the tests of this file, in their order."""
    folder = tmp_path_factory.mktemp("flow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_HOME", str(folder / "home"))
        patch.setenv("NANOCHAT_STORE", str(folder / "home/store"))
        patch.setenv("PREFECT_HOME", str(folder / "prefect"))
        patch.delenv("PREFECT_API_URL", raising=False)
        yield folder


def task_states(prefect_home: Path, log: Path) -> dict[str, list[str]]:
    """State names of the task runs of the newest flow run, asked from a server over the same database."""
    os.environ["PREFECT_HOME"] = str(prefect_home)
    server = EmbeddedServer(prefect_home, 18231 + os.getpid() % 1000, log)
    try:
        server.wait_until_ready()
        [newest] = post(server.url, "flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})
        runs = post(server.url, "task_runs/filter", {"flow_runs": {"id": {"any_": [newest["id"]]}}})
        states: dict[str, list[str]] = {"flow": [newest["state_name"]]}
        for run in runs:
            states.setdefault(run["name"].split("-")[0], []).append(run["state_name"])
        artifacts = post(server.url, "artifacts/filter", {"flow_runs": {"id": {"any_": [newest["id"]]}}})
        states["artifacts"] = [artifact["key"] for artifact in artifacts]
        return states
    finally:
        server.stop()


def post(url: str, path: str, body: dict[str, object]) -> list[dict[str, str]]:
    request = urllib.request.Request(f"{url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)


def processes_of(home: Path) -> list[str]:
    """Command lines of processes that this test's home or its server belongs to."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(home).encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


def test_first_run_makes_every_step(module_home: Path, small_corpus: Path) -> None:
    sets = micro(small_corpus)
    done = nanochat("run", "tiny", sets=sets)
    assert done.returncode == 0, done.stderr
    assert "9 made, 0 cached" in done.stdout
    report = next((module_home / "home/runs").glob("*/report.html"))
    assert report.as_uri() in done.stdout
    assert processes_of(module_home) == [], "something was left running"
    states = task_states(module_home / "prefect", module_home / "server.log")
    assert states["flow"] == ["Completed"]
    assert {step: states[step] for step in STEPS} == {step: ["Completed"] for step in STEPS}
    assert "speedrun-report" in states["artifacts"]


def test_second_run_finds_every_step_cached(module_home: Path, small_corpus: Path) -> None:
    started = time.monotonic()
    done = nanochat("run", "tiny", sets=micro(small_corpus))
    assert done.returncode == 0, done.stderr
    assert "0 made, 9 cached" in done.stdout
    assert time.monotonic() - started < 60  # 8 s on an idle machine; RELEASE figures are in benchmarks/RESULTS.md
    states = task_states(module_home / "prefect", module_home / "server.log")
    assert {step: states[step] for step in STEPS} == {step: ["Cached"] for step in STEPS}


def test_a_new_prefect_home_finds_every_step_cached(module_home: Path, small_corpus: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(module_home / "prefect2"))
        done = nanochat("run", "tiny", sets=micro(small_corpus))
        assert done.returncode == 0, done.stderr
        assert "0 made, 9 cached" in done.stdout
        states = task_states(module_home / "prefect2", module_home / "server.log")
        assert {step: states[step] for step in STEPS} == {step: ["Cached"] for step in STEPS}


def test_more_epochs_rerun_fine_tuning_and_what_follows_only(module_home: Path, small_corpus: Path) -> None:
    sets = [*micro(small_corpus), "sft.epochs=2"]
    why = nanochat("why", "sft", "tiny", sets=sets)
    assert "config epochs: 1 -> 2" in why.stdout
    done = nanochat("run", "tiny", "--no-prefect", sets=sets)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    made = [line.split()[0] for line in lines if " made in " in line]
    assert made == ["sft", "evaluate_chat", "report"]


def test_a_damaged_blob_is_found_and_made_again(module_home: Path, small_corpus: Path) -> None:
    store = workspace.current().store
    [tokens] = store.artifacts("tokens")
    blob = module_home / "home/store/blobs/sha256" / tokens.files["train/00000.bin"].sha256[:2]
    path = blob / tokens.files["train/00000.bin"].sha256
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.chmod(0o644)
    path.write_bytes(raw)
    done = nanochat("run", "tiny", "--no-prefect", sets=micro(small_corpus))
    assert done.returncode == 0, done.stderr
    assert "damaged" in done.stderr
    assert "1 made, 8 cached" in done.stdout
    assert store.verify(store.artifacts("tokens")[0]) == []


def test_until_stops_after_the_step(module_home: Path, small_corpus: Path) -> None:
    done = nanochat("run", "tiny", "--no-prefect", "--until", "tokens", sets=micro(small_corpus))
    assert done.returncode == 0
    assert "0 made, 3 cached" in done.stdout


def test_fresh_makes_the_step_again(module_home: Path, small_corpus: Path) -> None:
    done = nanochat("run", "tiny", "--no-prefect", "--fresh", "tokenizer", sets=micro(small_corpus))
    assert done.returncode == 0, done.stderr
    assert "1 made, 8 cached" in done.stdout, "the same tokenizer again: what follows stays cached"


def test_chat_answers(module_home: Path) -> None:
    done = nanochat("chat", "-p", "What is 37 + 58?")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_plan_as_json_says_which_steps_are_cached(module_home: Path, small_corpus: Path) -> None:
    done = nanochat("plan", "tiny", "--json", sets=micro(small_corpus))
    plan = json.loads(done.stdout)
    assert [row["step"] for row in plan["steps"]] == STEPS
    assert {row["state"] for row in plan["steps"]} == {"cached"}
    assert plan["pretrain"]["num_steps"] == 30


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    """The packages in another place, to be edited without harm."""
    for package in ("nanochat_core", "flows", "tasks"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def edit(tree: Path, name: str, old: str, new: str) -> None:
    path = tree / name
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {name}"
    path.write_text(text.replace(old, new))


def planned(tree: Path, small_corpus: Path) -> dict[str, dict[str, object]]:
    """Step -> what `nanochat plan` says of it when the code in `tree` runs."""
    options = [part for value in micro(small_corpus) for part in ("--set", value)]
    command = [sys.executable, "-m", "flows.cli", "plan", "tiny", "--json", *options]
    done = subprocess.run(
        command, cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return {row["step"]: row for row in json.loads(done.stdout)["steps"]}


def runs(rows: dict[str, dict[str, object]]) -> list[str]:
    return [step for step, row in rows.items() if row["state"] == "run"]


def test_a_comment_reruns_nothing(module_home: Path, small_corpus: Path, copied_tree: Path) -> None:
    edit(copied_tree, "nanochat_core/model/gpt.py", "class MLP(nn.Module):", "# a remark\nclass MLP(nn.Module):")
    assert runs(planned(copied_tree, small_corpus)) == []


def test_a_changed_constant_reruns_the_training_and_what_follows_and_is_named(
    module_home: Path, small_corpus: Path, copied_tree: Path
) -> None:
    edit(copied_tree, "nanochat_core/model/cross_entropy.py", "SOFTCAP = 15.0", "SOFTCAP = 16.0")
    rows = planned(copied_tree, small_corpus)
    assert runs(rows) == ["pretrain", "evaluate_base", "sft", "evaluate_chat", "report"]
    assert rows["pretrain"]["why"] == ["code nanochat_core.model.cross_entropy changed"]


def test_code_that_no_step_reaches_reruns_nothing(module_home: Path, small_corpus: Path, copied_tree: Path) -> None:
    edit(copied_tree, "nanochat_core/store/store.py", "TRANSFERS = 4", "TRANSFERS = 5")
    edit(copied_tree, "nanochat_core/cli/display.py", "LINE_EVERY_S = 30.0", "LINE_EVERY_S = 20.0")
    assert runs(planned(copied_tree, small_corpus)) == []


def test_a_changed_file_of_the_corpus_reruns_it(module_home: Path, tmp_path: Path, small_corpus: Path) -> None:
    shutil.copytree(small_corpus, tmp_path / "corpus")
    options = [*micro(small_corpus), f"corpus.path={tmp_path / 'corpus'}"]
    rows = json.loads(nanochat("plan", "tiny", "--json", sets=options).stdout)["steps"]
    assert rows[0]["state"] == "run"
    assert any("corpus" in reason for reason in rows[0]["why"])


def micro(small_corpus: Path) -> list[str]:
    from conftest import MICRO

    return [*MICRO, "corpus.source=path", f"corpus.path={small_corpus}"]


def test_the_same_flow_runs_on_object_storage(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_corpus: Path
) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NANOCHAT_STORE", s3_url)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    first = nanochat("run", "tiny", sets=micro(small_corpus))
    assert first.returncode == 0, first.stderr
    assert "9 made, 0 cached" in first.stdout
    # another machine: nothing local is left, the bucket is the same
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "other"))
    second = nanochat("run", "tiny", "--no-prefect", sets=micro(small_corpus))
    assert second.returncode == 0, second.stderr
    assert "0 made, 9 cached" in second.stdout
    assert nanochat("chat", "-p", "hi").returncode == 0
