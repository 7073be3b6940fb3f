"""How long a command waits for Prefect: never longer than it waits for its own work.

Prefect's client tries again for minutes, in its own threads and ours, when its server is gone; a Ctrl-C in between is
caught, reported to that server, and lost. A thread here looks on: where no step is at work and the command was told to
stop, or its server has died, it interrupts the main thread until Prefect lets go of it.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from flows.server import EmbeddedServer
from nanochat_core.base.stopping import was_told

TOLD_S = 5  # for Prefect to take down that the run was stopped
GONE_S = 10  # for a server that has died, and what waits for it
AGAIN_S = 2
TICK_S = 1.0


class GaveUpError(BaseException):
    """Prefect was not waited for any longer. No Exception: nothing in between is to handle it."""


@contextlib.contextmanager
def bounded(server: EmbeddedServer, is_working: Callable[[], bool]) -> Iterator[None]:
    """Within the block the main thread is not held by a server that is gone; `is_working`: whether a step is."""
    is_over = threading.Event()
    before = signal.signal(signal.SIGUSR2, _give_up)
    watch = threading.Thread(target=_watch, args=(server, is_working, is_over), name="patience", daemon=True)
    watch.start()
    try:
        yield
    finally:
        is_over.set()
        watch.join()
        signal.signal(signal.SIGUSR2, before)


def _give_up(_number: int, _frame: FrameType | None) -> None:
    if was_told():
        raise KeyboardInterrupt
    raise GaveUpError


def _watch(server: EmbeddedServer, is_working: Callable[[], bool], is_over: threading.Event) -> None:
    idle_s, deaths = 0.0, server.num_deaths
    while not is_over.wait(TICK_S):
        if server.num_deaths != deaths:
            idle_s, deaths = 0.0, server.num_deaths
        idle_s = 0.0 if is_working() else idle_s + TICK_S
        limit_s = TOLD_S if was_told() else GONE_S if server.num_deaths else None
        if limit_s is not None and idle_s >= limit_s:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
            idle_s = limit_s - AGAIN_S
