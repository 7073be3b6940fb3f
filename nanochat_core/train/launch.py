"""Starts the ranks of a training as a supervised child, and tries again what another try can mend.

Too little memory: again with half the rows per pass; ranks that hang: again from the last checkpoint. What it took is
booked (timesheet.py), and a budget stops it.

By hand: python -m nanochat_core.base.one_node --nproc-per-node=2 -m nanochat_core.train.worker plan.json
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from nanochat_core.base.child import OutOfMemoryError, PreemptedError, run_child
from nanochat_core.base.environment import loopback
from nanochat_core.base.errors import UnreadableError
from nanochat_core.base.records import Record, read_records
from nanochat_core.base.torchrun import Nodes, command_of_ranks
from nanochat_core.train.heartbeat import HungError, Watch
from nanochat_core.train.settings import TrainJob
from nanochat_core.train.timesheet import NAME as TIMESHEET
from nanochat_core.train.timesheet import Budget, BudgetSpentError, Timesheet, tries_of

MAX_HANGS = 3  # a machine that hangs again and again wants a person


def run_booked(
    job: TrainJob,
    on_record: Callable[[Record], None],
    nodes: Nodes,
    *,
    sheet: Path,
    check: Callable[[], None],
    note: Callable[[str], None],
    close: Callable[[], None],
    older: Callable[[], bool] = lambda: False,
) -> Record:
    """`run_training` with its time booked in the timesheet `sheet`, within the job's budget.

    `close` is called at the end, however that comes, and its time is booked too. The result tells of all attempts:
    `gpu_s`, and `tries` with their seconds by bucket.
    """
    base = Path(job.paths.base) / "log" / TIMESHEET if job.paths.base else None
    book = Timesheet(sheet, world_size=nodes.num * job.runtime.num_processes, base=base)
    runtime = job.runtime
    budget = Budget(book, max_cost_usd=runtime.max_cost_usd, usd_per_gpu_hour=runtime.usd_per_gpu_hour)

    def on_booked(record: Record) -> None:
        book.record(record)
        on_record(record)

    def check_all() -> None:
        book.alive()
        budget.check()
        check()

    how = "failed"
    try:
        budget.check()  # an attempt that would be stopped at once is not worth its start
        result = run_training(job, on_booked, nodes, check=check_all, note=note, older=older)
        how = "completed"
    except (BudgetSpentError, PreemptedError, KeyboardInterrupt):
        how = "stopped"
        raise
    finally:
        close()
        book.done(how)
    return {**result, "gpu_s": book.gpu_s, "tries": [dataclasses.asdict(one) for one in tries_of(read_records(sheet))]}


def run_training(
    job: TrainJob,
    on_record: Callable[[Record], None],
    nodes: Nodes | None = None,
    *,
    check: Callable[[], None] = lambda: None,
    note: Callable[[str], None] = lambda text: None,
    older: Callable[[], bool] = lambda: False,
) -> Record:
    """Train to the end and return the result; raises the error that the child's result or exit names.

    `check` is called several times a second; when it raises, the ranks are stopped. `note` hears what went wrong and
    is tried again: too little memory with half the rows per pass, ranks that hang from the last checkpoint. `older`
    brings a checkpoint from elsewhere where none of those that are here can be read, and says whether it did.
    """
    num_hangs, chosen_rows = 0, list[int]()

    def on_any(record: Record) -> None:
        if record["event"] == "start" and "device_batch_rows" in record:
            chosen_rows[:] = [record["device_batch_rows"]]
        on_record(record)

    while True:
        try:
            return _run_once(job, on_any, nodes, check=check)
        except OutOfMemoryError as error:
            rows = job.runtime.device_batch_rows or next(iter(chosen_rows), None)
            if rows in (None, 1):
                raise
            assert rows is not None
            job = dataclasses.replace(job, runtime=dataclasses.replace(job.runtime, device_batch_rows=rows // 2))
            note(f"out of memory with {rows} rows per pass ({error.message}); going on with {rows // 2}: the batch of "
                 f"{job.settings.total_batch_rows} rows stays as it is")  # fmt: skip
        except UnreadableError as error:
            if not older():
                raise
            note(f"{error.message}; an older one is looked at")
        except HungError as error:
            num_hangs += 1
            if num_hangs > MAX_HANGS:
                raise
            note(f"{error.message}; the ranks were stopped ({error.hint}), and start again from the last checkpoint")


def _run_once(
    job: TrainJob, on_record: Callable[[Record], None], nodes: Nodes | None, *, check: Callable[[], None]
) -> Record:
    work = Path(job.paths.work)
    plan = work / "plan.json"
    job.save(plan)
    threads = job.runtime.num_threads or max(1, (os.cpu_count() or 1) // job.runtime.num_processes)
    watch = Watch(work, plan=plan)

    def check_all() -> None:
        watch.check()
        check()

    environment = {"OMP_NUM_THREADS": str(threads), **(loopback() if nodes is None or nodes.num == 1 else {})}
    num = job.runtime.num_processes
    command = command_of_ranks("nanochat_core.train.worker", str(plan), num_processes=num, nodes=nodes)
    return run_child(command, work, on_record=on_record, environment=environment, check=check_all)
