"""How the server listens: uvicorn's settings, with a `Door` before the application and a log that has a budget."""

import logging
import os
import resource
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import uvicorn

from nanochat_core.base.log_budget import Budget, LogBudget
from nanochat_core.serve.app import create_app
from nanochat_core.serve.connections import Door

if TYPE_CHECKING:
    from nanochat_core.serve.data import DataSource
    from nanochat_core.serve.pool import ModelPool

BACKLOG = 128  # connections that one turn of the event loop may take on before any is looked at
KEPT_DESCRIPTORS = 64  # for models, logs and what else is opened
LEAST_CONNECTIONS = 8
LINES_AT_ONCE, LINE_S = 5, 12.0  # of each place in the code: five lines, then one in twelve seconds


def server_config(
    pool: "ModelPool", *, token: str | None, host: str = "127.0.0.1", port: int = 0, data: "DataSource | None" = None
) -> uvicorn.Config:
    """uvicorn, set up for these models; the caller binds the socket."""
    limits = pool.limits
    door = Door(limits, most=_places())
    app: Callable[..., Any] = create_app(pool, token=token, data=data)
    return uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False, server_header=False,
        proxy_headers=False,  # X-Forwarded-For would give whoever writes it any address, and with it another's turn
        # our own reader of HTTP, whether or not httptools is installed; nothing here speaks WebSocket
        http=door.protocol(), ws="none", lifespan="on", backlog=min(BACKLOG, door.most),
        timeout_keep_alive=int(limits.keep_alive_s), timeout_graceful_shutdown=int(limits.shutdown_s) + 1,
        h11_max_incomplete_event_size=limits.max_header_bytes,
    )  # fmt: skip


def limit_log() -> None:
    """Give every handler of the process a budget: strangers cannot fill the log."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(LogBudget(handler, _place, lambda: Budget(LINES_AT_ONCE, LINE_S)))


def _place(record: logging.LogRecord) -> tuple[str, int]:
    return record.pathname, record.lineno


def _places() -> int:
    """Connections that the descriptors which are left suffice for, with one turn's arrivals and some to spare."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 1 << 20
    try:
        num_open = len(os.listdir("/dev/fd"))
    except OSError:
        num_open = KEPT_DESCRIPTORS
    return max(LEAST_CONNECTIONS, soft - num_open - KEPT_DESCRIPTORS - min(BACKLOG, soft // 4))
