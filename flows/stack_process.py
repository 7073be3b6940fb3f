"""Plain processes that outlive the command that starts them: a log, a pid file and a question that shows health.

A pid file holds the start time and the boot besides the number, because numbers are used again: nothing is signalled
that we did not start. A process of ours gets a session of its own, so that the terminal's Ctrl-C does not reach it.
"""

import contextlib
import json
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from flows.stack_environment import PROGRAM, passed_on
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.loopback import listener
from nanochat_core.store.holder import Holder

LOG_LIMIT_BYTES = 20 << 20  # a log that is longer is put aside at the next start; one old one is kept
ATTEMPTS = 3  # a database whose parent was killed is refused until its last child is gone: moments
POLL_S = 0.1


class State(StrEnum):
    """What a part is doing."""

    RUNNING = "running"
    SILENT = "not answering"
    DEAD = "dead"
    STOPPED = "stopped"


def _nothing() -> None:
    """The default of the two hooks."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One process of the stack."""

    name: str
    command: Sequence[str]
    is_ready: Callable[[], bool]
    port: int | None = None
    """Where it listens on 127.0.0.1."""
    environment: dict[str, str] = field(default_factory=dict)
    keeps: Sequence[str] = PROGRAM
    """What it gets of our environment besides: patterns of names."""
    umask: int = 0o077
    """Nobody else reads what it writes; -1: as whoever starts it has it."""
    user: str | None = None
    before: Callable[[], None] = _nothing
    """Done before each start."""
    after: Callable[[], None] = _nothing
    """Done after each start, once it answers."""
    stop_signal: int = signal.SIGTERM
    stop_s: float = 20.0
    start_s: float = 120.0


def state_of(folder: Path, name: str) -> State:
    """What the pid file and the kernel say; an answer is not asked for."""
    holder = _holder(folder, name)
    if holder is None:
        return State.STOPPED
    return State.RUNNING if holder.is_alive else State.DEAD


def look(folder: Path, part: Part) -> State:
    """What a part is doing, with its own answer."""
    state = state_of(folder, part.name)
    return State.SILENT if state is State.RUNNING and not _answers(part) else state


def _answers(part: Part) -> bool:
    """Whether the part answers: it, and nobody else who has taken its port meanwhile."""
    user = _account(part).pw_uid if part.user else os.geteuid()
    return part.is_ready() and (part.port is None or listener(part.port) in (user, None))


def _account(part: Part) -> pwd.struct_passwd:
    return pwd.getpwnam(part.user or "")


def pid_of(folder: Path, name: str) -> int | None:
    """The process number of a part that is alive."""
    holder = _holder(folder, name)
    return holder.pid if holder is not None and holder.is_alive else None


def log_of(folder: Path, name: str) -> Path:
    return folder / "logs" / f"{name}.log"


def launched_at(folder: Path, name: str) -> float:
    """When a part was last started, in seconds since 1970; 0 when it was not."""
    with contextlib.suppress(OSError):
        return _pid_file(folder, name).stat().st_mtime
    return 0.0


def start_all(folder: Path, parts: Sequence[Part], say: Callable[[str], None]) -> list[str]:
    """Start those that are not alive, side by side, and wait until all answer; returns the names of the started."""
    idle = [part for part in parts if state_of(folder, part.name) is not State.RUNNING]
    for part in idle:
        part.before()
    children = {part.name: _launch(folder, part) for part in idle}
    for part in idle:
        began = time.monotonic()
        _wait_until_ready(folder, part, children[part.name])
        part.after()
        say(f"{part.name:<16} started ({time.monotonic() - began:.1f} s)")
    return [part.name for part in idle]


def stop(folder: Path, part: Part) -> bool:
    """Stop a part, at first politely; returns whether it was alive. Its pid file is gone afterwards."""
    pid = pid_of(folder, part.name)
    if pid is not None:
        os.kill(pid, part.stop_signal)
        if not _is_gone_within(folder, part.name, part.stop_s):
            os.kill(pid, signal.SIGKILL)
            _is_gone_within(folder, part.name, 5.0)
    _pid_file(folder, part.name).unlink(missing_ok=True)
    return pid is not None


@dataclass(frozen=True)
class Process:
    """A line of the process table."""

    pid: int
    parent: int
    state: str
    started: int


def process(pid: int) -> Process | None:
    """One process, from /proc; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the program's name in parentheses may hold anything
    return Process(pid, int(fields[1]), fields[0], int(fields[19]))


def children_of(pid: int) -> list[int]:
    """Living children of a process; one that has ended and waits to be asked for its exit code does not live."""
    everyone = [process(int(path.name)) for path in Path("/proc").glob("[0-9]*")]
    return [each.pid for each in everyone if each is not None and each.parent == pid and each.state not in "ZX"]


def _launch(folder: Path, part: Part) -> "subprocess.Popen[bytes]":
    log = log_of(folder, part.name)
    if log.is_file() and log.stat().st_size > LOG_LIMIT_BYTES:
        log.replace(log.with_suffix(".old.log"))
    account = _account(part) if part.user else None
    with log.open("ab") as output:
        child = subprocess.Popen(
            part.command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**passed_on(os.environ, part.keeps), **part.environment},
            umask=part.umask,
            start_new_session=True,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
        )
    seen = process(child.pid)
    holder = Holder(machine=Holder.current().machine, pid=child.pid, started=seen.started if seen else None)
    _pid_file(folder, part.name).write_text(json.dumps(asdict(holder)))
    return child


def _wait_until_ready(folder: Path, part: Part, child: "subprocess.Popen[bytes]") -> None:
    attempt, deadline = 1, time.monotonic() + part.start_s
    while not _answers(part):
        if child.poll() is not None and attempt == ATTEMPTS:
            raise _failure(folder, part, f"ended at once with exit code {child.returncode}")
        if child.poll() is not None:
            attempt += 1
            time.sleep(1)
            child = _launch(folder, part)
        if time.monotonic() > deadline:
            raise _failure(folder, part, f"did not answer within {part.start_s:.0f} s")
        time.sleep(POLL_S)


def _failure(folder: Path, part: Part, what: str) -> NanochatError:
    log = log_of(folder, part.name)
    tail = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()][-3:]
    return NanochatError(
        f"{part.name} {what}; the end of {log}: {' / '.join(tail)[-400:]}",
        hint="mend the cause and run nanochat up --local again: what runs already stays",
    )


def _is_gone_within(folder: Path, name: str, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while pid_of(folder, name) is not None:
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _pid_file(folder: Path, name: str) -> Path:
    return folder / "pids" / f"{name}.json"


def _holder(folder: Path, name: str) -> Holder | None:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return Holder(**json.loads(_pid_file(folder, name).read_text()))
    return None
