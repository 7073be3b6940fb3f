"""A log that strangers cannot fill: what is said over and over is counted, and said once with its number."""

import logging
import time

WINDOW_S = 60.0
LINES_PER_WINDOW = 5


class LogBudget(logging.Filter):
    """For a handler: each place in the code may speak a few times a minute; the next time it says how often it was kept
    from it.
    """

    def __init__(self, *, lines: int = LINES_PER_WINDOW, window_s: float = WINDOW_S) -> None:
        super().__init__()
        self.lines, self.window_s = lines, window_s
        self._spoken: dict[tuple[str, int], tuple[float, int]] = {}  # place -> (its window's start, lines in it)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written; the first of a window tells of those that were not."""
        place, now = (record.pathname, record.lineno), time.monotonic()
        started, count = self._spoken.get(place, (now, 0))
        if now - started >= self.window_s:
            if count > self.lines:
                record.msg, record.args = f"{record.getMessage()} (and {count - self.lines} like it before)", ()
            started, count = now, 0
        self._spoken[place] = started, count + 1
        return count < self.lines
