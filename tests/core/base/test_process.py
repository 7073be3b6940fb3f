"""A rank that hears no signal does not outlive those that started it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

# Like a rank in a collective that never ends: signals are ignored, the main thread waits without holding a lock.
STUCK = """
import os, signal, sys, threading
from nanochat_core.base.process import exit_after_parent
signal.signal(signal.SIGTERM, signal.SIG_IGN)
exit_after_parent(grace_s=0.5, poll_s=0.05)
open(sys.argv[1], "w").write(str(os.getpid()))
threading.Event().wait()
"""
STARTER = """
import os, subprocess, sys, time
os.environ["NANOCHAT_PARENT"] = sys.argv[3] if sys.argv[3] != "0" else str(os.getpid())
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(60)
"""


def wait_for(condition, *, timeout_s: float = 60.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("victim", ["parent", "supervisor"])
def test_a_process_that_is_stuck_ends_soon_after_its_parent_or_its_supervisor(victim: str, tmp_path: Path) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    named = str(supervisor.pid) if victim == "supervisor" else "0"
    mark = tmp_path / "pid"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen([sys.executable, "-c", STARTER, STUCK, str(mark), named], env=environment)
    try:
        wait_for(lambda: mark.exists() and mark.read_text())
        stuck = int(mark.read_text())
        time.sleep(0.5)
        assert is_running(stuck), "while both live, it does"
        (parent if victim == "parent" else supervisor).kill()
        wait_for(lambda: not is_running(stuck), timeout_s=15.0)
    finally:
        for process in (parent, supervisor):
            process.send_signal(signal.SIGKILL)
            process.wait()
