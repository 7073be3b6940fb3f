"""What an unfinished step keeps: checkpoints and the like, by name, whole or absent.

The files go first and a marker with their sizes and digests last; taking something away removes the marker first. So a
process that dies in between leaves at worst bytes that nobody looks at. In a store that is a folder, a step may write
straight into `folder / name` and call `put_folder` on that: nothing is copied then.

Under a lease everything written carries its fencing number (`name@7/...`, `name@7.complete.json`), and the lease is
checked before each marker. So a holder that slept and lost it cannot touch a later one's files, whenever it wakes:
it writes and removes under its own and earlier numbers only, and of equal names the highest number is read.

Besides there are records: small sealed objects, the same whoever of the holders writes them.
"""

import fnmatch
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nanochat_core.base import files
from nanochat_core.base.errors import ConfigError, CorruptError
from nanochat_core.store.blobs import hash_file, matches, unchanged
from nanochat_core.store.filesystem import Files
from nanochat_core.store.lease import Lease
from nanochat_core.store.manifest import (
    FileEntry,
    check_key,
    check_name,
    entries_from_json,
    open_sealed_json,
    seal_json,
)
from nanochat_core.store.parallel import in_parallel

log = logging.getLogger(__name__)
MARKER = ".complete.json"
RECORD = ".record.json"
FENCE = "@"  # between a name and its number; no name can hold it


def partial_root(step: str, fingerprint: str) -> str:
    return f"partial/{check_key(step, what='step')}/{check_key(fingerprint, what='fingerprint')}"


def unfinished(files: Files, step: str) -> list[str]:
    """Fingerprints of a step's unfinished ones that keep something, sorted."""
    return sorted({key.split("/")[2] for key in files.keys(f"partial/{check_key(step, what='step')}")})


def list_files(folder: Path) -> list[str]:
    """Relative names of the files below `folder`, sorted. Links to folders, sockets and the like are refused."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder", hint="pass the folder that holds the files")
    names = []
    for parent, subfolders, plain in os.walk(folder):
        for path in [Path(parent, name) for name in plain] + [Path(parent, name) for name in subfolders]:
            name = path.relative_to(folder).as_posix()
            if path.is_file():
                names.append(check_name(name))
            elif path.is_symlink() or not path.is_dir():
                raise ConfigError(f"{path} is neither a file nor a folder", hint="store plain files only")
    return sorted(names)


class Partial:
    """The kept pieces of one unfinished step."""

    def __init__(self, files: Files, *, step: str, fingerprint: str, lease: Lease | None = None) -> None:
        self._files = files
        self._root = partial_root(step, fingerprint)
        self._lease = lease
        self.fingerprint = fingerprint

    @property
    def folder(self) -> Path | None:
        """The real folder when the store is one, else None. It may not exist yet."""
        return None if self._files.folder is None else self._files.folder / self._root

    def make_folder(self, path: Path) -> None:
        """Make a folder for what will be kept, with the store's rights where it lies in the store."""
        within = self._files.folder
        if within is not None and path.is_relative_to(within):
            files.make_folder(path, within=within)
        else:
            path.mkdir(parents=True, exist_ok=True)

    def put_folder(self, local: Path, name: str) -> None:
        """Keep the files of `local` under `name`, replacing what was kept under it."""
        self._check_lease()
        is_in_place = self._is_own(local, check_key(name, what="name"))
        stored = name if is_in_place or not self._lease else f"{name}{FENCE}{self._lease.number}"
        self._files.remove(self._marker(stored))
        if not is_in_place:
            self._files.remove_below(self._key(stored))

        def store(relative: str) -> tuple[str, FileEntry]:
            path = local / relative
            with self._files.explained(f"keeping {name}"), unchanged(path):
                entry = hash_file(path)
                if not is_in_place:
                    self._files.put(path, f"{self._key(stored)}/{relative}")
            return relative, entry

        entries = dict(in_parallel(store, list_files(local)))
        self._check_lease()
        self._files.write(self._marker(stored), seal_json({"name": stored, "files": entries}))
        for older in self._stored(name):
            if older != stored and self._is_ours(older):
                self._remove_stored(older)

    def get_folder(self, name: str, into: Path) -> bool:
        """Write what is kept under `name` to the new folder `into`; False when it is not there or not intact."""
        return any(self._get_stored(stored, into) for stored in self._stored(name))

    def _get_stored(self, stored: str, into: Path) -> bool:
        entries = self._read_marker(stored)
        if entries is None:
            return False
        if self._is_own(into, stored):
            damaged = [relative for relative, entry in entries.items() if not matches(into / relative, entry)]
            return not self._report(stored, damaged)
        if into.exists() and any(into.iterdir()):
            raise ConfigError(f"{into} is not empty", hint="pass a new folder")
        staging = into.with_name(f".{into.name}-{secrets.token_hex(4)}")
        try:
            staging.mkdir(parents=True)
            damaged = self._copy(entries, stored, staging)
            if not damaged:
                files.move(staging, into)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return not self._report(stored, damaged)

    def _copy(self, entries: dict[str, FileEntry], stored: str, target: Path) -> list[str]:
        """Copy the files; the names of those that are missing or have other bytes than promised."""

        def is_good(relative: str) -> bool:
            path = target / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            found = self._files.get(f"{self._key(stored)}/{relative}", path)
            return found and matches(path, entries[relative])

        relatives = sorted(entries)
        return [r for r, good in zip(relatives, in_parallel(is_good, relatives), strict=True) if not good]

    def names(self) -> list[str]:
        """What is kept and complete, sorted as text."""
        return sorted({stored.partition(FENCE)[0] for stored in self._all_stored()})

    def matching(self, pattern: str) -> list[str]:
        """The names of this form, sorted; in a store that is a folder also those that the step wrote there itself."""
        there = self.names() if self.folder is None else [path.name for path in self.folder.glob(pattern)]
        return sorted(fnmatch.filter(there, pattern))

    def read(self, name: str, relative: str) -> bytes | None:
        """One small file of what is kept under `name`, as it is; None where it is not there."""
        places = [name] if self.folder is not None else self._stored(name)
        found = (self._files.read(f"{self._key(stored)}/{relative}") for stored in places)
        return next((content for content in found if content is not None), None)

    def put_record(self, name: str, fields: Mapping[str, Any]) -> None:
        """Keep a few facts beside the pieces."""
        self._check_lease()
        self._files.write(self._key(check_key(name, what="name") + RECORD), seal_json(fields))

    def record(self, name: str) -> dict[str, Any] | None:
        """The facts that are kept under `name`; None where there are none, or they are damaged."""
        key = self._key(check_key(name, what="name") + RECORD)
        if (content := self._files.read(key)) is None:
            return None
        try:
            return open_sealed_json(content, where=key)
        except CorruptError as error:
            log.warning("%s: leaving it out", error)
            return None

    def remove(self, name: str) -> None:
        self._check_lease()
        for stored in {*self._stored(name), check_key(name, what="name")}:
            if self._is_ours(stored):
                self._remove_stored(stored)

    def clear(self) -> None:
        """Remove everything; with a lease, everything but what a later holder wrote."""
        self._check_lease()
        parts = {key[len(self._root) + 1 :].partition("/")[0] for key in self._files.keys(self._root)}
        found = {part.removesuffix(MARKER) for part in parts if not part.endswith(RECORD)}
        ours = {stored for stored in found if self._is_ours(stored)}
        for stored in ours:
            self._files.remove(self._marker(stored))
        for key in [self._root] if ours == found else [self._key(stored) for stored in ours]:
            self._files.remove_below(key)

    def _all_stored(self) -> Iterator[str]:
        """Every complete piece, under the name it is stored by."""
        prefix = len(self._root) + 1
        for key in self._files.keys(self._root):
            if key.endswith(MARKER) and "/" not in key[prefix:]:
                yield key[prefix:].removesuffix(MARKER)

    def _stored(self, name: str) -> list[str]:
        """The places where a name is kept: the newest holder's first, without a number last."""
        check_key(name, what="name")
        found = [stored for stored in self._all_stored() if stored.partition(FENCE)[0] == name]
        return sorted(found, key=_number, reverse=True)

    def _is_ours(self, stored: str) -> bool:
        return self._lease is None or _number(stored) <= self._lease.number

    def _check_lease(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def _remove_stored(self, stored: str) -> None:
        self._files.remove(self._marker(stored))
        self._files.remove_below(self._key(stored))

    def _key(self, stored: str) -> str:
        return f"{self._root}/{stored}"

    def _marker(self, stored: str) -> str:
        return self._key(stored) + MARKER

    def _is_own(self, local: Path, stored: str) -> bool:
        return self.folder is not None and local.resolve() == (self.folder / stored).resolve()

    def _read_marker(self, stored: str) -> dict[str, FileEntry] | None:
        content = self._files.read(self._marker(stored))
        if content is None:
            return None
        try:
            fields = open_sealed_json(content, where=self._marker(stored))
            entries = entries_from_json(fields.get("files"), where=self._marker(stored))
        except CorruptError as error:
            log.warning("%s: leaving it out", error)
            return None
        return entries if fields.get("name") == stored else None

    def _report(self, stored: str, damaged: list[str]) -> list[str]:
        if damaged:
            log.warning("%s/%s is left out: %s missing or damaged", self._root, stored, ", ".join(damaged[:5]))
        return damaged


def _number(stored: str) -> int:
    """The fencing number that a piece was stored under; 0 for none."""
    number = stored.partition(FENCE)[2]
    return int(number) if number.isdigit() else 0
