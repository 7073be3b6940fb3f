"""One rank of a training: `torchrun -m nanochat_core.train.worker plan.json`.

Reads the plan, trains, writes the model and result.json. The result's status tells the supervisor what to do; SIGTERM
and SIGINT mean: save a checkpoint, then stop as "preempted". Of ranks that fail one after the other, because they lost
each other, the first one's reason counts.
"""

import gc
import logging
import os
import pkgutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import torch

from nanochat_core.base import distributed, files, redaction
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.hardware import num_threads, pick_device, repeat_exactly
from nanochat_core.base.process import die_with_parent, exit_after_parent
from nanochat_core.base.records import RESULT_NAME, failure, told, write_result
from nanochat_core.model.host_memory import keep_freed_memory
from nanochat_core.model.weights import save_model
from nanochat_core.train.examine import examine
from nanochat_core.train.loop import NonFiniteLossError, TrainingLoop
from nanochat_core.train.settings import TrainJob

EXIT_CODES = {"completed": 0, "error": 2, "out_of_memory": 10, "non_finite": 11, "preempted": 12, "crashed": 1}
# How torch's CPU allocator and Python say that there is no memory: the first has no class of its own.
NO_MEMORY = ("can't allocate memory", "out of memory", "cannot allocate memory")
ORPHAN_S = 12.0  # for a last checkpoint when the supervisor or torchrun has died


def main() -> None:
    redaction.install()
    die_with_parent()
    exit_after_parent(grace_s=ORPHAN_S)
    is_stopping = _stop_on_signals()
    job = TrainJob.load(Path(sys.argv[1]))
    files.adopt_rights(Path(job.paths.checkpoints))  # they lie in the store, which may be a group's
    warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # DCP, at every save of a single process
    try:
        result = _train(job, is_stopping)
    except NanochatError as error:
        result = failure(error)
    except NonFiniteLossError as error:
        result = {"status": "non_finite", "message": str(error)}
    except Exception as error:
        result = told(error, near=Path(job.paths.work))
        if is_out_of_memory(error):  # with fewer rows in a pass it may fit
            message = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            result = {"status": "out_of_memory", "message": message}
    _write_result(job, result)
    _leave(EXIT_CODES[result["status"]], is_together=result["status"] in ("completed", "preempted"))


def _leave(code: int, *, is_together: bool) -> NoReturn:
    """End this process; where it failed alone, without a word to the other ranks.

    To leave the group, and on a GPU to take down the interpreter as well, waits for kernels and peers that wait for us:
    ten minutes of NCCL's. The supervisor ends the other ranks as soon as this one is gone.
    """
    if is_together:
        distributed.stop()
        sys.exit(code)
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine where the device is a processor, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(words in text for words in NO_MEMORY)


def _stop_on_signals() -> Callable[[], bool]:
    received: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # torchrun passes on whichever it got
        signal.signal(number, lambda sig, frame: received.append(sig))
    return lambda: bool(received)


def _train(job: TrainJob, is_stopping: Callable[[], bool]) -> dict[str, Any]:
    world = distributed.world_from_environment()
    device = pick_device(job.runtime.device, local_rank=world.local_rank)
    torch.set_num_threads(num_threads(job.runtime.num_threads, num_processes=job.runtime.num_processes))
    if job.runtime.deterministic:
        repeat_exactly()
    if device.type == "cuda":
        # before CUDA is used: pieces of several sizes, as of a search for rows, then share what is freed
        os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
        torch.cuda.set_device(device)
    elif device.type == "cpu":
        keep_freed_memory()
    distributed.start(world, device)
    training = pkgutil.resolve_name(job.entry)(job, world=world, device=device)
    loop = TrainingLoop(training, job, world=world, device=device, is_stopping=is_stopping)
    gc.freeze()  # what is there stays: collections in a step, at another time on each rank, need not look at it
    try:
        is_done = loop.run()
    except NonFiniteLossError as error:
        told = examine(training, job, loop.progress.step, world=world)
        raise NonFiniteLossError(f"{error}; {told}") from error
    if not is_done:
        return {
            "status": "preempted",
            "message": f"stopped after step {loop.progress.step}",
            "step": loop.progress.step,
        }
    state = training.optimizer.state_dict()  # of several ranks every one has a part of it
    if world.is_main:
        save_model(Path(job.paths.out), training.model, state)
    return {
        "status": "completed",
        "num_steps": loop.progress.step,
        "smooth_loss": loop.progress.smooth_loss,
        "train_s": loop.progress.train_s,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "dtype": str(training.model.compute_dtype).removeprefix("torch."),
        **loop.progress.last_validation,
    }


def _write_result(job: TrainJob, result: dict[str, Any]) -> None:
    """Each rank may fail alone, and any that fails says why; of a good end the first rank of each node tells."""
    is_good = result["status"] in ("completed", "preempted")
    if is_good and distributed.world_from_environment().local_rank != 0:
        return
    if result["status"] == "crashed" and (Path(job.paths.work) / RESULT_NAME).exists():
        return  # a rank before us said what happened; ours is that it is gone
    write_result(Path(job.paths.work), result)


if __name__ == "__main__":
    main()
