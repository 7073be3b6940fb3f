"""At most hundreds of log records per run reach Prefect's server, however much is logged.

A server keeps every record in its database and the page of a run shows them all, so a training that logs each step
would drown both. The first records pass, then one now and then; warnings have a budget of their own, so that chatter
cannot use it up. A record that passes says how many were left out before it. Files and terminals get everything.
"""

import logging
import time
from dataclasses import dataclass, field

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

BURST = 200  # records that pass at once
REFILL_S = 60.0  # one more for each such time
MOST = 400  # of one run, whatever its length; for warnings and for the rest


@dataclass
class Budget:
    """How many records may still pass."""

    tokens: float = BURST
    seen_s: float = field(default_factory=time.monotonic)
    num_passed: int = 0
    num_left_out: int = 0

    def take(self, now_s: float) -> bool:
        """Whether a record may pass now."""
        self.tokens = min(BURST, self.tokens + (now_s - self.seen_s) / REFILL_S)
        self.seen_s = now_s
        if self.tokens < 1 or self.num_passed >= MOST:
            self.num_left_out += 1
            return False
        self.tokens -= 1
        self.num_passed += 1
        return True


class LogBudget(logging.Filter):
    """The budgets of this process's runs, as a filter of the handler that sends records to the server."""

    def __init__(self) -> None:
        super().__init__()
        self._budgets: dict[tuple[str, bool], Budget] = {}

    def filter(self, record: logging.LogRecord) -> bool | logging.LogRecord:
        """The record, if there is room for it; with a word on what was left out before."""
        budget = self._budgets.setdefault((_run_id(), record.levelno >= logging.WARNING), Budget())
        if not budget.take(time.monotonic()):
            return False
        if not budget.num_left_out:
            return True
        told = logging.makeLogRecord(record.__dict__)  # other handlers get the record as it was
        told.msg, told.args = f"{record.getMessage()} ({budget.num_left_out:,} lines before it left out)", ()
        budget.num_left_out = 0
        return told


def install() -> None:
    """Put the budget before every handler that sends to the server; again is no harm."""
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    handlers = {handler for logger in loggers for handler in logger.handlers if isinstance(handler, APILogHandler)}
    for handler in handlers:
        if not any(isinstance(known, LogBudget) for known in handler.filters):
            handler.addFilter(_shared)


def _run_id() -> str:
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    if task is not None:
        return str(task.task_run.flow_run_id)
    return str(flow.flow_run.id) if flow is not None and flow.flow_run is not None else ""


_shared = LogBudget()
