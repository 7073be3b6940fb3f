"""What a child process tells its supervisor: records while it runs (one JSON object per line), and a result at its end.

A training's kinds of record ("event") are start, step, validate, checkpoint and end; an evaluation's is progress. Every
number carries its unit in its name.
"""

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TextIO

from nanochat_core.base import files
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.limits import limit_error
from nanochat_core.base.redaction import redact, redacted_error

RECORDS_NAME = "metrics.jsonl"
RESULT_NAME = "result.json"
Record = dict[str, Any]


class RecordWriter:
    """Appends records; each line is flushed whole, so a follower and a later attempt can read what is there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        written = path.read_bytes() if path.is_file() else b""
        if written and not written.endswith(b"\n"):  # a kill cut the last line short: nobody can read it any more
            files.write_whole(path, written[: written.rfind(b"\n") + 1])
        self._file: TextIO = path.open("a", encoding="utf-8")

    def write(self, event: str, **values: Any) -> None:
        self._file.write(json.dumps({"event": event, "time_s": time.time(), **values}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read_records(path: Path) -> list[dict[str, Any]]:
    """All whole records of a file; a torn last line (a kill in mid-write) is left out."""
    if not path.is_file():
        return []
    return list(_records(path.read_text(encoding="utf-8").split("\n")[:-1]))


def _records(lines: list[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.strip():
            yield json.loads(line)


def keep_until(path: Path, step: int) -> None:
    """Drop the records of steps that a resumed run will take again."""
    kept = [record for record in read_records(path) if record.get("step", 0) < step or record["event"] == "start"]
    files.write_whole(path, "".join(json.dumps(record) + "\n" for record in kept).encode("utf-8"))


class RecordFollower:
    """Reads the records that were appended since the last call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        # held open: the number of a removed file goes to the next one, which then looks like the old
        self._file: BinaryIO | None = path.open("rb") if path.is_file() else None
        self._offset = path.stat().st_size if path.is_file() else 0

    def new_records(self) -> list[dict[str, Any]]:
        if not self.path.is_file():
            return []
        if self._file is None or not self._is_current(self._file):
            self.close()
            self._file, self._offset = self.path.open("rb"), 0  # a resumed attempt put another file in its place
        self._file.seek(self._offset)
        chunk = self._file.read()
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._offset += len(whole)
        return list(_records(whole.decode("utf-8").split("\n")))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _is_current(self, file: BinaryIO) -> bool:
        held = os.fstat(file.fileno())
        return os.path.samestat(held, self.path.stat()) and held.st_size >= self._offset


def write_result(work: Path, result: Record) -> None:
    """What the child says of itself, whole or absent."""
    files.write_whole(work / RESULT_NAME, json.dumps(result).encode())


def told(error: Exception, *, near: Path | None = None) -> Record:
    """An error that nobody expected, as a result: a limit of the machine by its name, else a crash.

    The traceback goes into the log, where there is room for it.
    """
    with contextlib.suppress(OSError):
        print("".join(traceback.format_exception(redacted_error(error))), end="", file=sys.stderr)
    if limit := limit_error(error, near=near):
        return failure(limit)
    return {"status": "crashed", "message": redact(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}")}


def failure(error: NanochatError) -> Record:
    """An error as a result that the supervisor raises again with its kind, message and hint."""
    return {"status": "error", "kind": type(error).__name__, "message": error.message, "hint": error.hint}
