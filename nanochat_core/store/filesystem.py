"""Objects by key under one URL: a folder, or anything that fsspec opens.

Two classes with one face. `Files` trusts a server to make a single upload visible whole or not at all; `FolderFiles`
gets the same from a temporary file, fsync and rename. Never `fs.open(key, "wb")`: when its body raises, s3fs completes
the upload and a truncated object becomes visible (measured); `pipe_file` and `put_file` abort it.
"""

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core.base import files
from nanochat_core.base.errors import ConfigError
from nanochat_core.store.failures import explained
from nanochat_core.store.parallel import in_parallel

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem  # at run time where a store is opened; most verbs open none

READ_ONLY = 0o444
PART_BYTES = 16 << 20  # s3fs's own 50 MiB parts, several files at once, cost gigabytes of memory
PART_CONCURRENCY = 4
SCRATCH_KEPT_S = 24 * 3600  # an older temporary file belongs to a process that was killed


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a listing says of an object."""

    num_bytes: int
    modified: float
    """By the storage's clock, in seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Location:
    """A store's address: the URL as people write it, and fsspec's protocol and path for it."""

    url: str
    protocol: str
    path: str


def parse_url(url: str) -> Location:
    """Where `url` points; a plain path is a folder. Keys in the URL are refused: it ends up in logs."""
    protocol, separator, rest = url.partition("://")
    if not separator:
        return _folder_location(url)
    if "@" in rest.partition("/")[0]:
        raise ConfigError(
            f"the store URL {protocol}://... contains a user or a key",
            hint="put the key into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    if protocol in ("file", "local"):
        return _folder_location(rest if rest.startswith("/") else "")
    path = rest.strip("/")
    if not path or re.search(r"[?#]", path):
        raise ConfigError(
            f"the store URL {url!r} needs a bucket and a plain prefix",
            hint="write s3://bucket/prefix; the server's address goes into AWS_ENDPOINT_URL",
        )
    return Location(url=f"{protocol}://{path}", protocol=protocol, path=f"/{path}" if protocol == "memory" else path)


def _folder_location(text: str) -> Location:
    if not text or re.match(r"[a-z0-9]+:/", text):
        raise ConfigError(
            f"{text!r} is neither a folder nor a store URL",
            hint="write /a/folder, file:///a/folder or s3://bucket/prefix",
        )
    path = str(Path(text).expanduser().absolute())
    return Location(url=path, protocol="file", path=path)


def open_files(url: str) -> "Files":
    """The objects under `url`, checked to be reachable when it is remote. A folder is made by the first write."""
    import fsspec

    location = parse_url(url)
    if location.protocol == "file":
        return FolderFiles(location, fsspec.filesystem("file"))
    if location.protocol == "s3":
        from nanochat_core.store.s3_open import open_s3  # botocore takes a while to import

        return open_s3(location)
    try:
        filesystem = fsspec.filesystem(location.protocol)
    except (ValueError, ImportError) as error:
        raise ConfigError(f"cannot open {location.url}: {error}", hint="use a folder or s3://bucket/prefix") from error
    return Files(location, filesystem)


class Files:
    """Objects on a server. Keys are relative and use "/"; `None` and `False` mean that there is no such object."""

    folder: Path | None = None
    has_atomic_create = False
    """Whether of any number of `create` of one key exactly one succeeds."""

    def __init__(
        self, location: Location, fs: "AbstractFileSystem", *, failures: tuple[type[BaseException], ...] = (OSError,)
    ) -> None:
        self.location = location
        self.fs = fs
        self.failures = failures

    def path(self, key: str) -> str:
        return f"{self.location.path}/{key}" if key else self.location.path

    def explained(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return explained(self.failures, url=self.location.url, doing=doing)

    def num_bytes(self, key: str) -> int | None:
        with self.explained(f"looking for {key}"):
            try:
                facts: dict[str, Any] = self.fs.info(self.path(key))
            except (FileNotFoundError, NotADirectoryError):
                return None
        return int(facts["size"]) if facts["type"] == "file" else None

    def read(self, key: str) -> bytes | None:
        with self.explained(f"reading {key}"):
            try:
                content: bytes = self.fs.cat_file(self.path(key))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
        return content

    def get(self, key: str, local: Path) -> bool:
        """Copy an object to `local`. The bytes are not checked here."""
        with self.explained(f"fetching {key}"):
            try:
                self.fs.get_file(self.path(key), str(local))
            except FileNotFoundError:
                return False
        return True

    def keys(self, prefix: str) -> list[str]:
        """Every object below `prefix`, sorted."""
        with self.explained(f"listing {prefix}"):
            found = self.fs.find(self.path(prefix))
        return sorted(str(name)[len(self.location.path) + 1 :] for name in found)

    def stamps(self, prefix: str) -> dict[str, Stamp]:
        """Every object below `prefix` with its size and age."""
        with self.explained(f"listing {prefix}"):
            found = self.fs.find(self.path(prefix), detail=True)
        return {str(name)[len(self.location.path) + 1 :]: _stamp(facts) for name, facts in sorted(found.items())}

    def now(self) -> float:
        """The time by the clock that stamps the objects."""
        return time.time()

    def write(self, key: str, content: bytes) -> None:
        with self.explained(f"writing {key}"):
            self.fs.pipe_file(self.path(key), content)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object that is not there yet; False when it is. Here the look and the write are two requests."""
        if self.num_bytes(key) is not None:
            return False
        self.write(key, content)
        return True

    def touch(self, key: str) -> None:
        """Make an object as young as a new one; nothing happens when it is not there."""
        content = self.read(key)
        if content is not None:
            self.write(key, content)

    def put(self, local: Path, key: str) -> None:
        with self.explained(f"uploading {key}"):
            self.fs.put_file(str(local), self.path(key))

    def remove(self, key: str) -> None:
        with self.explained(f"removing {key}"), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.path(key))

    def remove_below(self, prefix: str) -> None:
        """Remove every object below `prefix`."""
        in_parallel(self.remove, self.keys(prefix))


class FolderFiles(Files):
    """Objects in a folder of this machine."""

    has_atomic_create = True

    def __init__(self, location: Location, fs: "AbstractFileSystem") -> None:
        super().__init__(location, fs)
        self.folder: Path = Path(location.path)

    def write(self, key: str, content: bytes) -> None:
        with self.explained(f"writing {key}"), self.scratch() as temporary:
            temporary.write_bytes(content)
            self.settle(temporary, key)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object that is not there yet; False when it is. A link is made by one of many only, also on NFS."""
        with self.explained(f"writing {key}"), self.scratch() as temporary:
            temporary.write_bytes(content)
            try:
                self.settle(temporary, key, place=_link)
            except FileExistsError:
                return False
        return True

    def touch(self, key: str) -> None:
        with self.explained(f"touching {key}"), contextlib.suppress(FileNotFoundError):
            try:
                os.utime(self.folder / key)
            except PermissionError:  # another user's file: only its owner may date it, the group may replace it
                super().touch(key)

    def keys(self, prefix: str) -> list[str]:
        """Every object below `prefix`, sorted. fsspec's own listing fails when a file goes away while it looks."""
        with self.explained(f"listing {prefix}"):
            found = [Path(parent, name) for parent, _, names in os.walk(self.folder / prefix) for name in names]
        return sorted(path.relative_to(self.folder).as_posix() for path in found)

    def stamps(self, prefix: str) -> dict[str, Stamp]:
        found: dict[str, Stamp] = {}
        for key in self.keys(prefix):
            with self.explained(f"listing {prefix}"), contextlib.suppress(FileNotFoundError):
                facts = (self.folder / key).stat()
                found[key] = Stamp(num_bytes=facts.st_size, modified=facts.st_mtime)
        return found

    def now(self) -> float:
        """The clock of the file system, which may be another machine's; ours where nothing can be written."""
        try:
            with self.scratch() as probe:
                probe.touch()
                return probe.stat().st_mtime
        except OSError:
            return time.time()

    def put(self, local: Path, key: str) -> None:
        with self.explained(f"writing {key}"), self.scratch() as temporary:
            shutil.copyfile(local, temporary)
            self.settle(temporary, key)

    def remove(self, key: str) -> None:
        with self.explained(f"removing {key}"):
            (self.folder / key).unlink(missing_ok=True)

    def remove_below(self, prefix: str) -> None:
        with self.explained(f"removing {prefix}"), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.folder / prefix)

    def scratch(self) -> contextlib.AbstractContextManager[Path]:
        """A path in the store's own file system, so that the rename into place is atomic."""
        with self.explained("making a temporary file"):
            files.make_folder(self.folder / "tmp", within=self.folder)
        return scratch_file(self.folder / "tmp")

    def settle(
        self,
        temporary: Path,
        key: str,
        *,
        mode: int | None = None,
        place: Callable[[Path, Path], None] = files.move,
    ) -> None:
        """Make a finished temporary file appear under `key`, whole and on the disk, or not at all.

        `place` is the last step: by default a rename, which replaces what is there. In a store that a group shares the
        file is the group's, whatever this process's umask.
        """
        target = self.folder / key
        files.make_folder(target.parent, within=self.folder)
        files.sync(temporary)
        if mode is not None:
            files.set_mode(temporary, mode)
        files.share(temporary, files.shared_rights(self.folder))
        place(temporary, target)
        files.sync_folder(target.parent)


def _link(temporary: Path, target: Path) -> None:
    """Like a rename that fails when the target is there."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in files.NO_LINKS:
            raise
        _copy_exclusively(temporary, target)


def _copy_exclusively(temporary: Path, target: Path) -> None:
    """Without links: exclusive all the same, but for a moment the file is not whole."""
    content = temporary.read_bytes()
    with target.open("xb") as file:
        try:
            file.write(content)
            file.flush()
            files.sync(target)
        except OSError:
            target.unlink()  # half of it, on a full disk, say
            raise
    files.set_mode(target, temporary.stat().st_mode & 0o777)


def _stamp(facts: Mapping[str, Any]) -> Stamp:
    """fsspec's file systems name the time each in their own way."""
    modified = next((facts[name] for name in ("LastModified", "mtime", "created") if facts.get(name) is not None), 0.0)
    seconds = modified.timestamp() if isinstance(modified, datetime) else float(modified)
    return Stamp(num_bytes=int(facts["size"]), modified=seconds)


@contextlib.contextmanager
def scratch_file(folder: Path) -> Iterator[Path]:
    """A fresh path in `folder`; what is left of it goes away at the end."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{os.getpid()}-{secrets.token_hex(8)}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def sweep_scratch(folder: Path) -> None:
    """Remove what killed processes left behind."""
    for path in folder.glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > SCRATCH_KEPT_S:
                path.unlink()
