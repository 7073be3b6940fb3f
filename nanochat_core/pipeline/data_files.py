"""What stands for files of data in a cache key: their content, and of their names only what a step makes of them.

Reading is what tells whether a file changed: size and time do not (an editor may keep both, a link may point
elsewhere). So files are read while all of them together cost less than a second. Of more, the ends and a few blocks
between are read, and size, times and inode count as well: of these nobody can set the time of change. `--verify-inputs`
reads all of them (`reading`).
"""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanochat_core.data.files import Found

READ_BYTES = 256 << 20  # all files together: about half a second
BLOCK_BYTES = 64 << 10
NUM_BLOCKS = 16

Stamp = tuple[int, ...]


@dataclass
class Seen:
    """The files of a key."""

    is_whole: bool = False
    """They are read whole, whatever that takes."""
    stamps: dict[Path, Stamp] = field(default_factory=dict)
    """As they were just before they were read."""

    def __str__(self) -> str:
        """For people, who asked for all of it to be read."""
        num_bytes = sum(size for size, *_ in self.stamps.values())
        return f"{num_bytes:,} bytes of {len(self.stamps):,} input files read"


_seen: ContextVar[Seen | None] = ContextVar("_seen", default=None)


@contextlib.contextmanager
def reading(*, whole: bool) -> Iterator[Seen]:
    """Within the block, files that keys are made of are read whole, or large ones by samples; yields which they are."""
    token = _seen.set(seen := Seen(whole))
    try:
        yield seen
    finally:
        _seen.reset(token)


def stamps(path: str | None) -> list[list[str]]:
    """[name, digest] of a file, or of every file below a folder; none where there is nothing, and the step says so."""
    if not path:
        return []  # Path("") is the current folder, and walking a home takes minutes
    chosen = Path(path).expanduser()
    walk = os.walk(chosen, followlinks=True)  # data are often linked into place
    below = sorted(Path(folder, name) for folder, _, names in walk for name in names)
    files = [chosen] if chosen.is_file() else [file for file in below if file.is_file()]
    return digests(files, chosen)


def texts(found: "Found", roles: Sequence[str]) -> list[list[str]]:
    """[form, role, digest] of each file in the order in which they are read: what else it is called is not used."""
    from nanochat_core.data.files import form_of

    return [
        [form_of(file), role, digest]
        for file, role, digest in zip(found.files, roles, contents(found.files), strict=True)
    ]


def local_folder(dataset: str | None) -> Path | None:
    """The folder that a dataset's name means, where it is one on this machine."""
    folder = Path(dataset).expanduser() if dataset else None
    return folder if folder and folder.is_dir() else None


def digests(files: Sequence[Path], root: Path) -> list[list[str]]:
    """[name, digest] of each file, in their order; names are relative to `root`, so a folder may be moved."""
    return [[_name(file, root), digest] for file, digest in zip(files, contents(files), strict=True)]


def contents(files: Sequence[Path]) -> list[str]:
    """A digest of each file, in their order: what they are called and where they are does not count."""
    stamps = {file: _stamp(file) for file in files}
    seen = _seen.get() or Seen()
    seen.stamps |= stamps
    is_sampled = not seen.is_whole and sum(stamp[0] for stamp in stamps.values()) > READ_BYTES
    return [_digest(file, stamps[file], is_sampled=is_sampled) for file in files]


def _name(file: Path, root: Path) -> str:
    return str(file.relative_to(root)) if file != root and file.is_relative_to(root) else file.name


def _stamp(file: Path) -> Stamp:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino


@lru_cache(maxsize=4096)  # a run asks for each key several times
def _digest(file: Path, stamp: Stamp, *, is_sampled: bool) -> str:
    size = stamp[0]
    if not is_sampled:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    places = sorted({max(0, number * (size - BLOCK_BYTES) // NUM_BLOCKS) for number in range(NUM_BLOCKS + 1)})
    found = hashlib.sha256(f"{stamp}".encode())
    with file.open("rb") as opened:
        for block in _blocks(opened.fileno(), places):
            found.update(block)
    return f"sampled:{found.hexdigest()}"


def _blocks(handle: int, places: Iterable[int]) -> Iterable[bytes]:
    return (os.pread(handle, BLOCK_BYTES, place) for place in places)
