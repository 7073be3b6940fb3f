"""Starts the ranks of a training with torchrun, as a supervised child.

The command works by hand as well: python -m torch.distributed.run ... -m nanochat_core.train.worker plan.json
"""

import os
from collections.abc import Callable
from pathlib import Path

from nanochat_core.base.child import run_child
from nanochat_core.base.records import Record
from nanochat_core.base.torchrun import Nodes, torchrun
from nanochat_core.train.settings import TrainJob


def run_training(
    job: TrainJob,
    on_record: Callable[[Record], None],
    nodes: Nodes | None = None,
    *,
    check: Callable[[], None] = lambda: None,
) -> Record:
    """Train to the end and return the result; raises the error that the child's result or exit names.

    `check` is called several times a second; when it raises, the ranks are stopped.
    """
    work = Path(job.paths.work)
    job.save(work / "plan.json")
    threads = job.runtime.num_threads or max(1, (os.cpu_count() or 1) // job.runtime.num_processes)
    environment = {"OMP_NUM_THREADS": str(threads)}
    return run_child(
        command(job, work / "plan.json", nodes), work, on_record=on_record, environment=environment, check=check
    )


def command(job: TrainJob, plan: Path, nodes: Nodes | None = None) -> list[str]:
    """torchrun for the job's ranks on this machine."""
    return torchrun("nanochat_core.train.worker", str(plan), num_processes=job.runtime.num_processes, nodes=nodes)
