"""The step that CONTRIBUTING.md adds, with its file and its line as they stand there: all else follows."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MICRO, ROOT
from flow_runs import newest_flow_run

NAME = "count_documents"
IMPORT = f"from nanochat_core.steps.{NAME} import {NAME}\n"
# What a reader of the table, the form, the Prefect tasks and the report sees of it, and of the run below.
LOOK = f"""
import json, sys
from pydantic import TypeAdapter
import tasks
from flows.parameters import StepName
from flows.speedrun import pipeline, run_until
from nanochat_core.cli.plan_view import preview_steps
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.step import Ref
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.report.markdown import summarize

plan = plan_run(load_config("tiny", sys.argv[1:]))
called = []
def told(step, plan, *refs):
    called.append(step.name)
    return Ref(step.name, "0", "0", "0", {{}}, 0.0, False)
list(pipeline(told, plan))
before = [row["state"] for row in preview_steps(plan, "{NAME}")]
runs = [run_until(make, plan, "{NAME}") for _ in range(2)]
print(json.dumps({{
    "table": list(STEPS), "flow": called, "form": TypeAdapter(StepName).json_schema()["enum"],
    "task": [tasks.TASKS["{NAME}"].name, tasks.TASKS["{NAME}"].description],
    "before": before, "after": [row["state"] for row in preview_steps(plan, "{NAME}")],
    "cached": [refs[-1].is_cached for refs in runs], "metrics": runs[0][-1].metrics,
    "report": summarize(plan, runs[1]),
}}))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The source with one file and one line more."""
    folder = tmp_path / "checkout"
    for package in ("flows", "tasks", "nanochat_core"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("prefect.yaml", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    file, line = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (folder / f"nanochat_core/steps/{NAME}.py").write_text(file, encoding="utf-8")
    flow = folder / "flows/speedrun.py"
    old = flow.read_text(encoding="utf-8")
    after = "    yield (text := make(corpus, plan))\n"
    assert old.count(after) == 1
    flow.write_text(old.replace(after, after + line).replace("DEFAULTS =", f"{IMPORT}DEFAULTS ="), encoding="utf-8")
    return folder


def environment(folder: Path, checkout: Path) -> dict[str, str]:
    given = {"NANOCHAT_HOME": folder / "home", "NANOCHAT_STORE": folder / "store", "PREFECT_HOME": folder / "prefect"}
    return {**os.environ, **{name: str(path) for name, path in given.items()}, "PYTHONPATH": str(checkout)}


def test_a_step_is_one_file_and_one_line(checkout: Path, tmp_path: Path, small_corpus: Path) -> None:
    sets = [*MICRO, "corpus.source=path", f"corpus.path={small_corpus}"]
    done = subprocess.run(
        [sys.executable, "-c", LOOK, *sets],
        cwd=checkout, env=environment(tmp_path, checkout), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["table"] == seen["flow"] == seen["form"]
    assert seen["table"][:2] == ["corpus", NAME]
    assert seen["task"] == [NAME, "Count the documents of each script."]
    assert (seen["before"], seen["after"], seen["cached"]) == (["run", "run"], ["cached", "cached"], [False, True])
    assert seen["metrics"]["documents"] == sum(seen["metrics"]["scripts"].values()) > 0
    assert f"{seen['metrics']['documents']:,} documents in {len(seen['metrics']['scripts'])} scripts" in seen["report"]


@pytest.mark.torture
def test_it_is_on_prefects_page_and_in_the_written_report_and_typed(
    checkout: Path, tmp_path: Path, small_corpus: Path
) -> None:
    sets = [part for one in (*MICRO, "corpus.source=path", f"corpus.path={small_corpus}") for part in ("--set", one)]
    for state in ("Completed", "Cached"):
        done = subprocess.run(
            [sys.executable, "-m", "flows", "run", "tiny", *sets],
            cwd=checkout, env=environment(tmp_path, checkout), capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        shown = newest_flow_run(tmp_path / "prefect").tasks
        assert shown[f"{NAME} · documents by script"] == state
    [page, _] = (tmp_path / "home/runs").glob("*/report.html")
    assert NAME in page.read_text(encoding="utf-8")
    typed = [sys.executable, "-m", "mypy", "--follow-imports=silent", "flows/speedrun.py"]
    for wrong in (False, True):
        file = checkout / f"nanochat_core/steps/{NAME}.py"
        if wrong:
            file.write_text(file.read_text(encoding="utf-8").replace("inputs=(corpus,)", 'inputs=("corpus",)'))
        told = subprocess.run([*typed, str(file)], cwd=checkout, capture_output=True, text=True, timeout=900)
        assert (told.returncode != 0) is wrong, told.stdout
