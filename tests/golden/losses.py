"""The losses of the first 20 steps of a small training in fp32, on one rank and on two.

The whole trainer has a part in them: initial weights, order of the rows, forward and backward pass, the exchange
between ranks, both optimizers, all schedules. A change that is to alter them writes the files anew, and says so:

    OMP_NUM_THREADS=1 .venv/bin/python tests/golden/losses.py --write

Matrix products round differently on another kind of processor or with another torch, so the files name both.
"""

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from gloo_ranks import on_ranks

from nanochat_core.base.distributed import World
from nanochat_core.base.records import RECORDS_NAME, read_records
from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT
from nanochat_core.optim.groups import OptimConfig
from nanochat_core.optim.optimizer import MuonAdamW
from nanochat_core.schedules import Schedule
from nanochat_core.train.loop import Training, TrainingLoop
from nanochat_core.train.rows import RowPrediction
from nanochat_core.train.settings import TrainJob, TrainPaths, TrainRuntime, TrainSettings

FOLDER = Path(__file__).resolve().parent
NUM_STEPS = 20
MODEL = GPTConfig(sequence_len=32, vocab_size=96, n_layer=3, n_head=2, n_kv_head=1, n_embd=64)
# warm-up, plateau and warm-down, rising and falling momentum, decay: every branch within 20 steps
SCHEDULE = Schedule(num_steps=NUM_STEPS, warmup_steps=4, warmdown_frac=0.4, final_lr_frac=0.05, momentum_warmup_steps=8)
# low rates: at higher ones a difference in the last bit grows to a thousandth within ten steps, of other kernels too
OPTIM = {"weight_decay": 0.28, "lr_scale": 0.05}
TOTAL_BATCH_ROWS, DEVICE_BATCH_ROWS = 8, 2


class Rows:
    """Rows in which the next id mostly follows from the last one."""

    num_rows, row_len = 64, MODEL.sequence_len + 1

    def read(self, row: int) -> tuple[np.ndarray, None]:
        generator = np.random.Generator(np.random.PCG64([3, row]))
        ids = np.empty(self.row_len, dtype=np.int64)
        ids[0] = generator.integers(MODEL.vocab_size)
        for at in range(1, self.row_len):
            is_random = generator.random() < 0.2
            ids[at] = generator.integers(MODEL.vocab_size) if is_random else (5 * ids[at - 1] + 7) % MODEL.vocab_size
        return ids, None


def train(world: World, arguments: dict[str, Any]) -> dict[str, Any]:
    """The real loop on this rank; the first rank returns the losses."""
    work = Path(arguments["work"]) / f"node-{world.rank}"
    work.mkdir()
    job = _job(work, num_processes=world.size)
    model = GPT(MODEL)
    model.init_weights(job.settings.seed)
    optimizer = MuonAdamW(model, OptimConfig(**OPTIM), world=world, is_lazy=True)
    rows = RowPrediction(
        model, Rows(), job, world=world, batch_rows=DEVICE_BATCH_ROWS, bos=None,
        before_last=optimizer.reduce_in_next_backward,
    )  # fmt: skip
    training = Training(model, optimizer, rows, validate=dict)
    TrainingLoop(training, job, world=world, device=torch.device("cpu"), is_stopping=lambda: False).run()
    if not world.is_main:
        return {}
    return {"losses": [record["loss"] for record in read_records(work / RECORDS_NAME) if record["event"] == "step"]}


def _job(work: Path, *, num_processes: int) -> TrainJob:
    settings = TrainSettings(
        model=MODEL, optim=OPTIM, schedule=SCHEDULE, total_batch_rows=TOTAL_BATCH_ROWS, seed=11,
        validate_every_steps=None, validation_rows=0, dtype="fp32",
    )  # fmt: skip
    runtime = TrainRuntime(
        device="cpu", num_processes=num_processes, device_batch_rows=DEVICE_BATCH_ROWS, num_threads=1,
        checkpoint_every_s=1e6, log_every_steps=1,
    )  # fmt: skip
    folder = str(work)
    paths = TrainPaths(
        rows=folder, tokenizer=folder, base=None, checkpoints=str(work / "checkpoints"), work=folder, out=folder
    )
    return TrainJob(entry="none", settings=settings, runtime=runtime, paths=paths)


def measure(num_ranks: int, folder: Path) -> dict[str, Any]:
    """The losses here, and what they depend on besides our code."""
    found = on_ranks(num_ranks, train, folder / "ranks", work=str(folder))
    return {"num_ranks": num_ranks, **machine(), "losses": found[0]["losses"]}


def machine() -> dict[str, str]:
    """What decides how matrix products round."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "torch": torch.__version__.partition("+")[0],
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": names[0] if names else platform.machine(),
    }


def path_of(num_ranks: int) -> Path:
    """Where the losses of so many ranks are kept."""
    return FOLDER / f"losses-{num_ranks}-ranks.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="replace the files")
    options = parser.parse_args()
    for num_ranks in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            found = json.dumps(measure(num_ranks, Path(folder)), indent=1) + "\n"
        if options.write:
            path_of(num_ranks).write_text(found)
        print(found, end="")


if __name__ == "__main__":
    main()
