"""Which process holds something, so that another one on the same machine can tell that it is gone.

A process number alone says little: numbers are used again, and two containers of one machine each have a process 7.
So it goes with the time the process was started, the machine's boot and the namespace that the number belongs to;
only where all of these are known and equal is an absent process a dead one.
"""

import functools
import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
DEAD_STATES = {"Z", "X"}


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A process, by what identifies it on its machine."""

    machine: str | None
    """Digest of boot, process namespace and host; None where the system does not tell."""
    pid: int
    started: int | None
    """In clock ticks since the boot."""

    @classmethod
    def current(cls) -> "Holder":
        pid = os.getpid()
        state = _state(pid)
        return cls(machine=_machine(), pid=pid, started=None if state is None else state[1])

    @property
    def is_alive(self) -> bool:
        """Whether the process is certainly alive; False for those of other machines."""
        return self.machine is not None and self.machine == _machine() and not self.is_gone

    @property
    def is_gone(self) -> bool:
        """Whether the process is certainly dead; False for those of other machines."""
        if self.machine is None or self.machine != _machine() or self.started is None:
            return False
        state = _state(self.pid)
        return state is None or state[0] in DEAD_STATES or state[1] != self.started


@functools.cache
def _machine() -> str | None:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink(PROC / "self/ns/pid")
    except OSError:
        return None
    return hashlib.sha256(f"{boot} {namespace} {platform.node()}".encode()).hexdigest()[:16]


def _state(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process; None when there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the program's name in parentheses may hold anything
    return fields[0], int(fields[19])
