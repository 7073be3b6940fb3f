"""One worker as its owner sees it: a launcher process, and a line to the zygote inside.

Programs go in as a length and JSON, outcomes come back as a line of JSON: nothing that is read here can be code.
"""

import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import HardwareError
from nanochat_core.sandbox.launcher import LANDLOCK
from nanochat_core.sandbox.outcome import Limits, Outcome
from nanochat_core.sandbox.view import interpreter

START_S = 30.0
GRACE_S = 10.0  # beyond the program's wall time, for a loaded machine; past it the worker itself is at fault
STOP_S = 5.0
MAX_REPLY_BYTES = 1 << 26
OPEN_PLACES = ("/tmp", "/var/tmp")
ROOT = Path(__file__).resolve().parents[2]
COMMAND = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from nanochat_core.sandbox.launcher import main; main()"


def _parent(mode: str) -> Path:
    """Where a worker's folder goes: the temporary folder, or for root's nameless users one that they can reach."""
    usual = Path(tempfile.gettempdir()).resolve()
    if mode != LANDLOCK or os.geteuid() != 0:
        return usual
    places = [usual, *map(Path, OPEN_PLACES)]
    return next(
        (one for one in places if all(up.exists() and up.stat().st_mode & 1 for up in (one, *one.parents))), usual
    )


class WorkerLostError(Exception):
    """The worker ended, or does not answer."""


class Worker:
    """A warm interpreter in a sandbox of the given mode. It runs one program at a time."""

    def __init__(self, mode: str, limits: Limits) -> None:
        self.limits = limits
        self._line, theirs = socket.socketpair()
        self._home = tempfile.mkdtemp(prefix="nanochat-sandbox-", dir=_parent(mode))
        order = {
            "mode": mode,
            "control_fd": theirs.fileno(),
            "parent": os.getpid(),
            "home": self._home,
            "limits": asdict(limits),
        }
        with theirs:
            self._launcher = subprocess.Popen(
                [str(interpreter()), "-I", "-S", "-B", "-c", COMMAND, json.dumps(order)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={},
                cwd="/",
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C on the caller's terminal is the caller's to handle
            )
        self.is_usable = True
        self.facts = self._first_word(mode)

    def run(self, program: str) -> Outcome:
        """Run one program; raises WorkerLostError when the worker, not the program, is at fault."""
        body = json.dumps(program).encode()
        started = time.monotonic()
        try:
            self._line.settimeout(START_S)
            self._line.sendall(struct.pack("<I", len(body)) + body)
            reply = self._receive(self.limits.wall_s + GRACE_S)
        except (OSError, ValueError) as error:
            self.stop()
            raise WorkerLostError(f"{type(error).__name__} after {time.monotonic() - started:.1f} s") from error
        if reply["retire"]:
            self.stop()
        return Outcome(*(reply[name] for name in ("status", "stdout", "stderr", "error", "wall_s")))

    def stop(self) -> None:
        """End it, with everything inside. May be called twice."""
        self.is_usable = False
        self._line.close()
        assert self._launcher.stdin is not None
        assert self._launcher.stderr is not None
        if not self._launcher.stdin.closed:
            try:
                self._launcher.stdin.write(b"!")  # a word, not only hanging up: a forked copy of us may hold the pipe
                self._launcher.stdin.close()
            except BrokenPipeError:
                pass  # it has ended already
        try:
            self._launcher.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._launcher.kill()  # the zygote dies with it
            self._launcher.wait()
        self._launcher.stderr.close()
        shutil.rmtree(self._home, ignore_errors=True)  # the launcher has done so, unless it was killed

    def _first_word(self, mode: str) -> dict[str, str]:
        try:
            word = self._receive(START_S)
        except (OSError, ValueError) as error:
            word = {"refused": f"{mode}: {error or type(error).__name__}"}
        if "facts" in word:
            return {"isolation": mode, **word["facts"]}
        assert self._launcher.stderr is not None
        os.set_blocking(self._launcher.stderr.fileno(), False)
        said = (self._launcher.stderr.read() or b"").decode(errors="replace").strip().splitlines()
        self.stop()
        raise HardwareError(" ".join([word["refused"], *said[-1:]]), hint="nanochat doctor says what this machine has")

    def _receive(self, seconds: float) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        data = bytearray()
        while not data.endswith(b"\n"):
            self._line.settimeout(max(deadline - time.monotonic(), 0.001))
            part = self._line.recv(1 << 16)
            if not part or len(data) > MAX_REPLY_BYTES:
                raise ConnectionError("the line to the sandbox was cut")
            data += part
        reply = json.loads(data)
        assert isinstance(reply, dict)
        return reply
