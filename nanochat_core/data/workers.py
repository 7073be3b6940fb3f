"""Work on the row groups of parquet shards, in several processes, its results in order.

What works is made once in each process (`Maker`: a tokenizer loaded, an index mapped), then asked for each unit. The
results do not depend on the number of processes.
"""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

from nanochat_core.base.process import die_with_parent

MIN_UNITS_FOR_PROCESSES = 16  # below this, starting processes costs more than they save
Unit = tuple[Path, int]
"""A shard and one of its row groups."""
T = TypeVar("T")


def each_unit(
    make: Callable[..., Callable[[Unit], T]], told: tuple[Any, ...], units: Sequence[Unit], *, num_workers: int | None
) -> Iterator[T]:
    """What `make(*told)` returns for each unit, in order; `make` is a function of a module, `told` can be pickled."""
    workers = min(num_workers or os.cpu_count() or 1, len(units))
    if workers <= 1 or len(units) < MIN_UNITS_FOR_PROCESSES:
        yield from map(make(*told), units)
        return
    # spawn: forking a process that has threads (Arrow, torch, Prefect) can deadlock the child
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=_start_worker, initargs=(make, told)
    ) as pool:
        yield from pool.map(_in_worker, units, chunksize=1)


_work: Callable[[Unit], Any] | None = None  # one per worker process, set by its initializer


def _start_worker(make: Callable[..., Callable[[Unit], Any]], told: tuple[Any, ...]) -> None:
    global _work
    die_with_parent(signal.SIGKILL)
    _work = make(*told)


def _in_worker(unit: Unit) -> Any:
    assert _work is not None
    return _work(unit)
