"""Child processes that do not outlive their parent.

torchrun puts its ranks into sessions of their own, so killing a process group misses them; Linux's parent-death signal
reaches them (prctl PR_SET_PDEATHSIG, man 2 prctl). Elsewhere the ranks notice a new parent and stop by themselves.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

PR_SET_PDEATHSIG = 1
PARENT = "NANOCHAT_PARENT"  # the supervisor's process id, which is not a rank's direct parent
EXIT_CODE = 1


def die_with_parent(sig: int = signal.SIGTERM) -> None:
    """Ask the kernel to send this process `sig` when its parent dies. Call it first thing in the child."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, sig, 0, 0, 0)
    if os.getppid() == 1 and os.environ.get(PARENT, "1") != "1":
        os.kill(os.getpid(), sig)  # the parent was gone before the kernel knew about the wish


def exit_after_parent(*, grace_s: float, poll_s: float = 0.5) -> None:
    """End this process `grace_s` after its parent or its supervisor died, whatever it is stuck in.

    The signal of `die_with_parent` asks for a checkpoint; a rank that waits in a collective for one that is gone never
    hears it. A thread does: such a wait holds no lock of Python's.
    """
    parent, supervisor = os.getppid(), int(os.environ.get(PARENT, "0"))

    def watch() -> None:
        while os.getppid() == parent and (not supervisor or _is_alive(supervisor)):
            time.sleep(poll_s)
        time.sleep(grace_s)
        os._exit(EXIT_CODE)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()


def _is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for yet does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    try:
        return _stat(pid)[0] != "Z"
    except (OSError, IndexError):
        return True


def _stat(pid: int) -> list[str]:
    """What the kernel says of a process, from its state on (proc(5)): the name before it may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def cpu_s(pid: int) -> float:
    """Processor time that a process has had; 0 where nobody says."""
    try:
        fields = _stat(pid)
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # utime, stime
    except (OSError, IndexError):
        return 0.0


def describe_exit(code: int) -> str:
    """ "exit code 1" or "killed by SIGKILL" for a Popen return code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
