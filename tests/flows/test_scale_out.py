"""Tokenization on a cluster of two real Dask worker processes, one of them killed in the middle."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MICRO, ROOT

from flows.server import prefect_server
from nanochat_core import workspace
from nanochat_core.data import shards
from nanochat_core.pipeline import steps
from nanochat_core.pipeline.token_parts import files_of
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.store.store import Store

pytestmark = pytest.mark.slow
distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
pytest.importorskip("prefect_dask", reason="the extra `dask` is not installed")
NUM_SHARDS = 20


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The corpus step, which runs in this process, cuts its shards so that there are twenty of them."""
    monkeypatch.setattr(shards, "SHARD_TEXT_BYTES", 10_000)


@pytest.fixture
def scheduler(tmp_path: Path) -> Iterator[str]:
    """A scheduler that workers can be added to, as a cluster of several machines has one."""
    log = (tmp_path / "scheduler.log").open("wb")
    command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", "0", "--no-dashboard"]
    file = tmp_path / "scheduler.json"
    process = subprocess.Popen([*command, "--scheduler-file", str(file)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        with distributed.Client(scheduler_file=str(file)) as client:
            yield client.scheduler.address
    finally:
        process.kill()


def start_worker(address: str, home: Path, log: Path) -> "subprocess.Popen[bytes]":
    """One worker with a home of its own, as on another machine; the store is shared."""
    environment = {**os.environ, "NANOCHAT_HOME": str(home), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-nanny"]
    return subprocess.Popen(
        [*command, "--no-dashboard"], env=environment, stdout=log.open("ab"), stderr=subprocess.STDOUT, cwd=ROOT
    )


def plan_of(folder: Path, *more: str) -> RunPlan:
    sets = [*MICRO, "corpus.source=path", f"corpus.path={folder}", *more]
    return plan_run(load_config("tiny", sets))


def test_shards_tokenized_on_two_workers_one_of_them_killed_give_the_same_artifact(
    small_corpus: Path, small_shards: None, scheduler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "alone"))
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "alone/store"))
    alone = plan_of(small_corpus)
    corpus = steps.corpus(alone)
    expected = steps.tokens(alone, corpus, steps.tokenizer(alone, corpus))

    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "driver"))
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "store"))
    plan = plan_of(small_corpus, "runtime.scale_out=dask", f"runtime.scale_out_address={scheduler}")
    workers = [start_worker(scheduler, tmp_path / f"worker{n}", tmp_path / f"worker{n}.log") for n in range(2)]
    store = workspace.current().store
    made_before: list[int] = []
    killer = threading.Thread(target=kill_in_the_middle, args=(workers[0], store, made_before))
    try:
        with prefect_server() as server:
            if server is not None:
                server.wait_until_ready()
            from prefect import flow

            import tasks
            from flows.speedrun import run_until

            killer.start()
            refs = flow(lambda: run_until(tasks, plan, "tokens"), name="until-tokens")()
    finally:
        for worker in workers:
            worker.kill()
    killer.join()
    assert workers[0].returncode == -signal.SIGKILL
    parts = store.artifacts("token_part")
    assert len(parts) == len(list(files_of(store, refs[0]))) >= NUM_SHARDS
    assert 5 <= made_before[0] < len(parts), "the worker was not killed in the middle"
    assert refs[-1].digest == expected.digest
    assert refs[-1].step == "tokens"
    assert not list((tmp_path / "driver/work").glob("token_part*")), "the driver encoded a shard itself"


def kill_in_the_middle(worker: "subprocess.Popen[bytes]", store: Store, made_before: list[int]) -> None:
    deadline = time.monotonic() + 120
    while len(store.artifacts("token_part")) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    made_before.append(len(store.artifacts("token_part")))
