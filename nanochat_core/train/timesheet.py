"""What became of every second of a training, attempt after attempt: one line per event, only ever appended.

The supervisor writes it from what the ranks tell: begin, their records, a sign of life now and then, done. Neither a
resumed training, which drops the records of steps that it takes again, nor a kill at any moment loses a line. tries.py
reads it. A budget is checked against it: the GPU time of all attempts, and of the trainings that this one starts from.
"""

import time
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import NanochatError
from nanochat_core.base.records import RecordWriter, read_records
from nanochat_core.base.units import duration, exact_dollars

NAME = "timesheet.jsonl"
ALIVE_EVERY_S = 5.0
EVENTS = ("start", "step", "validate", "checkpoint", "end")


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
        if record["event"] in EVENTS and record["time_s"] > self._booked_s:
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
