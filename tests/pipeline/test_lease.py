"""Two drivers of one run: the one that was silent past its lease publishes nothing, and its ranks die."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import first_home
import pytest
from conftest import ROOT
from processes import wait_for_record, wait_until_no_ranks

from nanochat_core import workspace
from nanochat_core.pipeline.execute import execute, make
from nanochat_core.pipeline.step import Check, Metrics, StepRun
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps import tokenizer as tokenizer_step
from nanochat_core.store import LeaseLostError

pytestmark = pytest.mark.slow
TTL_S = 3.0
DRIVER = f"import nanochat_core.pipeline.execute as s; s.LEASE_TTL_S = {TTL_S}; from flows.cli import main; main()"


def start(home: Path, store: Path, sets: list[str], log: Path) -> "subprocess.Popen[bytes]":
    """A driver that trains the base model, in a home of its own as on another machine."""
    first_home.seed_digests(home)
    options = [part for value in sets for part in ("--set", value)]
    command = [sys.executable, "-c", DRIVER, "run", "tiny", "--no-prefect", "--until", "pretrain", *options]
    environment = {**os.environ, "NANOCHAT_HOME": str(home), "NANOCHAT_STORE": str(store), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log.open("wb"), stderr=subprocess.STDOUT)


def test_a_driver_past_its_lease_publishes_nothing_and_its_ranks_die(
    prepared_home: Path, micro_sets: list[str], tmp_path: Path
) -> None:
    sets = [*micro_sets, "pretrain.max_tokens=20480"]  # 40 steps
    store = prepared_home / "store"
    first = start(tmp_path / "first", store, sets, tmp_path / "first.log")
    second: subprocess.Popen[bytes] | None = None
    try:
        wait_for_record(tmp_path / "first", "pretrain", 5, first)
        first.send_signal(signal.SIGSTOP)
        second = start(tmp_path / "second", store, sets, tmp_path / "second.log")
        assert second.wait(150) == 0, (tmp_path / "second.log").read_text()
        told = (tmp_path / "second.log").read_text()
        assert f"pretrain is being made by process {first.pid}" in told
        made = published()
        first.send_signal(signal.SIGCONT)
        woken = time.monotonic()
        assert first.wait(30) == 1
        wait_until_no_ranks(tmp_path / "first", timeout_s=30)
        assert time.monotonic() - woken < 15
    finally:
        for process in (first, second):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
    assert "error: " in (tmp_path / "first.log").read_text()
    assert published() == made, "the first driver published something"
    assert made["fencing_number"] == 2


def published() -> dict[str, object]:
    """What tells one publication of the base model from another."""
    newest, *_ = workspace.current().store.artifacts("pretrain")
    assert newest.metrics["num_steps"] == 40
    facts = newest.provenance
    return {name: facts[name] for name in ("fencing_number", "finished_at")} | {"digest": newest.result_digest}


def test_what_two_drivers_made_is_what_one_makes(prepared_home: Path, micro_sets: list[str]) -> None:
    """A waiting driver finds the artifact of the one that it waited for, and makes nothing."""
    plan = plan_run(load_config("tiny", [*micro_sets, "pretrain.max_tokens=10240"]))
    corpus = make(STEPS["corpus"], plan)
    tokenizer = make(STEPS["tokenizer"], plan, corpus, None)
    tokens = make(STEPS["tokens"], plan, corpus, tokenizer)
    options = [*micro_sets, "pretrain.max_tokens=10240"]
    other = start(prepared_home, prepared_home / "store", options, prepared_home / "other.log")
    mine = make(STEPS["pretrain"], plan, tokenizer, tokens, None)
    assert other.wait(120) == 0, (prepared_home / "other.log").read_text()
    said = (prepared_home / "other.log").read_text()
    assert mine.is_cached != ("pretrain       cached" in said), "both made it, or neither did"


def overtaken(run: StepRun) -> Metrics:
    """A tokenizer that was ready after another driver had taken the step over."""
    metrics = tokenizer_step.body(run)
    book = run.lease._book
    book.files.create(book.record_key(run.lease.number + 1), b"of another driver")
    return metrics


def test_a_loser_is_told_so_and_not_that_its_work_was_bad(home: Path, micro_plan: RunPlan) -> None:
    """The winner has cleared the scratch by then, so that every quality check would fail."""

    def never(run: StepRun, metrics: Metrics) -> list[Check]:
        raise AssertionError("checked what belongs to somebody else")

    corpus = make(STEPS["corpus"], micro_plan)
    step = replace(STEPS["tokenizer"], body=overtaken, checks=never)
    with pytest.raises(LeaseLostError, match="nothing more is written"):
        execute(step, micro_plan, {"corpus": corpus})
    assert workspace.current().store.artifacts("tokenizer") == []
