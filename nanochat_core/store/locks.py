"""File locks that are asked for and never waited for: whether anybody uses a thing, and the right to take it away.

The kernel frees a lock when its holder ends, however it ends, so a lock tells the living from the dead without a clock.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def try_exclusive(lock: Path) -> Iterator[bool | None]:
    """Within the block: True, the lock is ours; False, somebody holds it; None, there is no such file."""
    try:
        descriptor = os.open(lock, os.O_RDWR)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)
