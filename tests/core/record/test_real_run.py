"""Bundles of what the real pipeline leaves behind: the checks must know every field that it writes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import first_home
import pytest
from conftest import MICRO, OFTEN, ROOT
from processes import wait_for_record

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.finish import finish_run
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.record.bundle import make_bundle
from nanochat_core.record.verify import verify

pytestmark = pytest.mark.slow


def test_a_killed_and_resumed_run_bundles_and_verifies(home: Path, small_corpus: Path, tmp_path: Path) -> None:
    sets = [*MICRO, OFTEN, "corpus.source=path", f"corpus.path={small_corpus}"]
    options = [part for value in sets for part in ("--set", value)]
    command = [sys.executable, "-m", "flows.cli", "run", "tiny", "--no-prefect", "--until", "evaluate_base", *options]
    first_home.seed_digests(home)
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    wait_for_record(home, "pretrain", 14, process, event="checkpoint")
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()

    plan = plan_run(load_config("tiny", sets))
    run_id = finish_run(plan, run_until(make, plan, "evaluate_base"), started_at=time.time()).run_id
    made = make_bundle(workspace.current().store, [run_id], tmp_path / "b.zip")
    verdict = verify(tmp_path / "b.zip")
    assert [str(problem) for problem in verdict.problems] == []
    [run] = made.claims["runs"]
    assert run["num_starts"] == 2
    assert run["num_steps"] == 30
    assert run["bits_per_byte"] == pytest.approx(run["val_bits_per_byte"], rel=1e-3)
    assert 0 < made.claims["clock_s"] < 60
