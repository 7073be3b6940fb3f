"""One file on its way: the bytes that have arrived, their digest so far, and what is known of where they are from.

Bytes go into `<name>.part` and are kept when a download breaks off, with notes beside them; a whole file is renamed to
its target. One process at a time writes to a part, which the kernel guards.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat_core.base import files, locks
from nanochat_core.base.errors import HardwareError, MissingError, NanochatError
from nanochat_core.base.limits import limit_error
from nanochat_core.base.units import size
from nanochat_core.data.hub import public

BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One file to fetch."""

    url: Callable[[str], str]
    """Its address at a place (the base address of a Downloader)."""
    target: Path
    sha256: str | None = None
    num_bytes: int | None = None
    check: Callable[[Path], None] | None = None
    """Raises a NanochatError for a file that is not what it should be."""


@dataclass(frozen=True)
class Fetched:
    """What came; `url` is where it is from, without a query, or empty for a file that was there already."""

    sha256: str
    num_bytes: int
    url: str


class Part:
    """The bytes of one file that have arrived, their digest so far, and what is known of where they are from."""

    def __init__(self, wanted: Wanted) -> None:
        self.wanted = wanted
        self.path = wanted.target.with_name(f"{wanted.target.name}.part")
        self._notes = wanted.target.with_name(f"{wanted.target.name}.part.json")
        self.base: str | None = None
        self.validator: str | None = None
        self.total: int | None = None
        # most_bytes: before any restart; is_glued: more than one response went into it
        self.digest, self.num_bytes, self.most_bytes, self.is_glued = hashlib.sha256(), 0, 0, False
        with disk_errors(self.path):
            self.file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644), "r+b", buffering=0)
        self._lock()
        self._take_up()

    def _lock(self) -> None:
        """One writer at a time: of a driver that lost its step to another one, the download may still be going on."""
        try:
            locks.take(self.file, self.path)
        except locks.HeldError as error:
            self.file.close()
            raise NanochatError(
                f"{self.path} is being written by another process", hint="wait for it, or stop it, and run again"
            ) from error

    def _take_up(self) -> None:
        """Go on with what an earlier process left; notes that do not fit to it mean from the start."""
        try:
            notes = json.loads(self._notes.read_text())
            if notes["sha256"] != self.wanted.sha256:
                raise ValueError("begun for another file")
            self.base, self.validator, self.total = notes["base"], notes["validator"], notes["total"]
        except (OSError, ValueError, TypeError, KeyError):
            return self.restart()
        while block := self.file.read(BLOCK_BYTES):
            self._count(block)
        self.is_glued = self.num_bytes > 0

    def restart(self, base: str | None = None, *, validator: str | None = None, total: int | None = None) -> None:
        """Throw away what is here, and note what comes next: the notes are written before the first byte is."""
        self.base, self.validator, self.total = base, validator, total
        self.digest, self.num_bytes, self.is_glued = hashlib.sha256(), 0, False
        notes = {"base": base, "validator": validator, "total": total, "sha256": self.wanted.sha256}
        with disk_errors(self.path):
            self.file.seek(0)
            self.file.truncate()
            files.write_whole(self._notes, json.dumps(notes).encode())

    def write(self, block: bytes) -> None:
        with disk_errors(self.path, lacking=(self.total or 0) - self.num_bytes):
            view = memoryview(block)
            while view:  # an unbuffered write may take only a part
                view = view[self.file.write(view) or 0 :]
        self._count(block)

    def _count(self, block: bytes) -> None:
        self.digest.update(block)
        self.num_bytes += len(block)
        self.most_bytes = max(self.most_bytes, self.num_bytes)

    def settle(self, url: str) -> Fetched:
        """Make it the target."""
        with disk_errors(self.path):
            files.sync(self.path)
            files.move(self.path, self.wanted.target)
            self._notes.unlink(missing_ok=True)
        return Fetched(self.digest.hexdigest(), self.num_bytes, public(url))


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_space(folder: Path, num_bytes: int) -> None:
    """Raise HardwareError when the disk below `folder` cannot take so many bytes more."""
    free = files.free_bytes(folder)
    if free is not None and num_bytes > free:
        raise _full(folder, f"{size(free)} are free, {size(num_bytes)} are needed", num_bytes - free)


def _full(path: Path, seen: str, lacking: int) -> HardwareError:
    hint = "free so much, or set NANOCHAT_HOME to a larger disk; what has arrived is kept"
    return HardwareError(f"the disk of {path} is too small: {seen}; {lacking:,} bytes are missing", hint=hint)


@contextlib.contextmanager
def disk_errors(path: Path, *, lacking: int = 0) -> Iterator[None]:
    """Turn what a disk says when it fails into an error that names the path."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise _full(path, "it is full", lacking) from error
        if limit := limit_error(error, where=str(path)):
            raise limit from error
        raise MissingError(
            f"{path} cannot be written: {error.strerror}", hint="check the disk and the folder"
        ) from error
