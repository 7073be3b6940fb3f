"""CORE and the chat benchmarks as steps of a run and as a verb, on the real data with a model that knows nothing."""

import json
import shutil
import time
from pathlib import Path

import pytest
from conftest import MICRO
from typer.testing import CliRunner

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.cli.app import app
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.finish import FinishedRun, finish_run
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.record.bundle import make_bundle
from nanochat_core.record.verify import verify

pytestmark = pytest.mark.slow
LIMIT = 2


@pytest.fixture(scope="module")
def data(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with CORE's data in core_eval."""
    folder = tmp_path_factory.mktemp("data")
    shutil.copytree(shared / "data/core_eval", folder / "core_eval")
    return folder


@pytest.fixture(scope="module")
def finished(prepared_module: Path, small_corpus: Path, shared: Path, data: Path) -> FinishedRun:
    """A whole run with both kinds of benchmarks, a few items each; made once for this file."""
    sets = [
        *MICRO, "corpus.source=path", f"corpus.path={small_corpus}",
        "core.source=path", f"core.path={data}/core_eval", f"core.max_per_benchmark={LIMIT}",
        "benchmarks.source=path", f"benchmarks.path={shared}/data/chat_eval", f"benchmarks.max_per_benchmark={LIMIT}",
        "benchmarks.max_answer_tokens=8",
    ]  # fmt: skip
    plan = plan_run(load_config("tiny", sets))
    return finish_run(plan, run_until(make, plan, None), started_at=time.time())


def evaluate(*arguments: str) -> dict:  # type: ignore[type-arg]
    done = CliRunner().invoke(app, ["eval", *arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_run_measures_both_and_the_verb_finds_what_the_run_measured(
    finished: FinishedRun, shared: Path, data: Path
) -> None:
    core, chat = finished.ref("evaluate_core"), finished.ref("benchmark_chat")
    base = finished.ref("benchmark_base")
    assert core is not None
    assert chat is not None
    assert base is not None
    assert core.metrics["num_benchmarks"] == 21
    assert core.metrics["num_items"] == 21 * LIMIT
    assert not core.metrics["is_complete"]
    assert set(base.metrics["benchmarks"]) == {"mmlu", "arc_easy", "arc_challenge"}
    assert set(chat.metrics["benchmarks"]) == {*base.metrics["benchmarks"], "gsm8k", "humaneval", "spelling_bee"}
    assert finished.report is not None
    page = finished.report.read_text()
    assert "CORE" in page
    assert "HumanEval" in page

    again = evaluate("tiny-base", "--benchmarks", "core", "--data", str(data), "--limit", str(LIMIT))
    [result] = again["results"].values()
    assert result["is_cached"]
    assert result["core"] == core.metrics["core"]
    other = evaluate("tiny-chat", "--benchmarks", "arc_easy", "--data", str(shared / "data/chat_eval"), "--limit", "3")
    assert other["results"]["benchmark_chat"]["benchmarks"]["arc_easy"]["num_asked"] == 3
    assert not other["results"]["benchmark_chat"]["is_cached"]


def test_the_run_can_be_bundled_and_the_bundle_verified(finished: FinishedRun, data: Path, tmp_path: Path) -> None:
    make_bundle(workspace.current().store, [finished.run_id], tmp_path / "record.zip")
    (data / "core_eval").rename(tmp_path / "away")  # a stranger has none of the author's folders
    try:
        verdict = verify(tmp_path / "record.zip")
    finally:
        (tmp_path / "away").rename(data / "core_eval")
    assert verdict.is_sound, verdict.problems
    core = finished.ref("evaluate_core")
    assert core is not None
    assert verdict.claims is not None
    assert verdict.claims["core_is_whole"] is False
    assert verdict.claims["significance"]["core_above_gpt2"] is None, "a part of CORE is compared with GPT-2's"
    assert f"{core.metrics['core']:.6f}" in json.dumps(verdict.claims) or core.metrics["core"] in _numbers(
        verdict.claims
    )


def _numbers(value: object) -> list[object]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in _numbers(item)]
    if isinstance(value, list | tuple):
        return [number for item in value for number in _numbers(item)]
    return [value]


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["no-such-model"], 3, "there is no ref no-such-model"),
        (["tiny-base", "--benchmarks", "core", "--data", "/nowhere"], 3, "/nowhere has no core.yaml"),
        (["tiny-base", "--benchmarks", "gsm8k", "--data", "/nowhere"], 3, "/nowhere has no mmlu"),
        (["tiny-base", "--data", "/nowhere"], 2, "there is nothing to measure"),
        (["tiny-base", "--benchmarks", "chess"], 2, "chess"),
        (["tiny-base", "--limit", "0"], 2, "max_per_benchmark = 0"),
        (["hf:/nowhere", "--benchmarks", "gsm8k"], 2, "CORE only"),
    ],
)
def test_what_cannot_be_measured_is_one_line_and_a_hint(
    arguments: list[str], code: int, told: str, finished: FinishedRun
) -> None:
    done = CliRunner().invoke(app, ["eval", *arguments])
    assert done.exit_code == code, done.output
    assert done.stderr.startswith("error: ")
    assert told in done.stderr
    assert not done.stdout
