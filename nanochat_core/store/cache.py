"""Local copies of a remote store's blobs, verified at each use and held under a size cap.

The last use of a copy is its modification time. When room is needed the longest unused go first, never one that the
current fetch wants, and never one that a living process still reads through a view (views.py): a training run opens
its shards for hours after it fetched them. A fetch larger than the cap is served all the same; the cap is exceeded
until the next one.
"""

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from nanochat_core.store.blobs import Blobs, blob_key, hash_file, seen
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
        return self._download(entry, path)

    def _download(self, entry: FileEntry, path: Path) -> FileEntry | None:
        with scratch_file(self.folder / "tmp") as temporary:
            if not self.blobs.get(entry, temporary):
                return None
            found = hash_file(temporary)
            if found == entry:  # no fsync: a copy torn by a power cut is found by its digest
                temporary.chmod(READ_ONLY)
                path.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, path)
            return found

    def make_room(self, wanted: Iterable[FileEntry]) -> None:
        """Evict the longest unused copies until `wanted` fits under the cap."""
        sweep_scratch(self.folder / "tmp")
        keep = {entry.sha256: entry for entry in wanted}
        copies = sorted(self._copies())
        present = {path.name for _, _, path in copies}
        incoming = sum(entry.num_bytes for sha256, entry in keep.items() if sha256 not in present)
        excess = sum(num_bytes for _, num_bytes, _ in copies) + incoming - self.max_bytes
        protected = keep.keys() | self.views.targets_in_use()
        for _, num_bytes, path in copies:
            if excess <= 0:
                return
            if path.name not in protected:
                path.unlink(missing_ok=True)
                excess -= num_bytes
        if excess > 0:
            log.warning("the cache %s is %d MB over its cap: everything in it is in use", self.folder, excess // 10**6)

    def _copies(self) -> Iterable[tuple[float, int, Path]]:
        for path in (self.folder / "blobs").glob("sha256/*/*"):
            with suppress(FileNotFoundError):
                facts = path.stat()
                yield facts.st_mtime, facts.st_size, path
