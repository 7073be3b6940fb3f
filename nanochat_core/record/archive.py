"""A bundle's files, in a folder or a zip: the same names, and nothing read that could leave the bundle.

Links, absolute names and `..` are refused, since a stranger's bundle is opened on one's own machine. Written whole or
not at all, and with fixed dates in a zip, so that the same runs give the same bytes.
"""

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.store.manifest import FileEntry, is_safe_name

MAX_READ_BYTES = 256 << 20  # of a file that is taken into memory; weights never are
CHUNK_BYTES = 1 << 20
ZIP_DATE = (1980, 1, 1, 0, 0, 0)


class Archive(Protocol):
    """What a check needs of a bundle."""

    def names(self) -> list[str]: ...
    def read(self, name: str) -> bytes: ...
    def entry(self, name: str) -> FileEntry: ...


def open_archive(path: Path) -> Archive:
    """The bundle at `path`."""
    if path.is_dir():
        return FolderArchive(path)
    if not path.is_file():
        raise MissingError(f"there is no bundle at {path}", hint="give a folder or a .zip that `nanochat bundle` wrote")
    if not zipfile.is_zipfile(path):
        raise CorruptError(f"{path} is no zip file, or only a part of one", hint="copy the whole bundle again")
    return ZipArchive(path)


class FolderArchive:
    """A bundle as a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        paths = [path for path in self._folder.rglob("*") if path.is_symlink() or not path.is_dir()]
        return sorted(_checked(path.relative_to(self._folder).as_posix(), is_plain=_is_plain(path)) for path in paths)

    def read(self, name: str) -> bytes:
        with (self._folder / _checked(name)).open("rb") as file:
            return _bounded(file, name)

    def entry(self, name: str) -> FileEntry:
        with (self._folder / _checked(name)).open("rb") as file:
            return _entry(file)


class ZipArchive:
    """A bundle as one file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        with zipfile.ZipFile(self._path) as packed:
            names = [info.filename for info in packed.infolist() if not info.is_dir()]
        if len(set(names)) != len(names):
            raise CorruptError(f"{self._path} holds {_twice(names)} twice", hint="ask for a sound bundle")
        return sorted(_checked(name) for name in names)

    def read(self, name: str) -> bytes:
        try:
            with zipfile.ZipFile(self._path) as packed, packed.open(_checked(name)) as file:
                return _bounded(cast(BinaryIO, file), name)
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise CorruptError(f"{name} of {self._path} cannot be unpacked: {error}") from error

    def entry(self, name: str) -> FileEntry:
        try:
            with zipfile.ZipFile(self._path) as packed, packed.open(_checked(name)) as file:
                return _entry(cast(BinaryIO, file))
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            raise CorruptError(f"{name} of {self._path} cannot be unpacked: {error}") from error


def _twice(names: list[str]) -> str:
    return next(name for name in names if names.count(name) > 1)


def _is_plain(path: Path) -> bool:
    return path.is_file() and not path.is_symlink()


def _checked(name: str, *, is_plain: bool = True) -> str:
    if not is_plain or not is_safe_name(name) or "\\" in name:
        raise CorruptError(f"the bundle holds {name!r}, which is no plain file", hint="do not unpack it")
    return name


def _bounded(file: BinaryIO, name: str) -> bytes:
    content = file.read(MAX_READ_BYTES + 1)
    if len(content) > MAX_READ_BYTES:
        raise CorruptError(f"{name} is over {MAX_READ_BYTES >> 20} MiB, which no evidence is")
    return content


def _entry(file: BinaryIO) -> FileEntry:
    digest, num_bytes = hashlib.sha256(), 0
    while chunk := file.read(CHUNK_BYTES):
        digest.update(chunk)
        num_bytes += len(chunk)
    return FileEntry(sha256=digest.hexdigest(), num_bytes=num_bytes)


def entry_of(content: bytes | Path) -> FileEntry:
    """Digest and size of content, or of a file."""
    if isinstance(content, bytes):
        return FileEntry(sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))
    with content.open("rb") as file:
        return _entry(file)


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
