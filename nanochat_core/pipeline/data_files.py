"""What stands for files of data in a cache key: their names below the folder that was given, and their content.

Reading is what tells whether a file changed: size and time do not (an editor may keep both, a link may point
elsewhere). So files are read while all of them together cost less than a second. Of more, the ends and a few blocks
between are read, and size, times and inode count as well: of these nobody can set the time of change.
"""

import hashlib
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

READ_BYTES = 256 << 20  # all files together: about half a second
BLOCK_BYTES = 64 << 10
NUM_BLOCKS = 16

Stamp = tuple[int, ...]


def digests(files: Sequence[Path], root: Path) -> list[list[str]]:
    """[name, digest] of each file, in their order; names are relative to `root`, so a folder may be moved."""
    is_sampled = sum(file.stat().st_size for file in files) > READ_BYTES
    return [[_name(file, root), _digest(file, _stamp(file), is_sampled=is_sampled)] for file in files]


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
