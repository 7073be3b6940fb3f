"""Where the time of a training went, read from its log: one entry per attempt, the same for every reader.

An attempt begins with a `start` record. A resumed training drops the records of the steps that it takes again, so what
an earlier attempt lists here is what was kept of it. Compiling shows as first steps far above the usual one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from nanochat_core.base.compiling import compiling_s


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """Seconds of one try at a training."""

    world_size: int
    started_at_s: float | None
    """Wall clock of its first record; None in logs without one."""
    ended_at_s: float | None
    """Wall clock of its last record."""
    train_s: float
    """In steps, less what compiling added to the first ones."""
    compile_s: float
    validate_s: float
    checkpoint_s: float


def attempts(records: Iterable[dict[str, Any]]) -> list[Attempt]:
    """The attempts in a training's records, oldest first."""
    groups: list[list[dict[str, Any]]] = []
    for record in records:
        if record["event"] == "start" or not groups:
            groups.append([])
        groups[-1].append(record)
    found, done_s = [], 0.0
    for group in groups:
        # train_s counts over all attempts, so that of one is a difference
        total_s = max((record["train_s"] for record in group if record["event"] == "step"), default=done_s)
        found.append(_attempt(group, steps_s=total_s - done_s))
        done_s = total_s
    return found


def _attempt(group: list[dict[str, Any]], *, steps_s: float) -> Attempt:
    times = [record["time_s"] for record in group if "time_s" in record]
    compile_s = min(steps_s, sum(compiling_s([r["step_ms"] / 1e3 for r in group if r["event"] == "step"])))
    return Attempt(
        world_size=int(group[0].get("world_size", 1)),
        started_at_s=times[0] if times else None,
        ended_at_s=times[-1] if times else None,
        train_s=steps_s - compile_s,
        compile_s=compile_s,
        validate_s=sum(record.get("validate_s", 0.0) for record in group),
        checkpoint_s=sum(record.get("save_s", 0.0) for record in group),
    )
