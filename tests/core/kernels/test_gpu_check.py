"""The command that checks everything on a GPU, at the sizes it takes without one."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch

BARE = (
    "torch", "torchgen", "functorch", "numpy", "numpy.libs", "sympy", "mpmath", "networkx", "jinja2", "markupsafe",
    "fsspec", "filelock", "typing_extensions.py", "setuptools", "triton", "torch-*", "numpy-*",
)  # fmt: skip
ROOT = Path(__file__).resolve().parents[3]


def _check(*arguments):
    command = [sys.executable, str(ROOT / "benchmarks/gpu_check.py"), "--device", "cpu", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.mark.slow
def test_a_check_gives_figures_as_json_and_as_tables(tmp_path):
    result = _check("products", "attention", "steps", "--out", str(tmp_path / "out.json"))
    assert result.returncode == 0, result.stdout + result.stderr
    parts = json.loads((tmp_path / "out.json").read_text())["parts"]
    assert [part["part"] for part in parts] == ["products", "attention", "steps"]
    products, attention, steps = (part["figures"] for part in parts)
    assert all(row["fast_tflops"] > 0 and row["exact_error"] < 0.1 for row in products["rows"])
    assert {case["chosen"] for case in attention["cases"]} == {"blocked"}
    refused = {rung["rung"]: rung.get("refused") for rung in attention["cases"][0]["rungs"]}
    assert refused.pop("blocked") is None
    assert all(refused.values())
    assert [model["fp8"] for model in steps["models"]] == [None, "delayed"]
    assert all(model["micro_step_kernels"]["by_kind_ms"]["product"] > 0 for model in steps["models"])
    assert "| fc forward |" in result.stdout
    assert "| blocked |" in result.stdout


@pytest.fixture
def bare(tmp_path):
    """An environment with torch, numpy and what they need alone: what a rented machine's image has."""
    venv.create(tmp_path / "bare", with_pip=False)
    [target] = (tmp_path / "bare/lib").glob("python*/site-packages")
    source = Path(torch.__file__).parents[1]
    for name in BARE:
        for path in source.glob(name):
            (target / path.name).symlink_to(path)
    return tmp_path / "bare/bin/python"


@pytest.mark.slow
def test_a_bare_machine_runs_the_loop_and_decodes(bare, tmp_path):
    assert subprocess.run([bare, "-c", "import tiktoken"], capture_output=True).returncode == 1
    command = [bare, "-m", "benchmarks.gpu_check", "--device", "cpu", "loop", "decode", "tests"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "longest_step_about_the_save_ms" in done.stdout
    assert "quiet_tokens_per_s" in done.stdout
    assert "pytest is not installed here" in done.stdout


@pytest.mark.slow
def test_a_part_that_fails_is_reported_and_the_next_goes_on(tmp_path):
    result = _check("casts", "products", "--limit-s", "0.01", "--out", str(tmp_path / "out.json"))
    assert result.returncode == 1
    parts = json.loads((tmp_path / "out.json").read_text())["parts"]
    assert [part["problem"] for part in parts] == ["not finished within 0.01 s"] * 2
    assert result.stdout.count("FAILED") == 2


def test_an_unknown_part_is_refused_with_the_known_ones():
    result = _check("everything")
    assert result.returncode == 2
    assert "compare" in result.stderr
