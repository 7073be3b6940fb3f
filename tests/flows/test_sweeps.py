"""Sweeps as a user starts them: on a real Prefect server where that matters, with models that train in a second."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import first_home
import pytest
from conftest import MICRO, ROOT
from flow_runs import newest_flow_run
from processes import processes_of

pytestmark = pytest.mark.slow
CLI = "from nanochat_core.cli.app import app; from flows.sweeps_cli import register; register(app); app()"
SHARED_STEPS = ["corpus", "tokenizer", "tokens"]
OWN_STEPS = ["pretrain", "evaluate_base"]


@pytest.fixture(scope="module")
def module_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One home, store and Prefect database for the tests of this file, in their order."""
    folder = tmp_path_factory.mktemp("sweeps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_HOME", str(folder / "home"))
        patch.setenv("NANOCHAT_STORE", str(folder / "home/store"))
        patch.setenv("PREFECT_HOME", str(folder / "prefect"))
        patch.delenv("PREFECT_API_URL", raising=False)
        first_home.seed(folder / "home")
        yield folder


@pytest.fixture
def nanochat(module_home: Path, small_corpus: Path) -> Any:
    """The command line with the micro model; its width follows depth."""
    micro = [value for value in MICRO if "n_embd" not in value and "depth" not in value]
    short = ["pretrain.max_tokens=5120", "pretrain.validate_every_steps=none"]  # 10 steps
    sets = [*micro, *short, "corpus.source=path", f"corpus.path={small_corpus}"]
    options = [part for value in sets for part in ("--set", value)]

    def run(*arguments: str, is_sweep: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", CLI, *arguments, *(options if is_sweep else [])]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, stdin=subprocess.DEVNULL)

    return run


def test_a_sweep_that_is_too_dear_is_refused_before_anything_runs(nanochat: Any, module_home: Path) -> None:
    price = ["--set", "runtime.gpu=H100", "--set", "runtime.usd_per_gpu_hour=100000000"]
    done = nanochat("miniseries", "series", "--depths", "1,2", "--max-cost-usd", "0.5", *price)
    assert done.returncode == 2
    assert "over the limit of $0.50" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (module_home / "prefect").exists()
    assert not (module_home / "home/store/steps").exists()


def test_a_series_of_one_depth_makes_its_steps(nanochat: Any, module_home: Path) -> None:
    done = nanochat("miniseries", "series", "--depths", "1", "--no-prefect")
    assert done.returncode == 0, done.stderr
    assert "5 made, 0 cached" in done.stdout
    assert processes_of(module_home) == []


def test_a_depth_added_later_runs_its_own_steps_only(nanochat: Any, module_home: Path) -> None:
    done = nanochat("miniseries", "series", "--depths", "1,2", "--parallel", "2")
    assert done.returncode == 0, done.stderr
    assert "2 made, 8 cached" in done.stdout
    assert processes_of(module_home) == [], "something was left running"
    seen = newest_flow_run(module_home / "prefect")
    assert seen.state == "Completed"
    expected = {f"{step} d1": "Cached" for step in [*SHARED_STEPS, *OWN_STEPS]}
    expected |= {f"{step} d2": "Cached" for step in SHARED_STEPS} | {f"{step} d2": "Completed" for step in OWN_STEPS}
    assert seen.tasks == expected
    assert "miniseries-report" in seen.artifacts
    [report] = [path for path in module_home.glob("home/runs/miniseries-*/report.html") if path.as_uri() in done.stdout]
    assert report.with_suffix(".md").read_text().count("\n| d") == 2


def test_a_grid_makes_its_report_and_leaves_out_what_is_too_short(nanochat: Any, module_home: Path) -> None:
    done = nanochat("scaling-laws", "series", "--flops", "1e9,6e9", "--depths", "1,2", "--no-prefect")
    assert done.returncode == 0, done.stderr
    assert "d2@1e9" in done.stderr
    assert "left out: too large for the budget" in done.stderr
    [report] = module_home.glob("home/runs/scaling-laws-*/report.md")
    text = report.read_text()
    assert "| d1@6e9 |" in text
    assert "needs three cells" in text


def test_recorded_sweeps_are_listed_and_drawn_again(nanochat: Any, module_home: Path) -> None:
    records = json.loads(nanochat("sweeps", "--json", is_sweep=False).stdout)
    assert [record["kind"] for record in records] == ["miniseries", "miniseries", "scaling_laws"]
    assert [cell["name"] for cell in records[1]["cells"]] == ["d1", "d2"]
    page = module_home / "home/runs" / records[1]["run_id"] / "report.html"
    before = page.read_bytes()
    page.unlink()
    again = nanochat("sweeps", records[1]["run_id"], is_sweep=False)
    assert again.stdout.strip() == page.as_uri()
    assert page.read_bytes() == before
