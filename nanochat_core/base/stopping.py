"""How a command of ours is told to stop.

Ctrl-C, SIGTERM, a hang-up of the terminal and SIGUSR1, by which schedulers tell that a job's time is nearly over, mean
the same: save a checkpoint, then end. Under nohup a hang-up means
nothing; what is written to a terminal that is gone is lost (nanochat_core/cli/output.py), and is no error.
"""

import signal
import sys
import threading
from types import FrameType
from typing import Any

AGAIN_S = 0.05
_told: list[int] = []


def stop_on_signals() -> None:
    """From here on these signals raise KeyboardInterrupt; one that a parent made us deaf to stays unheard.

    SIGTERM is always heard: schedulers send it before they kill. A signal that meets a destructor, where Python drops
    what is raised, is told again a moment later.
    """
    sys.unraisablehook = _not_in_vain
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if number == signal.SIGTERM or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def stop_quietly() -> None:
    """Ctrl-C raises KeyboardInterrupt, also where this process began with a handler of its own."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def was_told() -> bool:
    """Whether somebody wants this process to stop: an error that follows may be nothing but that."""
    return bool(_told)


def forget() -> None:
    """For tests: nobody has said anything."""
    _told.clear()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    _told.append(number)
    raise KeyboardInterrupt


def _not_in_vain(dropped: Any) -> None:
    """Python's hook for what nobody can catch: KeyboardInterrupt and Prefect's TerminationSignal stand for a signal."""
    if isinstance(dropped.exc_value, Exception | SystemExit | GeneratorExit | None):
        sys.__unraisablehook__(dropped)
        return
    number = getattr(dropped.exc_value, "signal", signal.SIGINT)
    again = threading.Timer(AGAIN_S, signal.pthread_kill, (threading.main_thread().ident, number))
    again.daemon = True
    again.start()
