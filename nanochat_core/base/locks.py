"""File locks that are asked for and never waited for: whether anybody uses a thing, and the right to take it away.

The kernel frees a lock when its holder ends, however it ends, so a lock tells the living from the dead without a clock.
Some file systems have none (Lustre without -o flock, NFS without its lock daemon, some of FUSE). There nothing is
locked, which is said once, and what is young counts as in use.
"""

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.EIO, errno.EBADF}
UNLOCKED_KEPT_S = 7 * 24 * 3600.0  # where nothing can be locked: younger than this is taken for in use
Lockable = int | IO[Any]
_told: set[str] = set()


class HeldError(Exception):
    """Another process holds the lock."""


def share(file: Lockable, path: Path) -> None:
    """Tell others that the thing is in use, until the file is closed or this process ends."""
    _flock(file, fcntl.LOCK_SH, path)


def take(file: Lockable, path: Path) -> bool:
    """Be the one holder until the file is closed; HeldError when somebody is. False where there are no locks."""
    return _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB, path)


def _flock(file: Lockable, kind: int, path: Path) -> bool:
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        raise HeldError(str(path)) from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _tell(path, error)
        return False
    return True


def _tell(path: Path, error: OSError) -> None:
    """Once in a process: a cluster's users cannot change it, and nothing of theirs is lost."""
    if not _told:
        log.warning(
            "files in %s cannot be locked (%s): going on without; gc takes what is younger than %d days for in use",
            path.parent, error.strerror, UNLOCKED_KEPT_S // 86400,
        )  # fmt: skip
    _told.add(str(path.parent))


@contextmanager
def try_exclusive(lock: Path) -> Iterator[bool | None]:
    """Within the block: True, the lock is ours; False, somebody holds it; None, there is no such file."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        yield None
        return
    try:
        yield _is_ours(descriptor, lock)
    finally:
        os.close(descriptor)


def _is_ours(descriptor: int, lock: Path) -> bool:
    try:
        return take(descriptor, lock) or time.time() - os.fstat(descriptor).st_mtime > UNLOCKED_KEPT_S
    except HeldError:
        return False
