"""What dead processes left in a machine's home folder: scratch of steps, views of the cache, lock files.

Old alone is not enough: a step's scratch goes when nobody holds its lock and nothing in it was touched for long, a
view or a lock file when the kernel says that no process holds it. Locks are asked for, never waited for.
"""

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from nanochat_core.base.locks import try_exclusive
from nanochat_core.store.views import Views


@dataclass(frozen=True, kw_only=True)
class Leftover:
    """One thing in the home folder that nobody uses."""

    kind: str
    """work, view or lock."""
    path: Path
    num_bytes: int


def find_leftovers(home: Path, *, older_than_s: float) -> list[Leftover]:
    """What may go; reads only."""
    now = time.time()
    found = []
    for folder in sorted((home / "work").glob("*")):
        num_bytes, touched = _extent(folder)
        if now - touched > older_than_s and _is_free(_lock_of(folder)):
            found.append(Leftover(kind="work", path=folder, num_bytes=num_bytes))
    views = Views(home / "cache" / "views")
    found += [Leftover(kind="view", path=view, num_bytes=0) for view in views.unused(older_than_s=older_than_s)]
    for lock in sorted((home / "locks").glob("*")):
        if now - _touched(lock) > older_than_s and _is_free(lock):
            found.append(Leftover(kind="lock", path=lock, num_bytes=0))
    return found


def remove_leftover(leftover: Leftover, *, older_than_s: float) -> bool:
    """Take it away, unless somebody has begun to use it since; whether it is gone."""
    if leftover.kind == "view":
        return Views(leftover.path.parent).remove(leftover.path)
    lock = leftover.path if leftover.kind == "lock" else _lock_of(leftover.path)
    with try_exclusive(lock) as is_ours:
        if is_ours is False or time.time() - _extent(leftover.path)[1] <= older_than_s:
            return False
        if leftover.kind == "lock":
            lock.unlink(missing_ok=True)
        else:
            shutil.rmtree(leftover.path, ignore_errors=True)
    return not leftover.path.exists()


def _lock_of(work: Path) -> Path:
    return work.parent.parent / "locks" / work.name


def _is_free(lock: Path) -> bool:
    """Whether nobody holds it; a file that is not there is held by nobody."""
    with try_exclusive(lock) as is_ours:
        return is_ours is not False


def _extent(path: Path) -> tuple[int, float]:
    """Bytes below a path and the youngest time stamp of any of it."""
    num_bytes, touched = 0, _touched(path)
    for parent, _, names in os.walk(path):
        touched = max(touched, _touched(Path(parent)))
        for name in names:
            with suppress(FileNotFoundError):
                facts = Path(parent, name).lstat()
                num_bytes += facts.st_size
                touched = max(touched, facts.st_mtime)
    return num_bytes, touched


def _touched(path: Path) -> float:
    """When it was last written to; now when it has just gone."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()
