"""A log that cannot be filled: of what is said over and over some passes, and says how much did not.

A training that logs each step would drown the page of its run, and strangers who are refused a thousand times a second
the disk of a server. So whoever speaks has a budget: the first records pass, then one now and then.
"""

import logging
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field


@dataclass
class Budget:
    """How many records of one speaker may still pass."""

    burst: int
    """Records that pass at once."""
    refill_s: float
    """One more for each such time."""
    most: float = float("inf")
    """In all, however long it takes."""
    seen_s: float = field(default_factory=time.monotonic)
    num_passed: int = 0
    num_left_out: int = 0

    def __post_init__(self) -> None:
        self._left: float = self.burst

    def take(self, now_s: float) -> bool:
        """Whether a record may pass now."""
        self._left = min(self.burst, self._left + (now_s - self.seen_s) / self.refill_s)
        self.seen_s = now_s
        if self._left < 1 or self.num_passed >= self.most:
            self.num_left_out += 1
            return False
        self._left -= 1
        self.num_passed += 1
        return True


class LogBudget(logging.Filter):
    """For a handler: `speaker` says whose budget a record is taken from, `new` makes one.

    How many were left out is a line of its own: a filter can hand on another record from Python 3.12 on only, and
    other handlers get this one too.
    """

    def __init__(
        self, handler: logging.Handler, speaker: Callable[[logging.LogRecord], Hashable], new: Callable[[], Budget]
    ) -> None:
        super().__init__()
        self._handler, self._speaker, self._new = handler, speaker, new
        self._budgets: dict[Hashable, Budget] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether there is room for the record; then the handler is told first what was left out before."""
        speaker = self._speaker(record)
        budget = self._budgets.get(speaker) or self._budgets.setdefault(speaker, self._new())
        if not budget.take(time.monotonic()):
            return False
        if budget.num_left_out:
            said = {"msg": f"{budget.num_left_out:,} lines before the next one left out", "args": (), "exc_info": None}
            budget.num_left_out = 0
            self._handler.acquire()
            try:
                self._handler.emit(logging.makeLogRecord({**record.__dict__, **said}))
            finally:
                self._handler.release()
        return True
