"""Processes that tests start: which are left, which are ranks of a training, and how far the training has come."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from nanochat_core.base.records import read_records

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT_S = 120
RANK, TORCHRUN = b"nanochat_core.train.worker", b"nanochat_core.base.one_node"


def processes_of(folder: Path) -> list[str]:
    """Command lines of other processes that were started with this folder in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(folder).encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append((path.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has just ended, or is another user's
            continue
    return found


def ranks_of(home: Path) -> list[int]:
    """Process ids of training ranks whose plan lies in this home."""
    return pids_of(home, RANK)


def torchruns_of(home: Path) -> list[int]:
    """Process ids of torchrun itself, the parent of several ranks; a single one has none."""
    return pids_of(home, TORCHRUN)


def pids_of(home: Path, word: bytes) -> list[int]:
    """Process ids whose command line has `word`, and a path in this home."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if word in words and any(each.startswith(str(home).encode()) for each in words):
            found.append(int(path.parent.name))
    return found


def wait_until_no_ranks(home: Path, *, timeout_s: float = 15) -> None:
    """Fail when a rank of this home outlives the time."""
    deadline = time.monotonic() + timeout_s
    while ranks_of(home) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ranks_of(home) == []


def wait_for_record(
    home: Path, step: str, wanted: int, process: "subprocess.Popen[bytes]", *, event: str = "step"
) -> None:
    """Until the training of `step` in this home has told of `event` at optimizer step `wanted` or later."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        for path in home.glob(f"work/{step}-*/attempt-*/metrics.jsonl"):
            if any(record["event"] == event and record["step"] >= wanted for record in read_records(path)):
                return
        assert process.poll() is None, f"the run ended before {step} told of {event} {wanted}"
        time.sleep(0.01)
    raise AssertionError(f"{step} did not tell of {event} {wanted} in {TIMEOUT_S} s")


def start(sets: list[str], *extra: str) -> subprocess.Popen[bytes]:
    """The pipeline as a user's command, without Prefect."""
    options = [part for value in sets for part in ("--set", value)]
    command = [sys.executable, "-m", "flows.cli", "run", "tiny", "--no-prefect", *options, *extra]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=_hear_interrupts
    )


def _hear_interrupts() -> None:
    """A shell starts background jobs, and this test run may be one, with SIGINT ignored; children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
