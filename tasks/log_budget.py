"""At most hundreds of log records per run reach Prefect's server, however much is logged.

A server keeps every record in its database and the page of a run shows them all. Warnings have a budget of their own,
so that chatter cannot use it up. Files and terminals get everything.
"""

import logging

from prefect.context import FlowRunContext, TaskRunContext
from prefect.logging.handlers import APILogHandler

from nanochat_core.base.log_budget import Budget, LogBudget

BURST, REFILL_S = 200, 60.0
MOST = 400  # of one run, whatever its length; for warnings and for the rest


def new_budget() -> Budget:
    """What one run may say in records of one kind."""
    return Budget(BURST, REFILL_S, MOST)


def install() -> None:
    """Put the budget before every handler that sends to the server; again is no harm."""
    loggers = [logger for logger in logging.root.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    handlers = {handler for logger in loggers for handler in logger.handlers if isinstance(handler, APILogHandler)}
    for handler in handlers:
        if not any(isinstance(known, LogBudget) for known in handler.filters):
            handler.addFilter(LogBudget(handler, run_and_kind, new_budget))


def run_and_kind(record: logging.LogRecord) -> tuple[str, bool]:
    """Whose record it is, and whether it is a warning."""
    task, flow = TaskRunContext.get(), FlowRunContext.get()
    run = str(flow.flow_run.id) if flow is not None and flow.flow_run is not None else ""
    if task is not None:
        run = str(task.task_run.flow_run_id)
    return run, record.levelno >= logging.WARNING
