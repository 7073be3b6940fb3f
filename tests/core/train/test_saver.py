"""Checkpoints written beside the training hold what was there when they were begun, of one rank and of several."""

import json
import os
import subprocess
import threading
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from nanochat_core.base.distributed import World
from nanochat_core.base.errors import HardwareError
from nanochat_core.base.torchrun import torchrun
from nanochat_core.train import checkpoint
from nanochat_core.train.saver import Saver

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
SIZE = 200_000


@pytest.fixture
def saver(tmp_path: Path) -> Saver:
    (tmp_path / "metrics.jsonl").write_text('{"event": "step", "step": 1}\n')
    return Saver(tmp_path / "checkpoints", world=World(), device=torch.device("cpu"), has_common_disk=True)


def begin(saver: Saver, step: int, tensors: dict[str, torch.Tensor], *, best: int | None = None) -> Path:
    records = saver.folder.parent / "metrics.jsonl"
    return saver.begin(step, tensors, state={"loss": 2.0}, records=records, best=best)


def test_what_changes_after_the_begin_is_not_in_the_checkpoint(saver: Saver, tmp_path: Path) -> None:
    weight = torch.arange(SIZE, dtype=torch.float32)
    expected = weight.clone()
    path = begin(saver, 1, {"w": weight})
    weight.zero_()
    (tmp_path / "metrics.jsonl").write_text("later\n")
    saver.wait()
    loaded = {"w": torch.empty(SIZE)}
    assert checkpoint.is_whole(path)
    assert checkpoint.load(path, loaded) == {"loss": 2.0, "step": 1}
    assert torch.equal(loaded["w"], expected)
    assert "later" not in (path / "metrics.jsonl").read_text()


def test_one_is_written_at_a_time_and_none_is_mixed_with_the_next(saver: Saver) -> None:
    weight = torch.zeros(SIZE)
    for step in range(1, 6):
        weight.fill_(step)
        path = begin(saver, step, {"w": weight})
        others = [part for part in saver.folder.glob("*.tmp*") if not part.name.startswith(path.name)]
        assert others == []
    saver.wait()
    for step in (4, 5):
        loaded = {"w": torch.empty(SIZE)}
        checkpoint.load(saver.folder / f"step-{step:08d}", loaded)
        assert torch.equal(loaded["w"], torch.full((SIZE,), float(step)))


def test_a_failed_write_is_told_once_and_the_next_one_may_work(saver: Saver) -> None:
    saver.folder.write_text("in the way")
    begin(saver, 1, {"w": torch.zeros(3)})
    with pytest.raises(HardwareError, match="step 1 was not written"):
        saver.wait()
    saver.folder.unlink()
    saver.raise_if_failed()
    path = begin(saver, 2, {"w": torch.zeros(3)})
    saver.wait()
    assert checkpoint.newest(saver.folder) == path


def test_nothing_is_put_into_the_folder_of_a_driver_that_took_over(saver: Saver, tmp_path: Path) -> None:
    saver.successor = tmp_path / "successor"
    begin(saver, 1, {"w": torch.zeros(3)})
    saver.wait()
    saver.successor.write_text("")
    begin(saver, 2, {"w": torch.zeros(3)})
    with pytest.raises(checkpoint.TakenOverError):
        saver.wait()
    assert [path.name for path in saver.folder.iterdir()] == ["step-00000001"]


# Every rank holds rows of two tables (an uneven one, and one with fewer rows than ranks) and all of a third.
SHARDED = """
import sys, torch
from pathlib import Path
from torch.distributed.tensor import DTensor, Shard, init_device_mesh
from nanochat_core.base import distributed
from nanochat_core.train import checkpoint
from nanochat_core.train.saver import Saver

do, folder = sys.argv[1], Path(sys.argv[2])
torch.set_num_threads(1)
world = distributed.world_from_environment()
distributed.start(world, torch.device("cpu"))
mesh = init_device_mesh("cpu", (world.size,))
whole = {"table": torch.arange(35.0).view(7, 5), "short": torch.tensor([[3.5, -0.0]]), "plain": torch.arange(9)}

def state(fill):
    tensors = {"plain": whole["plain"].clone() if fill else torch.zeros_like(whole["plain"])}
    for name in ("table", "short"):
        parts = whole[name].chunk(world.size)
        part = parts[world.rank].clone() if world.rank < len(parts) else whole[name][:0].clone()
        tensors[name] = DTensor.from_local(
            part if fill else torch.zeros_like(part), mesh, [Shard(0)], run_check=False,
            shape=whole[name].shape, stride=whole[name].stride(),
        )
    return tensors

for has_common_disk in (True, False):
    place = folder / ("together" if has_common_disk else "apart")
    if do == "save":
        saver = Saver(place, world=world, device=torch.device("cpu"), has_common_disk=has_common_disk)
        records = folder / "metrics.jsonl"
        records.touch()
        for step in (1, 2):
            saver.begin(step, state(True), state={"loss": 1.0}, records=records, best=None)
        saver.wait()
    else:
        found = state(False)
        assert checkpoint.load_newest(place, found, world=world, has_common_disk=has_common_disk) is not None
        for name, tensor in found.items():
            full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
            assert torch.equal(full, whole[name]) and torch.equal(full.signbit(), whole[name].signbit()), name
distributed.barrier(world)
distributed.stop()
"""


def on_ranks(num: int, do: str, folder: Path) -> None:
    (folder / "sharded.py").write_text(SHARDED)
    command = torchrun("sharded", do, str(folder), num_processes=num)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_parts_that_two_ranks_wrote_are_read_by_one(tmp_path: Path) -> None:
    on_ranks(2, "save", tmp_path)
    for place, num_files in (("together", 2), ("apart", 1)):
        path = tmp_path / place / "step-00000002"
        assert checkpoint.newest(tmp_path / place) == path
        assert len(list(path.glob("*.distcp"))) == num_files, "each rank writes where they share a disk"
        loaded = {"table": torch.zeros(7, 5), "short": torch.zeros(1, 2), "plain": torch.zeros(9, dtype=torch.int64)}
        assert checkpoint.load(path, loaded)["step"] == 2
        assert torch.equal(loaded["table"], torch.arange(35.0).view(7, 5))
        assert loaded["short"].tolist() == [[3.5, 0.0]]
        assert torch.equal(loaded["plain"], torch.arange(9))
        assert set(json.loads((path / "complete.json").read_text())) >= {"state.json", ".metadata"}


@pytest.mark.slow
@pytest.mark.torture
@pytest.mark.parametrize("num", [1, 2, 3])
def test_parts_are_read_by_any_number_of_ranks(num: int, tmp_path: Path) -> None:
    on_ranks(2, "save", tmp_path)
    on_ranks(num, "load", tmp_path)


def test_the_thread_that_writes_is_on_the_device_of_its_rank(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    begin(saver, 1, {"w": torch.zeros(4)})
    saver.wait()
    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: chosen.append((device, threading.current_thread())))
    saver.device = torch.device("cuda", 3)
    monkeypatch.setattr(Saver, "_copy", lambda self, tensors: (dict(tensors), None, False))
    begin(saver, 2, {"w": torch.zeros(4)})
    saver.wait()
    assert [(str(device), thread.name) for device, thread in chosen] == [("cuda:3", "checkpoint")]
