"""Read-only folders of links: an artifact's files under their own names, without a copy of their bytes.

A view is named after what it links to, so that fetching the same files again finds the same folder. The process that
asked for it holds a shared file lock until it ends, however it ends; that is how the cache of another process knows
which blobs must stay. A lock, not a lease: kill -9 frees it at once, and no clock is involved.
"""

import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from nanochat_core.base import files, locks
from nanochat_core.base.fingerprint import canonical_json
from nanochat_core.base.locks import try_exclusive

VIEW_KEPT_S = 24 * 3600  # a view that nobody holds: its path may have been handed to a process without the lock

MAX_TRIES = 5

_held: dict[Path, int] = {}  # lock file -> open descriptor; kept for the life of the process on purpose
_guard = threading.Lock()


class Views:
    """The views below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, targets: Mapping[str, Path]) -> Path:
        """A folder in which each name is a link to its target. The targets may still be missing.

        Where there are no symbolic links it is empty until `fill`.
        """
        links, view = self._place(targets)
        with _guard:
            self.folder.mkdir(parents=True, exist_ok=True)
            _hold(view.with_suffix(".lock"))
            if _links(view) != links:
                with files.tolerated(files.NO_SYMLINKS):
                    _build(view, links, os.symlink)
        return view

    def fill(self, targets: Mapping[str, Path]) -> None:
        """When the targets are there: hard links or copies of them, where there are no symbolic links."""
        links, view = self._place(targets)
        with _guard:
            if _links(view) != links and not _holds(view, links):
                _build(view, links, files.link_or_copy)

    def _place(self, targets: Mapping[str, Path]) -> tuple[dict[str, str], Path]:
        links = {name: str(target) for name, target in targets.items()}
        return links, self.folder / hashlib.sha256(canonical_json(links).encode()).hexdigest()[:32]

    def unused(self, *, older_than_s: float) -> list[Path]:
        """Views that nobody holds and nobody asked for in so many seconds, and halves of some that were never built."""
        found = []
        for lock in sorted(self.folder.glob("*.lock")):
            if time.time() - _modified(lock) > older_than_s:
                with try_exclusive(lock) as is_ours:
                    found += [lock.with_suffix("")] if is_ours else []
        halves = [path for path in sorted(self.folder.glob("*.*-*")) if time.time() - _modified(path) > older_than_s]
        return found + halves

    def remove(self, view: Path) -> bool:
        """Take a view away unless somebody holds it; whether it is gone."""
        lock = view.with_suffix(".lock")
        if view.suffix:  # half of one
            _remove(view)
            return not view.exists()
        with try_exclusive(lock) as is_ours:
            if is_ours:
                _remove(view)
                lock.unlink(missing_ok=True)
        return not lock.exists()

    def targets_in_use(self) -> set[str]:
        """File names that a view of a living process links to; views that nobody used for long go away."""
        names: set[str] = set()
        for lock in self.folder.glob("*.lock"):
            view = lock.with_suffix("")
            with try_exclusive(lock) as is_ours:
                if not is_ours:  # held, or another process has just removed it
                    names.update(Path(target).name for target in _links(view).values())
                elif time.time() - lock.stat().st_mtime > VIEW_KEPT_S:
                    _remove(view)
                    lock.unlink(missing_ok=True)
        return names


def _modified(path: Path) -> float:
    """When it was last asked for; now when it has just gone."""
    try:
        return path.lstat().st_mtime
    except FileNotFoundError:
        return time.time()


def _hold(lock: Path) -> None:
    """Share the lock until this process ends."""
    for _ in range(MAX_TRIES):  # some file systems number a file anew at each look
        if _is_current(lock):
            break
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
        locks.share(descriptor, lock)
        if (old := _held.get(lock)) is not None:
            os.close(old)
        _held[lock] = descriptor
    os.utime(lock)


def _is_current(lock: Path) -> bool:
    """Whether the descriptor that we hold is still the file of that name; a lock on a removed file means nothing."""
    if lock not in _held:
        return False
    try:
        return os.path.samestat(os.fstat(_held[lock]), os.stat(lock))
    except FileNotFoundError:
        return False


def _links(view: Path) -> dict[str, str]:
    """Relative name -> where it points; empty when there is no view, or something in it is no link."""
    found: dict[str, str] = {}
    for folder, _, names in os.walk(view):
        for name in names:
            path = Path(folder, name)
            with suppress(OSError):
                found[path.relative_to(view).as_posix()] = os.readlink(path)
    return found


def _holds(view: Path, links: Mapping[str, str]) -> bool:
    """Whether the view has the targets' bytes under their names, and nothing else."""
    found = {Path(folder, name).relative_to(view).as_posix() for folder, _, names in os.walk(view) for name in names}
    return found == set(links) and all(files.is_same(view / name, Path(target)) for name, target in links.items())


def _build(view: Path, links: Mapping[str, str], link: Callable[[str, str], object]) -> None:
    """Put the view in place in one step, and out of the way what was there."""
    token = secrets.token_hex(4)
    fresh, old = view.with_name(f"{view.name}.new-{token}"), view.with_name(f"{view.name}.old-{token}")
    fresh.mkdir()
    try:
        for name, target in links.items():
            path = fresh / name
            path.parent.mkdir(parents=True, exist_ok=True)
            link(target, str(path))
        _set_mode(fresh, 0o555)
        with suppress(FileNotFoundError):
            files.move(view, old)
    except OSError:
        _remove(fresh)
        raise
    try:
        files.move(fresh, view)
    except OSError:
        # Another process was faster; its links are the same ones, or the next check rebuilds them.
        _remove(fresh)
        if _links(view) != dict(links) and not _holds(view, links):
            raise
    _remove(old)


def _set_mode(view: Path, mode: int) -> None:
    for folder, _, _ in os.walk(view):
        files.set_mode(Path(folder), mode)


def _remove(view: Path) -> None:
    _set_mode(view, 0o755)  # a read-only folder cannot be emptied
    shutil.rmtree(view, ignore_errors=True)
