"""The ranks of one machine meet at an address, not at a name that the machine may not know."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_core.base.environment import loopback
from nanochat_core.base.torchrun import Nodes, command_of_ranks, torchrun


def test_ranks_of_one_machine_need_no_name() -> None:
    command = torchrun("a.b", num_processes=2)
    assert "localhost" not in " ".join(command)
    assert "nanochat_core.base.one_node" in command


def test_a_single_rank_starts_by_itself_and_several_with_torchrun() -> None:
    assert command_of_ranks("a.b", "plan", num_processes=1) == [sys.executable, "-m", "a.b", "plan"]
    nodes = Nodes(num=2, rank=1, rendezvous="first:29500", run_id="x")
    assert command_of_ranks("a.b", num_processes=1, nodes=nodes) == torchrun("a.b", num_processes=1, nodes=nodes)
    assert command_of_ranks("a.b", num_processes=2) == torchrun("a.b", num_processes=2)


def test_several_nodes_meet_where_they_are_told() -> None:
    nodes = Nodes(num=2, rank=1, rendezvous="first:29500", run_id="x")
    command = torchrun("a.b", num_processes=2, nodes=nodes)
    assert {"--master-addr=first", "--master-port=29500", "--node-rank=1"} <= set(command)
    assert not [part for part in command if part.startswith("--local-addr")]


AGAIN = """
import os, sys, torch
from nanochat_core.base import distributed
world = distributed.world_from_environment()
distributed.start(world, torch.device("cpu"))
told = distributed.to_main(distributed.from_main({"is": ["\\ud800", 0.1]}, world), world)
assert told == [{"is": ["\\ud800", 0.1]}] * world.size * world.is_main, told
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and not world.is_main:
    os._exit(1)
distributed.stop()
"""


@pytest.mark.torture
@pytest.mark.slow
def test_ranks_that_start_again_meet_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "again.py").write_text(AGAIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [*torchrun("again", num_processes=2)]
    command[command.index("--max-restarts=0")] = "--max-restarts=1"
    done = subprocess.run(command, env={**os.environ, **loopback()}, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "exitcode: 1" in done.stderr, "the first start failed"
