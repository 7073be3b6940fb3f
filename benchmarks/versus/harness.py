"""Runs both sides in turn, each measurement a process of its own, and puts what they measured side by side.

Wall and CPU seconds are those of the work, which the child times (clock.py), the CPU of all its processes and threads;
memory is that of the whole child: the most of the sum of PSS (pages that several processes share count once) over its
process tree. The ratio is nanochat's over ours, of neighbouring measurements, so that what else a machine does weighs
on both.
"""

import json
import os
import statistics
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.versus.clock import tree_cpu_s

SAMPLE_S = 0.05
HIGHER_FRAC = 0.01  # PSS costs a walk through all pages: it is read when RSS has grown by so much
LIMIT_S = 3600.0
SHOWN_CHARS = 2000


@dataclass(frozen=True)
class Side:
    """How children of one side are started."""

    name: str
    command: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """One child."""

    wall_s: float
    cpu_s: float
    memory_mib: float
    count: float = 1.0
    """Units of work: what a ratio is per."""
    result: Mapping[str, Any] = field(default_factory=dict)


class Failed(Exception):
    """A child that ended otherwise than well."""


class Memory:
    """Watches the memory of a process tree while it lives."""

    def __init__(self, pid: int) -> None:
        self.peak_bytes, self._rss = 0, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(psutil.Process(pid),), daemon=True)
        self._thread.start()

    def _watch(self, top: psutil.Process) -> None:
        while not self._over.wait(SAMPLE_S):
            processes = _tree(top)
            rss = _sum(processes, lambda each: each.memory_info().rss)
            if rss > (1 + HIGHER_FRAC) * self._rss:
                self._rss = rss
                self.peak_bytes = max(self.peak_bytes, _sum(processes, lambda each: each.memory_full_info().pss))

    def stop(self) -> float:
        """MiB at the most."""
        self._over.set()
        self._thread.join()
        return self.peak_bytes / 2**20


def _tree(top: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return [top, *top.children(recursive=True)]
    return [top]


def _sum(processes: Sequence[psutil.Process], what: Callable[[psutil.Process], int]) -> int:
    """Of those that have not ended."""
    total = 0
    for each in processes:
        with suppress(psutil.Error, FileNotFoundError, ProcessLookupError):
            total += what(each)
    return total


def run_child(side: Side, part: str, given: Path) -> Measured:
    """A part of a side, in a process of its own."""
    with given.with_suffix(f".{side.name}.log").open("w+", encoding="utf-8") as log:
        with _running(side, [*side.command, part, str(given)], stdout=subprocess.PIPE, stderr=log) as (process, memory):
            said, _ = process.communicate(timeout=LIMIT_S)
            peak = memory.stop()
        if process.returncode:
            log.seek(0)
            raise Failed(f"{part} of {side.name} ended with {process.returncode}:\n{log.read()[-SHOWN_CHARS:]}")
    found = json.loads(said.splitlines()[-1])
    peak = found["gpu_bytes"] / 2**20 or peak
    return Measured(found["wall_s"], found["cpu_s"], peak, found["count"], found)


def run_until(side: Side, command: Sequence[str], is_reached: Callable[[str], bool], log: Path) -> Measured:
    """A command from its start until `is_reached` of what it has said; then it is killed, with all it started."""
    with log.open("w", encoding="utf-8") as out:
        started = time.perf_counter()
        with _running(side, command, stdout=out, stderr=out) as (process, memory):
            while not is_reached(log.read_text(encoding="utf-8", errors="replace")):
                if process.poll() is not None or time.perf_counter() - started > LIMIT_S:
                    raise Failed(f"{' '.join(command)} came to no step:\n{log.read_text()[-SHOWN_CHARS:]}")
                time.sleep(SAMPLE_S)
            return Measured(time.perf_counter() - started, tree_cpu_s(process.pid), memory.stop())


def run_to_end(side: Side, command: Sequence[str], log: Path) -> None:
    """A command that makes something ready; nothing is measured."""
    with log.open("w", encoding="utf-8") as out, _running(side, command, stdout=out, stderr=out) as (process, _):
        if process.wait(LIMIT_S):
            raise Failed(f"{' '.join(command)} failed:\n{log.read_text()[-SHOWN_CHARS:]}")


@contextmanager
def _running(side: Side, command: Sequence[str], **streams: Any) -> Iterator[tuple["subprocess.Popen[str]", Memory]]:
    """A process that is watched; when the block is left, however that comes, nothing of it is left."""
    environment = {**os.environ, **side.environment}
    process = subprocess.Popen(
        command, cwd=side.folder, env=environment, stdin=subprocess.DEVNULL, text=True, **streams
    )
    memory = Memory(process.pid)
    try:
        yield process, memory
    finally:
        for each in _tree(psutil.Process(process.pid)) if process.poll() is None else []:
            with suppress(psutil.Error):
                each.kill()
        process.wait()
        memory.stop()


@dataclass
class Row:
    """One stage on both sides: the measurements in pairs, in the order in which they were taken."""

    title: str
    unit: str
    """What a count is of; "" where both do the same number, and seconds are those of the whole."""
    note: str
    """What is not the same work."""
    pairs: list[tuple[Measured, Measured]] = field(default_factory=list)
    problem: str = ""

    def ratios(self, what: str) -> list[float]:
        """nanochat's over ours, of each pair; per unit of work, but for memory."""
        per = (lambda one: 1.0) if what == "memory_mib" else (lambda one: one.count)
        return [(getattr(b, what) / per(b)) / (getattr(a, what) / per(a)) for a, b in self.pairs]


def spread(values: Sequence[float]) -> str:
    """The median, and from where to where they go: "2.31 (2.20-2.44)"."""
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) < 2 else f"{middle} ({min(values):.2f}-{max(values):.2f})"


def results(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Whether what came out is the same, in words."""
    told = [f"{name} {'equal' if value == theirs['same'][name] else 'DIFFER'}" for name, value in _part(ours, "same")]
    for name, value in _part(ours, "near"):
        other = theirs["near"][name]
        apart = abs(value - other) / max(abs(value), abs(other), 1e-30)
        told.append(f"{name} {value:.6g} and {other:.6g}" + (f" ({apart:.1e} apart)" if apart else ""))
    for name, values in _part(ours, "each"):
        others = theirs["each"][name]
        num_equal = sum(a == b for a, b in zip(values, others, strict=False))
        told.append(f"{num_equal} of {max(len(values), len(others))} {name} equal")
    for name, values in _part(ours, "any order"):
        num_equal = (Counter(map(str, values)) & Counter(map(str, theirs["any order"][name]))).total()
        told.append(f"{num_equal} of {len(values)} {name} equal")
    told += [f"{name} {value:,} and {theirs['told'][name]:,}" for name, value in _part(ours, "told")]
    return ", ".join(told)


def _part(found: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    return list(found.get(name, {}).items())


def table(rows: Sequence[Row]) -> str:
    """The rows as Markdown; medians."""
    lines = ["| stage | wall: ours, nanochat | ratio | CPU: ours, nanochat | ratio | peak MiB: ours, nanochat | ratio "
             "| results | not the same work |", "|---|---|---|---|---|---|---|---|---|"]  # fmt: skip
    return "\n".join([*lines, *map(line, rows)]) + "\n"


def line(row: Row) -> str:
    """One of them."""
    if not row.pairs:
        return f"| {row.title} | not run: {row.problem} | | | | | | | |"
    cells = []
    for what in ("wall_s", "cpu_s", "memory_mib"):
        cells += [", ".join(_shown(row, what, side) for side in (0, 1)), spread(row.ratios(what))]
    compared = results(*(each.result for each in row.pairs[-1])) or "-"
    return f"| {row.title} | " + " | ".join([*cells, compared, row.note or "-"]) + " |"


def _shown(row: Row, what: str, side: int) -> str:
    if what == "memory_mib":
        return f"{statistics.median(pair[side].memory_mib for pair in row.pairs):,.0f}"
    if not row.unit:
        return f"{statistics.median(getattr(pair[side], what) for pair in row.pairs):.2f} s"
    value = statistics.median(getattr(pair[side], what) / pair[side].count for pair in row.pairs)
    return f"{1e3 * value:.2f} ms/{row.unit}"
