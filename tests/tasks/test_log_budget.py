"""How many log records of a run reach the server."""

import logging

import pytest

from tasks import log_budget
from tasks.log_budget import BURST, MOST, REFILL_S, Budget, LogBudget


def test_a_burst_passes_then_one_now_and_then() -> None:
    budget = Budget(seen_s=0.0)
    assert sum(budget.take(0.0) for _ in range(10_000)) == BURST
    assert sum(budget.take(REFILL_S * minute) for minute in range(1, 11) for _ in range(100)) == 10


def test_a_month_of_lines_stays_under_the_most() -> None:
    budget = Budget(seen_s=0.0)
    assert sum(budget.take(second * 1.0) for second in range(0, 30 * 86_400, 20)) == MOST


def record(text: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("nanochat_core.x", level, __file__, 1, text, (), None)


def test_chatter_does_not_use_up_the_warnings() -> None:
    budget = LogBudget()
    passed = [bool(budget.filter(record("step"))) for _ in range(BURST + 100)]
    assert passed.count(True) == BURST
    assert budget.filter(record("disk is full", logging.WARNING))


def test_what_was_left_out_is_said_and_other_handlers_see_the_record_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = LogBudget()
    for number in range(BURST + 7):
        budget.filter(record(f"step {number}"))
    monkeypatch.setattr(log_budget, "REFILL_S", 1e-9)
    last = record("100% done")
    told = budget.filter(last)
    assert isinstance(told, logging.LogRecord)
    assert told.getMessage() == "100% done (7 lines before it left out)"
    assert last.getMessage() == "100% done"
