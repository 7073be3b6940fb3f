"""Every second of a training in one bucket, read from its timesheet: attempts that were killed included.

Time between two lines belongs to what the second one tells of, so the buckets of all tries, and the waiting between
them, add up to the wall clock by construction. What a later start takes again (steps past its checkpoint, a validation
that was cut off) becomes `lost`. Compiling shows as first steps far above the usual one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from nanochat_core.base.compiling import compiling_s

BUCKETS = ("start", "compile", "train", "evaluate", "checkpoint", "upload", "lost")
KINDS = {"start": "start", "step": "train", "validate": "evaluate", "checkpoint": "checkpoint", "end": "checkpoint"}


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
