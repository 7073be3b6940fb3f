"""A training on two nodes: two launchers with homes of their own that share a store and meet at a port."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import first_home
import pytest
from conftest import OFTEN, ROOT

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError, TrainingError
from nanochat_core.base.torchrun import Nodes, torchrun
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.step import Ref
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config


def test_one_node_needs_no_environment() -> None:
    assert Nodes.from_environment(1, run_id="x", environment={}) == Nodes()
    assert not [part for part in torchrun("m", num_processes=2) if part.startswith("--node-rank")]


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NANOCHAT_NODE_RANK": "1"},
        {"NANOCHAT_NODE_RANK": "one", "NANOCHAT_RENDEZVOUS": "first:1"},
        {"NANOCHAT_NODE_RANK": "2", "NANOCHAT_RENDEZVOUS": "first:1"},
        {"NANOCHAT_NODE_RANK": "-1", "NANOCHAT_RENDEZVOUS": "first:1"},
    ],
)
def test_a_node_that_does_not_know_which_it_is_is_refused(environment: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="NANOCHAT_NODE_RANK"):
        Nodes.from_environment(2, run_id="x", environment=environment)


WHO = """
import os, sys, pathlib
pathlib.Path(sys.argv[1], os.environ["RANK"]).write_text(os.environ["NANOCHAT_NODE_RANK"])
"""


@pytest.mark.slow
def test_the_leader_has_the_first_rank_though_the_other_started_first(rendezvous: str, tmp_path: Path) -> None:
    (tmp_path / "who.py").write_text(WHO)
    (tmp_path / "ranks").mkdir()
    running = []
    for rank in (1, 0):
        environment = {**os.environ, "NANOCHAT_NODE_RANK": str(rank), "PYTHONPATH": str(tmp_path)}
        nodes = Nodes.from_environment(2, run_id="abc", environment=environment)
        command = torchrun("who", str(tmp_path / "ranks"), num_processes=2, nodes=nodes)
        running.append(subprocess.Popen(command, env=environment))
        time.sleep(3 * rank)
    assert [process.wait(60) for process in running] == [0, 0]
    nodes_of = {file.name: file.read_text() for file in (tmp_path / "ranks").iterdir()}
    assert nodes_of == {"0": "0", "1": "0", "2": "1", "3": "1"}


def train(plan: RunPlan) -> Ref:
    corpus = make(STEPS["corpus"], plan)
    tokenizer = make(STEPS["tokenizer"], plan, corpus, None)
    return make(STEPS["pretrain"], plan, tokenizer, make(STEPS["tokens"], plan, corpus, tokenizer), None)


@pytest.fixture
def rendezvous(monkeypatch: pytest.MonkeyPatch) -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setenv("NANOCHAT_RENDEZVOUS", address)
    monkeypatch.setenv("NANOCHAT_NODE_RANK", "0")
    return address


@pytest.fixture
def second_node(prepared_home: Path, tmp_path: Path, rendezvous: str, micro_sets: list[str]) -> Iterator["Second"]:
    node = Second(prepared_home, tmp_path, micro_sets)
    yield node
    node.kill()


class Second:
    """The second node as Slurm starts it, in a home of its own."""

    def __init__(self, home: Path, folder: Path, sets: list[str]) -> None:
        self.store, self.folder, self.sets = home / "store", folder, sets
        self.home = folder / "second"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        first_home.seed_digests(self.home)
        options = [part for value in self.sets for part in ("--set", value)]
        environment = {
            **os.environ, "NANOCHAT_HOME": str(self.home), "NANOCHAT_STORE": str(self.store),
            "SLURM_NODEID": "1", "SLURM_NNODES": "2", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }  # fmt: skip
        command = [str(ROOT / "infra/slurm/node.sh"), "tiny", "--until", "pretrain", *options]
        log = (self.folder / "second.log").open("ab")
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)  # its ranks die with it
            self.process.wait()

    @property
    def log(self) -> str:
        return (self.folder / "second.log").read_text()


@pytest.mark.slow
def test_two_nodes_train_what_one_node_with_as_many_ranks_trains(
    prepared: Path, prepared_home: Path, second_node: Second, micro_sets: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    sets = second_node.sets = [*micro_sets, "pretrain.max_tokens=5120"]  # 10 steps
    together = plan_run(load_config("tiny", [*sets, "runtime.num_nodes=2"]), fresh=("pretrain",))
    forget_pretraining(workspace.current().store)
    second_node.start()
    trained = train(together)
    assert "joining pretrain" in second_node.log
    assert second_node.process is not None
    assert second_node.process.wait(60) == 0, "it was asked for no more than that"

    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "alone"))
    monkeypatch.setenv("NANOCHAT_STORE", str(tmp_path / "alone/store"))
    shutil.copytree(prepared, tmp_path / "alone", symlinks=True)
    alone = plan_run(load_config("tiny", [*sets, "runtime.num_processes=2"]), fresh=("pretrain",))
    assert train(alone).digest == trained.digest


@pytest.mark.slow
@pytest.mark.torture
def test_a_lost_node_ends_the_attempt_and_the_next_one_goes_on(
    prepared_home: Path, second_node: Second, micro_sets: list[str]
) -> None:
    second_node.home = prepared_home  # as where the nodes of a cluster have one home
    second_node.sets = [*micro_sets, OFTEN, "pretrain.max_tokens=51200"]  # 100 steps
    plan = plan_run(load_config("tiny", [*second_node.sets, "runtime.num_nodes=2"]))
    second_node.start()
    checkpoints = workspace.current().store.url
    killer = subprocess.Popen(
        [sys.executable, "-c", KILL_AFTER_CHECKPOINT, checkpoints, str(second_node.process.pid)]  # type: ignore[union-attr]
    )
    with pytest.raises(TrainingError):
        train(plan)
    killer.wait(60)
    second_node.start()
    started = time.monotonic()
    assert train(plan).metrics["num_steps"] == 100
    assert time.monotonic() - started < 120


def forget_pretraining(store) -> None:
    for artifact in store.artifacts("pretrain"):
        store.discard(artifact)


KILL_AFTER_CHECKPOINT = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1].removeprefix("file://"))
while not list(folder.glob("partial/pretrain/*/step-*/complete.json")):
    time.sleep(0.02)
os.kill(int(sys.argv[2]), signal.SIGKILL)
"""
