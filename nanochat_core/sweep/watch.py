"""One line per cell in the display of a sweep, whatever the steps are inside it; and how a cell in a thread is stopped.

A sweep of eight depths has more than fifty steps, which no terminal shows. The display's rows are the cells: a row
carries the progress of whatever step its cell is at, and each step that was made is noted.
"""

import threading
import time
from collections.abc import Callable
from typing import Any

from nanochat_core.base.units import duration
from nanochat_core.observe import Observer

OnStep = Callable[[str, str], None]


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
