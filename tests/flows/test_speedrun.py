"""The whole flow, on a real Prefect server that the command starts and stops itself."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import first_home
import pytest
from conftest import ROOT
from flow_runs import FlowRun, newest_flow_run
from processes import processes_of

from nanochat_core import workspace
from nanochat_core.store.manifest import Artifact

pytestmark = pytest.mark.slow
STEPS = [
    "corpus", "tokenizer", "tokens", "pretrain", "evaluate_base", "conversations", "sft", "evaluate_chat",
    "rl_questions", "rl", "evaluate_rl", "report",
]  # fmt: skip
SHORT = ("pretrain.max_tokens=4096", "sft.num_documentation=10", "sft.num_arithmetic=30", "sft.num_spelling=10")


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
        first_home.seed(folder / "home")
        yield folder


def states_of(seen: FlowRun) -> dict[str, str]:
    """State names by step: the first word of a task run's name."""
    return {name.split(" ")[0]: state for name, state in seen.tasks.items()}


def test_first_run_makes_every_step(module_home: Path, small_corpus: Path) -> None:
    sets = micro(small_corpus)
    done = nanochat("run", "tiny", sets=sets)
    assert done.returncode == 0, done.stderr
    assert "12 made, 0 cached" in done.stdout
    report = next((module_home / "home/runs").glob("*/report.html"))
    assert report.as_uri() in done.stdout
    assert processes_of(module_home) == [], "something was left running"
    seen = newest_flow_run(module_home / "prefect")
    assert seen.state == "Completed"
    assert states_of(seen) == dict.fromkeys(STEPS, "Completed")
    assert seen.artifacts[0] == "speedrun-report", "the first card of its page"
    assert "pretrain-progress" in seen.artifacts


def test_a_new_prefect_home_finds_every_step_cached(module_home: Path, small_corpus: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(module_home / "prefect2"))
        started = time.monotonic()
        done = nanochat("run", "tiny", sets=micro(small_corpus))
        assert done.returncode == 0, done.stderr
        assert "0 made, 12 cached" in done.stdout
        assert time.monotonic() - started < 60  # 8 s on an idle machine; RELEASE figures are in benchmarks/RESULTS.md
        seen = newest_flow_run(module_home / "prefect2")
        assert states_of(seen) == dict.fromkeys(STEPS, "Cached")


def test_more_epochs_rerun_fine_tuning_and_what_follows_only(module_home: Path, small_corpus: Path) -> None:
    done = nanochat("plan", "tiny", "--json", sets=[*micro(small_corpus), "sft.epochs=2"])
    rows = {row["step"]: row for row in json.loads(done.stdout)["steps"]}
    assert runs(rows) == ["sft", "evaluate_chat", "rl", "evaluate_rl", "report"]
    assert "config epochs: 1 -> 2" in rows["sft"]["why"]


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
    assert "1 made, 11 cached" in done.stdout
    assert store.verify(store.artifacts("tokens")[0]) == []


def test_fresh_makes_the_step_again(module_home: Path, small_corpus: Path) -> None:
    done = nanochat("run", "tiny", "--no-prefect", "--fresh", "tokenizer", sets=micro(small_corpus))
    assert done.returncode == 0, done.stderr
    assert "1 made, 11 cached" in done.stdout, "the same tokenizer again: what follows stays cached"


def test_a_training_made_again_without_prefect_elsewhere_gives_the_same_report(
    module_home: Path, small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first report is of a run by Prefect (above); times differ, and are with the logs."""
    for name, value in {"HOME": str(tmp_path), "TZ": "Asia/Kathmandu", "LC_ALL": "de_DE.UTF-8"}.items():
        monkeypatch.setenv(name, value)
    sets = micro(small_corpus)
    store = workspace.current().store

    def newest() -> Artifact:
        run = max(map(store.run, store.runs()), key=lambda record: record["started_at"])
        return store.find("report", next(line["fingerprint"] for line in run["steps"] if line["step"] == "report"))

    first = newest()
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "another home"))  # the store is the same
    first_home.seed_digests(tmp_path / "another home")
    again = nanochat("run", "tiny", "--no-prefect", "--fresh", "rl", sets=sets)
    assert again.returncode == 0, again.stderr
    assert "2 made, 10 cached" in again.stdout, "the training, and the report of its log"
    second = newest()
    assert second.fingerprint != first.fingerprint
    assert second.result_digest == first.result_digest
    assert second.files["log/times.json"] != first.files["log/times.json"]


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


def test_a_changed_constant_reruns_the_training_and_what_follows_and_is_named(
    module_home: Path, small_corpus: Path, copied_tree: Path
) -> None:
    edit(copied_tree, "nanochat_core/model/cross_entropy.py", "CHUNK_TOKENS = 512", "CHUNK_TOKENS = 513")
    rows = planned(copied_tree, small_corpus)
    assert runs(rows) == ["pretrain", "evaluate_base", "sft", "evaluate_chat", "rl", "evaluate_rl", "report"]
    assert rows["pretrain"]["why"] == ["code nanochat_core.model.cross_entropy changed"]


def test_comments_and_code_that_no_step_reaches_rerun_nothing(
    module_home: Path, small_corpus: Path, copied_tree: Path
) -> None:
    edit(copied_tree, "nanochat_core/model/gpt.py", "class MLP(nn.Module):", "# a remark\nclass MLP(nn.Module):")
    edit(copied_tree, "nanochat_core/store/store.py", "TRANSFERS = 4", "TRANSFERS = 5")
    edit(copied_tree, "nanochat_core/cli/display.py", "LINE_EVERY_S = 30.0", "LINE_EVERY_S = 20.0")
    assert runs(planned(copied_tree, small_corpus)) == []


def test_a_changed_file_of_the_corpus_reruns_it(module_home: Path, tmp_path: Path, small_corpus: Path) -> None:
    shutil.copytree(small_corpus, tmp_path / "corpus")
    options = [*micro(small_corpus), f"corpus.path={tmp_path / 'corpus'}"]
    rows = json.loads(nanochat("plan", "tiny", "--json", sets=options).stdout)["steps"]
    assert rows[0]["state"] == "cached", "the same files elsewhere are the same data"
    with (tmp_path / "corpus/0.parquet").open("r+b") as file:  # of the same size
        file.seek(100)
        byte = file.read(1)
        file.seek(100)
        file.write(bytes([byte[0] ^ 1]))
    rows = json.loads(nanochat("plan", "tiny", "--json", sets=options).stdout)["steps"]
    assert rows[0]["state"] == "run"
    assert any("files" in reason for reason in rows[0]["why"])


def micro(small_corpus: Path) -> list[str]:
    from conftest import MICRO, MICRO_RL

    return [*MICRO, *MICRO_RL, "corpus.source=path", f"corpus.path={small_corpus}"]


def test_the_same_flow_runs_on_object_storage(
    s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_corpus: Path
) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NANOCHAT_STORE", s3_url)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    first_home.seed(tmp_path / "home")
    arguments, sets = ("run", "tiny", "--until", "sft"), [*micro(small_corpus), *SHORT]
    first = nanochat(*arguments, sets=sets)
    assert first.returncode == 0, first.stderr
    assert "7 made, 0 cached" in first.stdout
    # another machine: nothing local is left, the bucket is the same
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "other"))
    first_home.seed_digests(tmp_path / "other")
    second = nanochat(*arguments, "--no-prefect", sets=sets)
    assert second.returncode == 0, second.stderr
    assert "0 made, 7 cached" in second.stdout
    assert nanochat("chat", "-p", "hi").returncode == 0
