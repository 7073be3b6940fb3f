"""One supervised child process: its records followed, its output in a file, its end told truthfully.

Output goes to a file, never a pipe: a pipe's reader may die first, and the child would then die printing, just when it
should save. The child gets a parent-death signal; when the caller is interrupted it is asked to save and stop. So no
child outlives this process, and the process that orchestrates never touches the GPU.
"""

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import gettempdir

from nanochat_core.base import gpu_slots
from nanochat_core.base.environment import for_child
from nanochat_core.base.errors import (
    ConfigError,
    CorruptError,
    HardwareError,
    MissingError,
    NanochatError,
    TrainingError,
    UnreadableError,
)
from nanochat_core.base.limits import limit_in_text, limit_of_disks
from nanochat_core.base.process import describe_exit, die_with_parent
from nanochat_core.base.records import RECORDS_NAME, RESULT_NAME, Record, RecordFollower

GRACE_S = 25.0  # a cancelled Prefect run gets 30 s before SIGKILL
POLL_S = 0.1
LOG_NAME = "output.log"
LAST_CHARS = 8000  # of a log: what ended a process stands at its end
# How long OpenMP's threads spin at a barrier. The default costs a factor of 4 to 20 as soon as anything else wants a
# core (a browser, a test); with a short spin it is 2, and an idle machine loses a tenth (2 cores, 2026-11-22).
GOMP_SPINCOUNT = "1000"

AGAIN = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
_stopping = threading.Event()


class PreemptedError(TrainingError):
    """The child was told to stop and has saved its state: run it again to go on."""


class OutOfMemoryError(HardwareError):
    """The child's device had no memory left."""


class NonFiniteError(NanochatError):
    """A loss or gradient that is no number. Another try would come to the same one."""

    exit_code = 6


def run_child(
    command: list[str],
    work: Path,
    *,
    on_record: Callable[[Record], None],
    environment: dict[str, str],
    check: Callable[[], None] = lambda: None,
) -> Record:
    """Run a command that writes metrics.jsonl and result.json into `work`; returns or raises what result.json says.

    `check` is called several times a second; when it raises, the child is stopped and the error passed on.
    """
    (work / RESULT_NAME).unlink(missing_ok=True)
    follower = RecordFollower(work / RECORDS_NAME)
    with (work / LOG_NAME).open("ab") as log:
        child = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=_environment(environment),
            pass_fds=gpu_slots.current().files,  # the GPUs are in use until the child has ended, whoever else has
            start_new_session=True,  # a terminal's Ctrl-C and hang-up are ours to hear, who save a checkpoint first
            preexec_fn=_begin,
        )
    try:
        while child.poll() is None:
            _forward(follower, on_record)
            check()
            time.sleep(POLL_S)
        _forward(follower, on_record)
    except BaseException:
        _stop(child)
        _forward(follower, on_record)  # the checkpoint that it saved on the way out is among them
        raise
    finally:
        follower.close()
    return _result(work, child.returncode)


def _begin() -> None:
    """In the child, before it is another program."""
    die_with_parent()
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # a scheduler sends it to all of a job: torchrun would die of it


def _environment(changes: dict[str, str]) -> dict[str, str]:
    ours = {"PYTHONUNBUFFERED": "1", "NANOCHAT_PARENT": str(os.getpid())}
    slots = gpu_slots.current().environment
    return {"GOMP_SPINCOUNT": GOMP_SPINCOUNT, **for_child(os.environ), **ours, **slots, **changes}


def _forward(follower: RecordFollower, on_record: Callable[[Record], None]) -> None:
    for record in follower.new_records():
        on_record(record)


def is_stopping() -> bool:
    """Whether a child of this process has been told to stop and is saving its state."""
    return _stopping.is_set()


def _stop(child: "subprocess.Popen[bytes]") -> None:
    """Ask for a checkpoint, wait for it, then insist."""
    if child.poll() is not None:
        return
    with _deaf():  # before the child hears of it, whose end may bring a second request at once
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Who is stopping already is not stopped again, but by Ctrl-C: a second request would cut off the checkpoint."""
    _stopping.set()
    is_main = threading.current_thread() is threading.main_thread()  # no other one may set a handler
    before = {number: signal.signal(number, signal.SIG_IGN) for number in AGAIN if is_main}
    try:
        yield
    finally:
        _stopping.clear()
        for number, handler in before.items():
            signal.signal(number, handler)


def _result(work: Path, returncode: int) -> Record:
    path = work / RESULT_NAME
    result: Record = json.loads(path.read_text()) if path.is_file() else {"status": "crashed"}
    if result["status"] == "completed" and returncode == 0:
        return result
    raise _error(result, returncode, work / LOG_NAME)


KINDS: dict[str, type[NanochatError]] = {
    kind.__name__: kind for kind in (ConfigError, HardwareError, MissingError, CorruptError, UnreadableError)
}


def _error(result: Record, returncode: int, log: Path) -> NanochatError:
    message = result.get("message") or f"the process ended early ({describe_exit(returncode)})"
    status = result["status"]
    if status == "error":
        return KINDS.get(result["kind"], NanochatError)(message, hint=result.get("hint"))
    if status == "preempted":
        return PreemptedError(message, hint="run the same command again: it goes on from the checkpoint")
    if status == "out_of_memory":
        return OutOfMemoryError(message, hint="a lower runtime.device_batch_rows keeps the batch and needs less memory")
    if status == "non_finite":
        return NonFiniteError(message, hint="lower the learning rates; the last checkpoint before it is kept")
    text = log.read_text(encoding="utf-8", errors="replace")
    limit = limit_in_text(text[-LAST_CHARS:], returncode=returncode) or limit_of_disks(log.parent, Path(gettempdir()))
    if limit is not None:
        return limit
    tail = [line for line in text.splitlines() if line.strip()][-3:]
    return TrainingError(f"{message}; the end of {log}: {' / '.join(tail)[-300:]}", hint="run the same command again")
