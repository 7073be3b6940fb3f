"""What became of every second of a training, attempt after attempt: one line per event, only ever appended.

The supervisor writes it from what the ranks tell: begin, their records, a sign of life now and then, done. Neither a
resumed training, which drops the records of steps that it takes again, nor a kill at any moment loses a line. A budget
is checked against it: the GPU time of all attempts, and of the trainings that this one starts from.

`tries_of` reads it: time between two lines belongs to what the second one tells of, so the buckets of all tries, and
the waiting between them, add up to the wall clock by construction. What a later start takes again (steps past its
checkpoint, a validation that was cut off) becomes `lost`. Compiling shows as first steps far above the usual one.
"""

import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import NanochatError
from nanochat_core.base.records import RecordWriter, read_records
from nanochat_core.base.units import duration, exact_dollars

NAME = "timesheet.jsonl"
ALIVE_EVERY_S = 5.0
BUCKETS = ("start", "compile", "train", "evaluate", "checkpoint", "upload", "lost")
KINDS = {"start": "start", "step": "train", "validate": "evaluate", "checkpoint": "checkpoint", "end": "checkpoint"}
COMPILING_STEPS = 5  # of an attempt: later ones that are slow have other reasons
COMPILING_FACTOR = 1.5  # times the usual step; a step's ordinary wobble stays below


class BudgetSpentError(NanochatError):
    """The money that a person allowed has been spent; the training was stopped with a checkpoint."""

    exit_code = 7


class Timesheet:
    """The supervisor's book of one attempt."""

    def __init__(self, path: Path, *, world_size: int, base: Path | None = None) -> None:
        """`base`: the sheet of the training that this one starts from."""
        lines = read_records(path)
        before = read_records(base) if base is not None else []
        self.base_gpu_s = gpu_seconds(before) + max((line.get("base_gpu_s", 0.0) for line in before), default=0.0)
        self.path, self.world_size, self._earlier_gpu_s = path, world_size, gpu_seconds(lines)
        self._began_s = self._written_s = self._booked_s = time.time()
        self._lines = RecordWriter(path)
        self._lines.write("begin", world_size=world_size, base_gpu_s=self.base_gpu_s)

    @property
    def gpu_s(self) -> float:
        """GPU seconds of all attempts until now."""
        return self._earlier_gpu_s + max(0.0, time.time() - self._began_s) * self.world_size

    def record(self, record: dict[str, Any]) -> None:
        """Book a record of the ranks, at the time that they wrote it; a resumed training repeats those before it."""
        if record["event"] in KINDS and record["time_s"] > self._booked_s:
            self._booked_s = record["time_s"]
            self._write(record["event"], step=record["step"], at_s=record["time_s"])

    def alive(self) -> None:
        """A sign of life, so that the end of an attempt that is killed is known to some seconds."""
        if time.time() - self._written_s >= ALIVE_EVERY_S:
            self._write("alive")

    def done(self, how: str) -> None:
        """The attempt ends: completed, stopped or failed."""
        self._write("done", how=how)
        self._lines.close()

    def _write(self, event: str, **values: Any) -> None:
        self._lines.write(event, **values)
        self._written_s = time.time()


def gpu_seconds(lines: list[dict[str, Any]]) -> float:
    """GPU seconds of the attempts in a sheet, each from its begin to its last line."""
    total, begin = 0.0, None
    for number, line in enumerate(lines):
        begin = line if line["event"] == "begin" else begin
        is_last = number + 1 == len(lines) or lines[number + 1]["event"] == "begin"
        if is_last and begin is not None:
            total += max(0.0, line["time_s"] - begin["time_s"]) * begin["world_size"]
    return total


class Budget:
    """Stops a training when what it and the trainings before it have cost reaches a limit."""

    def __init__(self, sheet: Timesheet, *, max_cost_usd: float | None, usd_per_gpu_hour: float) -> None:
        self.sheet, self.max_cost_usd, self.usd_per_gpu_hour = sheet, max_cost_usd, usd_per_gpu_hour

    @property
    def spent_usd(self) -> float:
        return (self.sheet.base_gpu_s + self.sheet.gpu_s) / 3600 * self.usd_per_gpu_hour

    def check(self) -> None:
        """Raise BudgetSpentError as soon as the limit is reached; the ranks then save and stop."""
        if self.max_cost_usd is None or self.spent_usd < self.max_cost_usd:
            return
        base = f", {duration(self.sheet.base_gpu_s)} before it" if self.sheet.base_gpu_s else ""
        raise BudgetSpentError(
            f"{exact_dollars(self.spent_usd)} are spent ({duration(self.sheet.gpu_s)} of GPU time{base}, at "
            f"{exact_dollars(self.usd_per_gpu_hour)} an hour), and the limit is {exact_dollars(self.max_cost_usd)}; "
            "the last checkpoint is kept",
            hint="the same command with a higher limit (runtime.max_cost_usd) goes on from it",
        )


@dataclass(frozen=True)
class Try:
    """One attempt."""

    world_size: int
    started_at_s: float
    ended_at_s: float
    queue_s: float
    """Between the end of the attempt before and this one's begin, when nothing ran."""
    buckets: dict[str, float]
    """Add up to its seconds."""

    @property
    def seconds(self) -> float:
        return self.ended_at_s - self.started_at_s

    @property
    def gpu_s(self) -> float:
        return self.seconds * self.world_size


@dataclass
class _Piece:
    """A stretch of an attempt and the bucket that it is in so far."""

    bucket: str
    seconds: float
    step: int | None = None


@dataclass
class _Open:
    """An attempt while its lines are read."""

    world_size: int
    started_at_s: float
    ended_at_s: float
    pieces: list[_Piece] = field(default_factory=list)
    has_ended: bool = False
    last_alive_s: float = 0.0

    def take(self, line: dict[str, Any]) -> None:
        moment = max(line.get("at_s", line["time_s"]), self.ended_at_s)
        event = line["event"]
        if event == "alive":  # what it was at is told by the next line, if there is one
            self.last_alive_s = moment
            return
        seconds, self.ended_at_s = moment - self.ended_at_s, moment
        bucket = KINDS.get(event, "lost")
        if event == "done":
            # after the end: export and uploads; a stop: the last checkpoint; else work that nobody will find
            is_stop = line.get("how") in ("completed", "stopped")
            bucket = "upload" if self.has_ended else "checkpoint" if is_stop else "lost"
        elif event == "start" and any(piece.bucket == "train" for piece in self.pieces):
            bucket = "lost"  # the ranks were started again: what hung or failed, and the new start
        self.has_ended = event == "end" or (self.has_ended and event != "start")
        self.pieces.append(_Piece(bucket, seconds, line.get("step") if event in KINDS else None))

    def close(self) -> None:
        """Nothing more comes: what followed the last line, until the last sign of life, nobody told of."""
        seconds = self.last_alive_s - self.ended_at_s
        if seconds > 0:
            self.pieces.append(_Piece("upload" if self.has_ended else "lost", seconds))
            self.ended_at_s = self.last_alive_s

    def lose_after(self, step: int) -> None:
        """A start at `step` takes again what came later; so it does a validation of `step` itself."""
        for piece in self.pieces:
            is_later = piece.step is not None and piece.step > step
            if (piece.bucket in ("train", "compile") and is_later) or (
                piece.bucket == "evaluate" and piece.step is not None and piece.step >= step
            ):
                piece.bucket = "lost"


def tries_of(lines: Iterable[dict[str, Any]]) -> list[Try]:
    """The attempts in a timesheet, oldest first."""
    found: list[_Open] = []
    for line in lines:
        if line["event"] == "begin":
            if found:
                found[-1].close()
            found.append(_Open(line["world_size"], line["time_s"], line["time_s"]))
        elif found:
            if line["event"] == "start":
                _split_compiling(found[-1])
                for one in found:
                    one.lose_after(line["step"])
            found[-1].take(line)
    for one in found:
        one.close()
        _split_compiling(one)
    ends = [one.ended_at_s for one in found]
    begins = [one.started_at_s for one in found]
    queues = [0.0, *(max(0.0, begin - end) for begin, end in zip(begins[1:], ends, strict=False))]
    return [_closed(one, queue_s) for one, queue_s in zip(found, queues, strict=True)]


def _closed(one: _Open, queue_s: float) -> Try:
    buckets = {name: sum(piece.seconds for piece in one.pieces if piece.bucket == name) for name in BUCKETS}
    return Try(one.world_size, one.started_at_s, one.ended_at_s, queue_s, buckets)


def _split_compiling(one: _Open) -> None:
    """Move what the first steps took beyond a usual one out of `train`."""
    steps = [piece for piece in one.pieces if piece.bucket == "train"]
    if any(piece.bucket == "compile" for piece in one.pieces):
        return
    for piece, beyond_s in zip(steps, compiling_s([piece.seconds for piece in steps]), strict=False):
        if beyond_s:
            one.pieces.append(_Piece("compile", beyond_s, piece.step))
            piece.seconds -= beyond_s


def compiling_s(steps_s: Sequence[float]) -> list[float]:
    """For each of the first steps the seconds beyond a usual one, 0 if it was usual; empty where too few are known."""
    if len(steps_s) <= COMPILING_STEPS:
        return []
    usual_s = statistics.median(steps_s)
    return [one_s - usual_s if one_s > COMPILING_FACTOR * usual_s else 0.0 for one_s in steps_s[:COMPILING_STEPS]]
