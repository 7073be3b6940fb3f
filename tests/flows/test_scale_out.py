"""Tokenization on a cluster of two real Dask worker processes, one of them killed in the middle."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import first_home
import pytest
from conftest import MICRO, ROOT

from flows.server import prefect_server
from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError
from nanochat_core.config import RuntimeConfig
from nanochat_core.data import shards
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.steps.tokens import files_of
from nanochat_core.store.store import Store

pytestmark = pytest.mark.slow
distributed = pytest.importorskip("distributed", reason="the extra `dask` is not installed")
if importlib.util.find_spec("prefect_dask") is None:
    pytest.skip("the extra `dask` is not installed", allow_module_level=True)
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


def start_worker(address: str, home: Path, log: Path, exports: dict[str, str]) -> "subprocess.Popen[bytes]":
    """One worker with a home of its own, as on another machine; the store is shared."""
    environment = {
        **os.environ,
        "NANOCHAT_HOME": str(home),
        "PYTHONPATH": str(ROOT),
        **exports,
        "OMP_NUM_THREADS": "1",
    }
    first_home.seed_digests(home)
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
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))  # not the developer's, nor that of a test beside it
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "alone"))
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "alone/store"))
    alone = plan_of(small_corpus)
    corpus = make(STEPS["corpus"], alone)
    expected = make(STEPS["tokens"], alone, corpus, make(STEPS["tokenizer"], alone, corpus, None))

    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "driver"))
    first_home.seed(tmp_path / "driver")
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "store"))
    plan = plan_of(small_corpus, "runtime.scale_out=dask", f"runtime.scale_out_address={scheduler}")
    workers: list[subprocess.Popen[bytes]] = []
    store = workspace.current().store
    made_before: list[int] = []
    try:
        with prefect_server() as server:
            assert server is not None
            server.wait_until_ready()
            for name in ("worker0", "worker1"):
                workers.append(start_worker(scheduler, tmp_path / name, tmp_path / f"{name}.log", server.exports))
            from prefect import flow
            from prefect.logging.handlers import APILogWorker
            from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

            import tasks
            from flows.speedrun import run_until

            killer = threading.Thread(target=kill_in_the_middle, args=(workers[0], store, made_before))
            killer.start()
            with temporary_settings({PREFECT_API_URL: server.url, PREFECT_API_AUTH_STRING: server.auth}):
                refs = flow(lambda: run_until(tasks.make, plan, "tokens"), name="until-tokens")()
            killer.join()
            APILogWorker.drain_all(timeout=5)
    finally:
        for worker in workers:
            worker.kill()
    assert workers[0].returncode == -signal.SIGKILL
    parts = store.artifacts("token_part")
    assert len(parts) == len(list(files_of(store, refs[0]))) >= NUM_SHARDS
    assert 5 <= made_before[0] < len(parts), "the worker was not killed in the middle"
    assert refs[-1].digest == expected.digest
    assert refs[-1].step == "tokens"
    assert servers_of(tmp_path) == [], "a worker started a Prefect server of its own"
    assert not list((tmp_path / "driver/work").glob("token_part*")), "the driver encoded a shard itself"


def servers_of(folder: Path) -> list[str]:
    """Prefect servers whose environment names this test's folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            command = (path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if str(folder).encode() in path.read_bytes() and "prefect.server" in command:
                found.append(command)
    return found


def kill_in_the_middle(worker: "subprocess.Popen[bytes]", store: Store, made_before: list[int]) -> None:
    deadline = time.monotonic() + 120
    while len(store.artifacts("token_part")) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    made_before.append(len(store.artifacts("token_part")))


def test_workers_elsewhere_need_a_server_that_they_can_reach() -> None:
    from tasks.scale_out import _check_reachable

    elsewhere = RuntimeConfig(scale_out="dask", scale_out_address="tcp://10.0.0.5:8786")
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:4200/api"}):
        with pytest.raises(ConfigError, match="cannot reach"):
            _check_reachable(elsewhere)
        _check_reachable(RuntimeConfig(scale_out="dask", scale_out_address="tcp://127.0.0.1:8786"))
        _check_reachable(RuntimeConfig(scale_out="dask"))
    with temporary_settings({PREFECT_API_URL: "http://10.0.0.6:4200/api"}):
        _check_reachable(elsewhere)
