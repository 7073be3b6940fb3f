"""Runs the cells of a sweep, one at a time or several at once, within a limit of dollars.

How a cell is run is handed in, so the same lines serve Prefect tasks and bare functions. The store's locks keep cells
that run at once from making a shared step twice. The limit is looked at between cells: a training that has started is
finished, since half a model is worth nothing. A sweep of eight depths has more than fifty steps, which no terminal
shows: the display's rows are the cells, and each carries the progress of whatever step its cell is at.
"""

import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from nanochat_core import observe
from nanochat_core.base.units import count, dollars, duration
from nanochat_core.observe import Observer
from nanochat_core.pipeline.step import Ref
from nanochat_core.sweep.cells import Cell, LeftOut, Sweep, last_step
from nanochat_core.sweep.price import Meter

RunCell = Callable[[Cell], list[Ref]]
OnStep = Callable[[str, str], None]
POLL_S = 0.2  # a wait without a timeout would not notice Ctrl-C


@dataclass(frozen=True, kw_only=True)
class Execution:
    """What running a sweep gave."""

    refs: dict[str, list[Ref]]
    """By cell, in the sweep's order."""
    left_out: tuple[LeftOut, ...]
    """Cells that were not run because the money was spent."""
    spent_usd: float


def titles(sweep: Sweep) -> dict[str, str]:
    """A line per cell for the display."""
    return {cell.name: _title(cell) for cell in sweep.cells}


def run_cells(
    sweep: Sweep,
    run: RunCell,
    *,
    parallel: int = 1,
    max_cost_usd: float | None = None,
    on_step: OnStep = lambda cell, step: None,
) -> Execution:
    """Run every cell with `run`; `on_step` is told (cell, step) in the step's own context."""
    meter, stop = Meter(max_cost_usd), threading.Event()

    def watched(cell: Cell) -> list[Ref]:
        watcher = CellObserver(
            observe.current(), cell.name, title=_title(cell), last_step=last_step(cell.plan), stop=stop, on_step=on_step
        )
        observe.use(watcher)
        return run(cell)

    refs = _at_once(sweep, watched, parallel, meter, stop) if parallel > 1 else _in_turn(sweep, watched, meter)
    left_out = [LeftOut(name=cell.name, reason=_spent(meter)) for cell in sweep.cells if cell.name not in refs]
    ordered = {cell.name: refs[cell.name] for cell in sweep.cells if cell.name in refs}
    return Execution(refs=ordered, left_out=tuple(left_out), spent_usd=meter.spent_usd)


def _title(cell: Cell) -> str:
    return f"{count(cell.plan.pretrain.scaling_params)} parameters, {count(cell.plan.pretrain.num_tokens)} tokens"


def _spent(meter: Meter) -> str:
    return f"not run: {dollars(meter.spent_usd)} were spent, and the limit is {dollars(meter.max_cost_usd or 0.0)}"


def _in_turn(sweep: Sweep, run: RunCell, meter: Meter) -> dict[str, list[Ref]]:
    done: dict[str, list[Ref]] = {}
    for cell in sweep.cells:
        if meter.is_over:
            break
        done[cell.name] = contextvars.copy_context().run(run, cell)
        meter.add(cell.plan, done[cell.name])
    return done


def _at_once(sweep: Sweep, run: RunCell, parallel: int, meter: Meter, stop: threading.Event) -> dict[str, list[Ref]]:
    """Up to `parallel` cells in threads; each waits for the children that do the work."""
    done: dict[str, list[Ref]] = {}
    waiting, running = list(sweep.cells), dict[Future[list[Ref]], Cell]()
    with ThreadPoolExecutor(parallel, thread_name_prefix="cell") as pool:
        try:
            while running or (waiting and not meter.is_over):
                while waiting and len(running) < parallel and not meter.is_over:
                    cell = waiting.pop(0)
                    running[pool.submit(contextvars.copy_context().run, run, cell)] = cell
                for future in wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(future)
                    done[cell.name] = future.result()
                    meter.add(cell.plan, done[cell.name])
        except BaseException:
            stop.set()  # the other cells save a checkpoint; leaving the pool waits for them
            raise
    return done


class CellObserver:
    """Tells `inner` of a cell's steps under the cell's name.

    When `stop` is set, the next event raises KeyboardInterrupt in the cell's own thread: a training that is going on is
    then asked for a checkpoint, just as at Ctrl-C.
    """

    def __init__(
        self, inner: Observer, cell: str, *, title: str, last_step: str, stop: threading.Event, on_step: OnStep
    ) -> None:
        self.inner, self.cell, self.title, self.last_step = inner, cell, title, last_step
        self._stop, self._on_step = stop, on_step
        self._started_s: float | None = None
        self._is_all_cached = True
        self._headlines: dict[str, str] = {}

    def step_started(self, step: str, title: str) -> None:
        self._check()
        self._on_step(self.cell, step)
        if self._started_s is None:
            self._started_s = time.monotonic()
            self.inner.step_started(self.cell, self.title)
        self.inner.step_progress(self.cell, 0, 0, step)

    def step_progress(self, step: str, done: float, total: float, text: str) -> None:
        self._check()
        self.inner.step_progress(self.cell, done, total, f"{step}  {text}")

    def step_record(self, step: str, record: dict[str, Any]) -> None:
        self._check()
        self.inner.step_record(self.cell, record)

    def step_finished(self, step: str, *, is_cached: bool, seconds: float, headline: str) -> None:
        self._headlines[step] = headline
        if not is_cached:
            self._is_all_cached = False
            self.inner.note(f"{self.cell} {step} made in {duration(seconds)}")
        if step == self.last_step:
            shown = [self._headlines[name] for name in ("evaluate_base", "evaluate_core") if name in self._headlines]
            seconds = time.monotonic() - (self._started_s or time.monotonic())
            self.inner.step_finished(
                self.cell, is_cached=self._is_all_cached, seconds=seconds, headline=", ".join(shown)
            )

    def step_failed(self, step: str, message: str) -> None:
        self.inner.step_failed(self.cell, f"{step}: {message}")

    def note(self, text: str) -> None:
        self.inner.note(f"{self.cell}: {text}")

    def _check(self) -> None:
        if self._stop.is_set():
            raise KeyboardInterrupt
