"""Immutable file content, named by its sha256.

Equal files are stored once, whoever made them. A blob is trusted only after its bytes were hashed in this process:
being there under the right name and with the right size is enough to skip an upload, not to serve a read.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nanochat_core.base.errors import CorruptError
from nanochat_core.store.filesystem import READ_ONLY, Files, FolderFiles
from nanochat_core.store.manifest import FileEntry

COPY_BYTES = 4 << 20


def blob_key(sha256: str) -> str:
    return f"blobs/sha256/{sha256[:2]}/{sha256}"


def hash_file(path: Path) -> FileEntry:
    """Digest and size of a file, read once and in big pieces."""
    with path.open("rb", buffering=0) as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileEntry(sha256=digest.hexdigest(), num_bytes=file.tell())


def copy_hashed(source: Path, target: Path) -> FileEntry:
    """Copy a file; the digest is of the bytes that were written, even if `source` changes meanwhile."""
    digest, num_bytes = hashlib.sha256(), 0
    with source.open("rb", buffering=0) as reader, target.open("wb", buffering=0) as writer:
        while piece := reader.read(COPY_BYTES):
            digest.update(piece)
            num_bytes += len(piece)
            view = memoryview(piece)
            while view:  # an unbuffered write may take only a part
                view = view[writer.write(view) or 0 :]
    return FileEntry(sha256=digest.hexdigest(), num_bytes=num_bytes)


def matches(path: Path, entry: FileEntry) -> bool:
    """Whether the file at `path` is there and has the promised bytes."""
    return seen(path) == entry


def seen(path: Path) -> FileEntry | None:
    """What is at `path`; None when nothing is."""
    try:
        return hash_file(path)
    except FileNotFoundError:
        return None


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Fail when `path` is written to inside the block: what was hashed is then not what was sent."""
    before = path.stat()
    yield
    after = path.stat()
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise CorruptError(f"{path} changed while it was uploaded", hint="publish only files that nobody writes to")


class Blobs:
    """The blobs of one store."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def has(self, entry: FileEntry) -> bool:
        return self.files.num_bytes(blob_key(entry.sha256)) == entry.num_bytes

    def add(self, local: Path) -> FileEntry:
        """Store the content of a file."""
        return self._add_to_folder(local) if isinstance(self.files, FolderFiles) else self._upload(local)

    def _add_to_folder(self, local: Path) -> FileEntry:
        # One pass that reads, hashes and writes. It replaces an equal blob, which also heals a damaged one.
        files = self.files
        assert isinstance(files, FolderFiles)
        with files.explained(f"storing {local.name}"), files.scratch() as temporary:
            entry = copy_hashed(local, temporary)
            files.settle(temporary, blob_key(entry.sha256), mode=READ_ONLY)
        return entry

    def _upload(self, local: Path) -> FileEntry:
        with self.files.explained(f"storing {local.name}"), unchanged(local):
            entry = hash_file(local)
            if not self.has(entry):
                self.files.put(local, blob_key(entry.sha256))
        return entry

    def get(self, entry: FileEntry, local: Path) -> bool:
        """Copy a blob to `local`; the bytes are not checked here."""
        return self.files.get(blob_key(entry.sha256), local)

    def remove(self, entry: FileEntry) -> None:
        self.files.remove(blob_key(entry.sha256))
