"""Signs of life: each rank says what it is doing and how long that may take; the supervisor notices when it does not.

A rank that hangs (a stuck collective, a dead disk, a stopped process) ends nothing by itself: the others wait for it,
and the bill runs. Each rank keeps one small file, rewritten in place at most twice a second, so a step pays nothing.
Silence is counted in the supervisor's own polls, never by the clock: a laptop that slept has not hung.
"""

import contextlib
import faulthandler
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nanochat_core.base.errors import TrainingError

BEAT = "heartbeat-{rank}.json"
STACKS = "stacks-{rank}.txt"
SLOW_PHASE_S = 3600.0  # start-up, first steps (they compile), validation, the end
SLOW_STEPS = 3  # of an attempt: they compile
SLOWEST_FACTOR = 20.0  # times the slowest step so far
BEAT_EVERY_S = 0.5
POLL_CREDIT_S = 1.0  # a poll that comes later than this was held up itself
DUMP_WAIT_S = 2.0
WIDTH = 200  # of the file: each beat overwrites the one before


class HungError(TrainingError):
    """A rank gave no sign of life; the ranks were stopped."""


class Heartbeat:
    """One rank's signs of life, and where its stacks go when the supervisor asks for them (SIGUSR1)."""

    def __init__(self, work: Path, *, rank: int, hang_after_s: float) -> None:
        self.hang_after_s = hang_after_s
        self._file = (work / BEAT.format(rank=rank)).open("w", encoding="utf-8")
        self._stacks: TextIO = (work / STACKS.format(rank=rank)).open("w", encoding="utf-8")
        self._told: tuple[str, float] = ("", 0.0)
        self._num_steps, self._slowest_s, self._step_began_s = 0, 0.0, 0.0
        if hasattr(faulthandler, "register"):  # not on Windows
            faulthandler.register(signal.SIGUSR1, file=self._stacks, all_threads=True)

    def step(self, step: int) -> None:
        """The step after `step` begins."""
        now = time.monotonic()
        if self._step_began_s and self._num_steps > SLOW_STEPS:
            self._slowest_s = max(self._slowest_s, now - self._step_began_s)
        self._num_steps += 1
        self._step_began_s = now
        if self._num_steps <= SLOW_STEPS:
            self._beat("first steps", step, SLOW_PHASE_S)
        else:
            self._beat("step", step, max(self.hang_after_s, SLOWEST_FACTOR * self._slowest_s))

    def phase(self, name: str, step: int) -> None:
        """Something else than steps begins, which may take long."""
        self._step_began_s = 0.0
        self._beat(name, step, self.hang_after_s if name == "checkpoint" else max(self.hang_after_s, SLOW_PHASE_S))

    def _beat(self, phase: str, step: int, limit_s: float) -> None:
        now = time.monotonic()
        if phase == self._told[0] and now - self._told[1] < BEAT_EVERY_S:
            return
        self._told = (phase, now)
        text = json.dumps({"phase": phase, "step": step, "limit_s": limit_s, "pid": os.getpid(), "at_s": now})
        os.pwrite(self._file.fileno(), text.ljust(WIDTH).encode(), 0)


@dataclass
class _Heard:
    """What the supervisor knows of a rank."""

    text: str
    silent_s: float = 0.0


class Watch:
    """The supervisor's side: `check` is called several times a second."""

    def __init__(self, work: Path, *, plan: Path) -> None:
        self.work, self.plan = work, plan
        self._heard: dict[Path, _Heard] = {}
        self._polled_s = time.monotonic()
        for old in [*work.glob(BEAT.format(rank="*")), *work.glob(STACKS.format(rank="*"))]:
            old.unlink()  # of the attempt before

    def check(self) -> None:
        """Raise HungError, with every rank's stacks in the log and every rank dead, when one is silent for too long."""
        now = time.monotonic()
        passed_s, self._polled_s = min(now - self._polled_s, POLL_CREDIT_S), now
        for path in self.work.glob(BEAT.format(rank="*")):
            text = path.read_text(encoding="utf-8")
            heard = self._heard.get(path)
            if heard is None or heard.text != text:
                self._heard[path] = _Heard(text)
                continue
            heard.silent_s += passed_s
            beat = _parsed(text)
            if beat and heard.silent_s > beat["limit_s"]:
                raise self._hung(heard.silent_s, beat["limit_s"])

    def _hung(self, silent_s: float, limit_s: float) -> HungError:
        told = {path: beat for path in sorted(self._heard) if (beat := _parsed(self._heard[path].text))}
        ranks = {path.stem.partition("-")[2]: beat for path, beat in told.items()}
        states = {rank: _state(beat["pid"]) for rank, beat in ranks.items()}
        self._collect_stacks(ranks, states)
        for beat in ranks.values():
            if self._is_ours(beat["pid"]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(beat["pid"], signal.SIGKILL)  # one that hangs hears nothing else
        doing = ", ".join(
            f"rank {rank} in {beat['phase']} after step {beat['step']} ({states[rank]})" for rank, beat in ranks.items()
        )
        return HungError(
            f"no sign of life for {silent_s:.0f} s (limit {limit_s:.0f} s): {doing}",
            hint=f"the stacks of all ranks are in {self.work / 'output.log'}; a slow machine wants a higher "
            "runtime.hang_after_s",
        )

    def _collect_stacks(self, ranks: dict[str, dict[str, Any]], states: dict[str, str]) -> None:
        """Ask every rank for its stacks and put them into the log."""
        for beat in ranks.values():
            if self._is_ours(beat["pid"]):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(beat["pid"], signal.SIGUSR1)
        deadline = time.monotonic() + DUMP_WAIT_S
        files = {rank: self.work / STACKS.format(rank=rank) for rank in ranks}
        while time.monotonic() < deadline and not all(file.stat().st_size for file in files.values()):
            time.sleep(0.05)
        with (self.work / "output.log").open("a", encoding="utf-8") as log:
            for rank, file in files.items():
                stacks = file.read_text(encoding="utf-8", errors="replace") or "(no answer)\n"
                log.write(f"\n--- stacks of rank {rank}, process {ranks[rank]['pid']}, {states[rank]}\n{stacks}")

    def _is_ours(self, pid: int) -> bool:
        """A process id may have gone to somebody else: ours names its plan."""
        command = Path(f"/proc/{pid}/cmdline")
        try:
            return str(self.plan).encode() in command.read_bytes()
        except OSError:
            return not Path("/proc/self").exists()  # a system without /proc: trust the number


def _parsed(text: str) -> dict[str, Any] | None:
    """A beat, or None while it is being written."""
    try:
        beat: dict[str, Any] = json.loads(text)
    except ValueError:
        return None
    return beat


STATES = {"R": "running", "S": "waiting", "D": "waiting for a disk", "T": "stopped", "Z": "dead", "t": "traced"}


def _state(pid: int) -> str:
    """What the kernel says of a process."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return "gone"
    return STATES.get(letter, letter)
