"""Two drivers on one key, each with a Prefect server and database of its own: the store alone decides who makes it."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ROOT
from flow_runs import newest_flow_run
from processes import wait_until_no_ranks

from nanochat_core import workspace
from nanochat_core.base.records import read_records

pytestmark = [pytest.mark.torture, pytest.mark.slow, pytest.mark.timeout(1800)]
STEPS = {"corpus", "tokenizer", "tokens", "pretrain"}
TTL_S = 3.0
QUICK_TTL = f"import nanochat_core.pipeline.execute as s; s.LEASE_TTL_S = {TTL_S}; from flows.cli import main; main()"
PATIENCE_S = 900


class Driver:
    """`nanochat run` on a machine of its own: home, Prefect home, embedded server; the store is shared."""

    def __init__(self, folder: Path, store: Path, sets: list[str]) -> None:
        self.home, self.prefect_home, self.log = folder / "home", folder / "prefect", folder / "log"
        folder.mkdir()
        options = [part for value in sets for part in ("--set", value)]
        names = {"NANOCHAT_HOME": self.home, "NANOCHAT_STORE": store, "PREFECT_HOME": self.prefect_home}
        environment = {**os.environ, **{name: str(path) for name, path in names.items()}, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", QUICK_TTL, "run", "tiny", "--until", "pretrain", *options]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def wait_for_steps(self, number: int) -> None:
        """Until its training has taken so many."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for log in self.home.glob("work/pretrain-*/attempt-*/metrics.jsonl"):
                if sum(record["event"] == "step" for record in read_records(log)) >= number:
                    return
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.02)
        raise AssertionError(f"no training of {number} steps in {PATIENCE_S} s")

    def finish(self) -> dict[str, str]:
        """State of each step's last task run, once the command has ended well."""
        assert self.process.wait(PATIENCE_S) == 0, self.log.read_text()[-3000:]
        run = newest_flow_run(self.prefect_home)
        assert run.state == "Completed"
        return {name.split(" ")[0]: state for name, state in run.tasks.items()}


@contextmanager
def driver(folder: Path, store: Path, sets: list[str]) -> Iterator[Driver]:
    made = Driver(folder, store, sets)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.send_signal(signal.SIGCONT)
            made.process.kill()
            made.process.wait()


@pytest.fixture
def sets(micro_sets: list[str]) -> list[str]:
    return [*micro_sets, "pretrain.max_tokens=102400"]  # 200 steps


def test_two_databases_share_what_is_made_and_a_third_finds_all_of_it(
    home: Path, tmp_path: Path, sets: list[str]
) -> None:
    store = home / "store"
    with driver(tmp_path / "one", store, sets) as one, driver(tmp_path / "two", store, sets) as two:
        first, second = one.finish(), two.finish()
    assert first.keys() == second.keys() == STEPS
    for step in STEPS:
        assert sorted([first[step], second[step]]) == ["Cached", "Completed"], step
        assert len(workspace.current().store.artifacts(step)) == 1
    with driver(tmp_path / "three", store, sets) as three:
        assert Counter(three.finish().values()) == {"Cached": len(STEPS)}
    print(f"\n| two servers at once | {first} | {second} | a third database: all Cached |")


def test_a_frozen_driver_of_one_server_loses_its_step_to_the_other(home: Path, tmp_path: Path, sets: list[str]) -> None:
    store = home / "store"
    with driver(tmp_path / "one", store, sets) as one:
        one.wait_for_steps(5)
        one.process.send_signal(signal.SIGSTOP)
        with driver(tmp_path / "two", store, sets) as two:
            assert two.finish() == {**dict.fromkeys(STEPS - {"pretrain"}, "Cached"), "pretrain": "Completed"}
        [made] = workspace.current().store.artifacts("pretrain")
        one.process.send_signal(signal.SIGCONT)
        woken = one.finish()
        wait_until_no_ranks(one.home, timeout_s=60)
    assert woken["pretrain"] == "Cached", "its retry finds what the other one made"
    assert workspace.current().store.artifacts("pretrain") == [made], "the frozen driver published something"
    assert made.provenance["fencing_number"] == 2
    print(f"\n| frozen for longer than its lease | {woken} | published by the other, number 2 |")
