"""Local copies of a remote store's blobs, verified at each use and held under a size cap.

The last use of a copy is its modification time. When room is needed the longest unused go first, never one that the
current fetch wants, and never one that a living process still reads through a view (views.py): a training run opens
its shards for hours after it fetched them. A fetch larger than the cap is served all the same; the cap is exceeded
until the next one.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from nanochat_core.base import files
from nanochat_core.store.blobs import Blobs, blob_key, copy_hashed, hash_file, seen
from nanochat_core.store.filesystem import READ_ONLY, scratch_file, sweep_scratch
from nanochat_core.store.manifest import FileEntry
from nanochat_core.store.views import Views

log = logging.getLogger(__name__)


class Cache:
    """Verified copies of `blobs` below `folder`."""

    def __init__(self, blobs: Blobs, *, folder: Path, max_bytes: int, views: Views) -> None:
        self.blobs = blobs
        self.folder = folder
        self.max_bytes = max_bytes
        self.views = views

    def path(self, entry: FileEntry) -> Path:
        return self.folder / blob_key(entry.sha256)

    def obtain(self, entry: FileEntry) -> FileEntry | None:
        """Have a good copy at `path(entry)`; what was seen instead when there is none, None for nothing."""
        path = self.path(entry)
        if seen(path) == entry:
            os.utime(path)
            return entry
        path.unlink(missing_ok=True)
        return self._download(entry)

    def keep(self, files: Mapping[FileEntry, Path]) -> None:
        """Copy files that were just uploaded, as far as there is room: the next step reads them. Never fails."""
        wanted: dict[FileEntry, Path] = {}
        num_bytes = 0
        for entry, local in files.items():
            if num_bytes + entry.num_bytes <= self.max_bytes and not self.path(entry).exists():
                wanted[entry] = local
                num_bytes += entry.num_bytes
        try:
            room = self._evict(wanted) + num_bytes
            for entry, local in wanted.items():
                if entry.num_bytes <= room and self._copy(entry, local):
                    room -= entry.num_bytes
        except OSError as error:  # a full disk, say
            log.warning("the cache %s does without what was just published: %s", self.folder, error)

    def _copy(self, entry: FileEntry, local: Path) -> bool:
        with scratch_file(self.folder / "tmp") as temporary:
            if copy_hashed(local, temporary) != entry:
                return False
            self._place(temporary, entry)
            return True

    def _place(self, temporary: Path, entry: FileEntry) -> None:
        """No fsync: a copy torn by a power cut is found by its digest."""
        path = self.path(entry)
        files.set_mode(temporary, READ_ONLY)
        path.parent.mkdir(parents=True, exist_ok=True)
        files.move(temporary, path)

    def _download(self, entry: FileEntry) -> FileEntry | None:
        with scratch_file(self.folder / "tmp") as temporary:
            if not self.blobs.get(entry, temporary):
                return None
            found = hash_file(temporary)
            if found == entry:
                self._place(temporary, entry)
            return found

    def make_room(self, wanted: Iterable[FileEntry]) -> None:
        """Evict the longest unused copies until `wanted` fits under the cap."""
        excess = -self._evict(wanted)
        if excess > 0:
            log.warning("the cache %s is %d MB over its cap: everything in it is in use", self.folder, excess // 10**6)

    def _evict(self, wanted: Iterable[FileEntry]) -> int:
        """What is free under the cap once `wanted` is there as well; negative when too much is in use."""
        sweep_scratch(self.folder / "tmp")
        keep = {entry.sha256: entry for entry in wanted}
        copies = sorted(self._copies())
        present = {path.name for _, _, path in copies}
        incoming = sum(entry.num_bytes for sha256, entry in keep.items() if sha256 not in present)
        free = self.max_bytes - incoming - sum(num_bytes for _, num_bytes, _ in copies)
        protected = keep.keys() | self.views.targets_in_use()
        for _, num_bytes, path in copies:
            if free >= 0:
                break
            if path.name not in protected:
                path.unlink(missing_ok=True)
                free += num_bytes
        return free

    def _copies(self) -> Iterable[tuple[float, int, Path]]:
        for path in (self.folder / "blobs").glob("sha256/*/*"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                yield facts.st_mtime, facts.st_size, path
