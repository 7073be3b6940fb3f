"""How many log records of a run reach the server."""

import logging
from collections.abc import Callable

from nanochat_core.base.log_budget import Budget, LogBudget
from tasks.log_budget import BURST, MOST, REFILL_S, new_budget, run_and_kind


def test_a_burst_passes_then_one_now_and_then() -> None:
    budget = Budget(BURST, REFILL_S, MOST, seen_s=0.0)
    assert sum(budget.take(0.0) for _ in range(10_000)) == BURST
    assert sum(budget.take(REFILL_S * minute) for minute in range(1, 11) for _ in range(100)) == 10


def test_a_month_of_lines_stays_under_the_most() -> None:
    budget = Budget(BURST, REFILL_S, MOST, seen_s=0.0)
    assert sum(budget.take(second * 1.0) for second in range(0, 30 * 86_400, 20)) == MOST


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("nanochat_core.x", level, __file__, 1, text, (), None)


class Kept(logging.Handler):
    """Keeps what reaches it."""

    def __init__(self, new: Callable[[], Budget] = new_budget) -> None:
        super().__init__()
        self.said: list[str] = []
        self.addFilter(LogBudget(self, run_and_kind, new))

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())


def test_chatter_does_not_use_up_the_warnings() -> None:
    kept = Kept()
    for _ in range(BURST + 100):
        kept.handle(record("step"))
    assert kept.said == ["step"] * BURST
    kept.handle(record("disk is full", logging.WARNING))
    assert kept.said[-1] == "disk is full"


def test_what_was_left_out_is_said_and_other_handlers_see_the_record_as_it_was() -> None:
    of_one = new_budget()
    kept = Kept(lambda: of_one)
    for number in range(BURST + 7):
        kept.handle(record(f"step {number}"))
    of_one.refill_s = 1e-9
    last = record("100% done")
    kept.handle(last)
    assert kept.said[-2:] == ["7 lines before the next one left out", "100% done"]
    assert last.getMessage() == "100% done"
