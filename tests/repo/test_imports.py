"""What each verb loads: a start waits for every import, so one that comes back shows here, counted and not timed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SLOW = {
    "aiobotocore", "awkward", "dask", "datasets", "fastapi", "ffbpe", "gigatoken", "httpx", "huggingface_hub", "jinja2",
    "numpy", "pandas", "prefect", "pyarrow", "requests", "rustbpe", "s3fs", "safetensors", "sqlalchemy", "tensorboard",
    "tiktoken", "torch", "transformers", "uvicorn",
}  # fmt: skip
"""Each takes 20 ms to a second; fsspec and pydantic (15 and 25 ms) are loaded where a store or a table is read."""
STEP = re.compile(r"^import time:.*\|\s*([\w.]+)$", re.MULTILINE)


def loaded(home: Path, *verb: str) -> set[str]:
    """Top-level packages that `nanochat` with these words imports."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("NANOCHAT_", "PREFECT_"))},
        "NANOCHAT_HOME": str(home),
        "PREFECT_HOME": str(home / "prefect"),
    }
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-P", "-m", "flows", *verb],
        cwd=ROOT, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    found = {name.partition(".")[0] for name in STEP.findall(done.stderr)}
    assert "typer" in found
    return found


@pytest.mark.parametrize(
    "verb", ["--help", "--version", "plan tiny", "why tiny", "runs", "refs list", "nightly --help"]
)
def test_a_verb_that_looks_loads_nothing_slow(verb: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, *verb.split()) & SLOW == set()


def test_help_opens_no_store(tmp_path: Path) -> None:
    assert loaded(tmp_path, "--help") & {"fsspec", "pydantic", "asyncio"} == set()


@pytest.mark.slow
def test_a_run_without_prefect_loads_none_of_it_and_what_is_cached_no_torch(tmp_path: Path) -> None:
    run = ("run", "tiny", "--no-prefect", "--until", "tokenizer", "--set", "corpus.max_bytes=300000")
    run = (*run, "--set", "tokenizer.vocab_size=512")
    made = loaded(tmp_path, *run)
    assert {"pyarrow", "ffbpe"} <= made
    assert made & {"prefect", "httpx", "torch", "fastapi", "sqlalchemy"} == set()
    assert loaded(tmp_path, *run) & SLOW == set(), "all cached: nothing is read but manifests"


@pytest.mark.parametrize("name", ["miniseries", "nightly", "scaling_laws", "speedrun"])
def test_the_flows_are_plain_functions_where_prefect_is_left_out(name: str) -> None:
    code = (
        "import sys; from flows.recorded import leave_out_prefect; leave_out_prefect()\n"
        f"from flows.{name} import {name}\n"
        f"assert type({name}).__name__ == 'function' and 'prefect' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
