"""A bundle's files, in a folder or a zip: the same names, and nothing read that could leave the bundle.

Links, absolute names and `..` are refused, since a stranger's bundle is opened on one's own machine. Written whole or
not at all, and with fixed dates in a zip, so that the same runs give the same bytes.
"""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.base.foreign import (
    CHUNK_BYTES,
    FREE_BYTES,
    MAX_FILE_BYTES,
    MAX_LINES,
    MAX_RATIO,
    MAX_TOTAL_BYTES,
    ForeignZip,
    is_plain_name,
    walk,
)
from nanochat_core.store.manifest import FileEntry

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
BLOCK_BYTES = 512  # of st_blocks, whatever the file system's are


class Archive(Protocol):
    """What a check needs of a bundle."""

    def names(self) -> list[str]: ...
    def blocks(self, name: str) -> Iterator[bytes]: ...
    def close(self) -> None: ...


def open_archive(path: Path) -> Archive:
    """The bundle at `path`; MissingError where there is none, CorruptError where it is not safe to read."""
    if path.is_dir():
        return FolderArchive(path)
    if not path.is_file():
        raise MissingError(f"there is no bundle at {path}", hint="give a folder or a .zip that `nanochat bundle` wrote")
    if not zipfile.is_zipfile(path):
        raise CorruptError(f"{path} is no zip file, or only a part of one", hint="copy the whole bundle again")
    return ForeignArchive(path)


class FolderArchive:
    """A bundle as a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        names, num_bytes, num_stored = [], 0, 0
        for entry in walk(self._folder):
            name = Path(entry.path).relative_to(self._folder).as_posix()
            if not entry.is_file(follow_symlinks=False) or not is_plain_name(name):
                raise CorruptError(f"the bundle holds {name!r}, which is no plain file", hint="do not unpack it")
            found = entry.stat(follow_symlinks=False)
            num_bytes, num_stored = num_bytes + found.st_size, num_stored + found.st_blocks * BLOCK_BYTES
            names.append(name)
        # files of holes, which a tar unpacks to in no time; some file systems do not tell what they store
        if num_stored and num_bytes > FREE_BYTES + MAX_RATIO * num_stored:
            raise CorruptError(f"the bundle takes {num_stored:,} bytes of the disk and has {num_bytes:,}: it is holes")
        return sorted(names)

    def blocks(self, name: str) -> Iterator[bytes]:
        with (self._folder / name).open("rb") as file:
            while block := file.read(CHUNK_BYTES):
                yield block

    def close(self) -> None:
        """Nothing is held open."""


class ForeignArchive(ForeignZip):
    """A bundle as one file."""

    def names(self) -> list[str]:
        return sorted(self.entries)


class Reading:
    """Reads the files of a bundle once each, as many and as large as they may be together."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._left_bytes, self._left_lines = MAX_TOTAL_BYTES, MAX_LINES

    def content(self, name: str) -> bytes:
        """A file that is taken into memory; CorruptError where it is too much."""
        pieces, num_bytes = [], 0
        for block in self._archive.blocks(name):
            num_bytes += len(block)
            self._left_lines -= block.count(b"\n")
            if num_bytes > min(MAX_FILE_BYTES, self._left_bytes) or self._left_lines < 0:
                raise CorruptError(
                    f"{name} makes it too much: a file may have {MAX_FILE_BYTES >> 20} MiB, all together "
                    f"{MAX_TOTAL_BYTES >> 20} MiB and {MAX_LINES:,} lines"
                )
            pieces.append(block)
        self._left_bytes -= num_bytes
        return b"".join(pieces)

    def entry(self, name: str) -> FileEntry:
        """Digest and size of a file that is too large for that."""
        return _entry(self._archive.blocks(name))


def _entry(blocks: Iterable[bytes]) -> FileEntry:
    digest, num_bytes = hashlib.sha256(), 0
    for block in blocks:
        digest.update(block)
        num_bytes += len(block)
    return FileEntry(sha256=digest.hexdigest(), num_bytes=num_bytes)


def entry_of(content: bytes | Path) -> FileEntry:
    """Digest and size of content, or of a file."""
    return _entry([content] if isinstance(content, bytes) else FolderArchive(content.parent).blocks(content.name))


def write_archive(out: Path, files: Mapping[str, bytes | Path]) -> None:
    """Write a bundle to a new folder, or to a zip where the name ends so; replaces nothing."""
    if out.exists():
        raise ConfigError(f"{out} is there already", hint="give --out another name, or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".bundle-") as scratch:
        made = Path(scratch) / "made"
        (_write_zip if out.suffix == ".zip" else _write_folder)(made, files)
        made.rename(out)


def _write_folder(folder: Path, files: Mapping[str, bytes | Path]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            shutil.copyfile(content, path)


def _write_zip(path: Path, files: Mapping[str, bytes | Path]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in sorted(files):
            info = zipfile.ZipInfo(name, ZIP_DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            content = files[name]
            with packed.open(info, "w", force_zip64=True) as target:
                if isinstance(content, bytes):
                    target.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, target, CHUNK_BYTES)
