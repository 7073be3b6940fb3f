"""The number of ranks may change at every start: the same batches, the same state when it is loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT

from nanochat_core.base.distributed import World
from nanochat_core.base.torchrun import torchrun
from nanochat_core.train import pretrain
from nanochat_core.train.settings import TrainJob

pytestmark = [pytest.mark.slow, pytest.mark.torture, pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]

# One attempt of a rank: what it holds after loading and at its end, gathered, and the rows that it read in between.
ATTEMPT = """
import hashlib, json, sys, torch
from pathlib import Path
from nanochat_core.base import distributed
from nanochat_core.train import pretrain
from nanochat_core.train.loop import TrainingLoop
from nanochat_core.train.settings import TrainJob

job, stop_at, out = TrainJob.load(Path(sys.argv[1])), int(sys.argv[2]), Path(sys.argv[3])
torch.set_num_threads(1)
world = distributed.world_from_environment()
distributed.start(world, torch.device("cpu"))
training = pretrain.build(job, world=world, device=torch.device("cpu"))
loop = TrainingLoop(training, job, world=world, device=torch.device("cpu"),
                    is_stopping=lambda: loop.progress.step == stop_at)

def digest():
    state = training.optimizer.state_dict()
    state |= dict(training.model.named_parameters())
    content = hashlib.sha256()
    for name in sorted(state):
        content.update(name.encode() + state[name].detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()

loop._resume()
told = {"began": loop.progress.step, "loaded": digest(), "rows": {}}
read, source = training.objective.rows.read, training.objective.rows

def note_and_read(row):
    told["rows"].setdefault(str(loop.progress.step), []).append(int(row))
    return read(row)

source.read = note_and_read
loop.run()
told |= {"ended": loop.progress.step, "left": digest()}
(out / f"{world.rank}.json").write_text(json.dumps(told))
distributed.barrier(world)
distributed.stop()
"""


def attempt(job: TrainJob, *, num: int, stop_at: int, folder: Path) -> list[dict]:
    """One attempt on `num` ranks, until so many steps are taken; what each rank tells."""
    out = folder / f"told-{stop_at}"
    out.mkdir()
    (folder / "attempt.py").write_text(ATTEMPT)
    job.save(folder / "plan.json")
    arguments = (str(folder / "plan.json"), str(stop_at), str(out))
    alone = [sys.executable, str(folder / "attempt.py"), *arguments]
    command = torchrun("attempt", *arguments, num_processes=num) if num > 1 else alone
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{folder}:{ROOT}"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"{rank}.json").read_text()) for rank in range(num)]


def test_from_one_rank_to_two_and_back_batches_and_loaded_state_are_the_same(pretrain_job, tmp_path: Path) -> None:
    order = pretrain.build(pretrain_job(tmp_path / "x"), world=World(), device=torch.device("cpu")).objective.order
    left = None
    for num, stop_at in ((1, 4), (2, 8), (1, 12)):
        job = pretrain_job(tmp_path, num_processes=num, device_batch_rows=8 // num)
        told = attempt(job, num=num, stop_at=stop_at, folder=tmp_path)
        assert [one["began"] for one in told] == [stop_at - 4] * num
        assert [one["ended"] for one in told] == [stop_at] * num
        if left is not None:
            assert {one["loaded"] for one in told} == {left}, "the gathered state is what the ranks before it left"
        assert len({one["left"] for one in told}) == 1
        left = told[0]["left"]
        for step in range(stop_at - 4, stop_at):
            by_rank = [one["rows"][str(step)] for one in told]
            assert np.array_equal(np.stack(by_rank, axis=1).reshape(-1), order.rows_at(step))
