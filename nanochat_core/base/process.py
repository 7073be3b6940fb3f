"""Child processes that do not outlive their parent.

torchrun puts its ranks into sessions of their own, so killing a process group misses them; Linux's parent-death signal
reaches them (prctl PR_SET_PDEATHSIG, man 2 prctl). Elsewhere the ranks notice a new parent and stop by themselves.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(sig: int = signal.SIGTERM) -> None:
    """Ask the kernel to send this process `sig` when its parent dies. Call it first thing in the child."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, sig, 0, 0, 0)
    if os.getppid() == 1 and os.environ.get("NANOCHAT_PARENT", "1") != "1":
        os.kill(os.getpid(), sig)  # the parent was gone before the kernel knew about the wish


def describe_exit(code: int) -> str:
    """ "exit code 1" or "killed by SIGKILL" for a Popen return code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
