"""What an unfinished step keeps: checkpoints and the like, by name, whole or absent.

The files go first and a marker with their sizes and digests last; taking something away removes the marker first. So a
process that dies in between leaves at worst bytes that nobody looks at. In a store that is a folder, a step may write
straight into `folder / name` and call `put_folder` on that: nothing is copied then.
"""

import logging
import os
import secrets
import shutil
from pathlib import Path

from nanochat_core.base.errors import ConfigError, CorruptError
from nanochat_core.store.blobs import hash_file, matches, unchanged
from nanochat_core.store.filesystem import Files
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


def list_files(folder: Path) -> list[str]:
    """Relative names of the files below `folder`, sorted. Links to folders, sockets and the like are refused."""
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder", hint="pass the folder that holds the files")
    names = []
    for parent, subfolders, files in os.walk(folder):
        for path in [Path(parent, name) for name in files] + [Path(parent, name) for name in subfolders]:
            name = path.relative_to(folder).as_posix()
            if path.is_file():
                names.append(check_name(name))
            elif path.is_symlink() or not path.is_dir():
                raise ConfigError(f"{path} is neither a file nor a folder", hint="store plain files only")
    return sorted(names)


class Partial:
    """The kept pieces of one unfinished step."""

    def __init__(self, files: Files, *, step: str, fingerprint: str) -> None:
        self._files = files
        self._root = f"partial/{check_key(step, what='step')}/{check_key(fingerprint, what='fingerprint')}"

    @property
    def folder(self) -> Path | None:
        """The real folder when the store is one, else None. It may not exist yet."""
        return None if self._files.folder is None else self._files.folder / self._root

    def put_folder(self, local: Path, name: str) -> None:
        """Keep the files of `local` under `name`, replacing what was kept under it."""
        is_in_place = self._is_own(local, name)
        self._files.remove(self._marker(name))
        if not is_in_place:
            self._files.remove_below(self._key(name))

        def store(relative: str) -> tuple[str, FileEntry]:
            path = local / relative
            with self._files.explained(f"keeping {name}"), unchanged(path):
                entry = hash_file(path)
                if not is_in_place:
                    self._files.put(path, f"{self._key(name)}/{relative}")
            return relative, entry

        entries = dict(in_parallel(store, list_files(local)))
        self._files.write(self._marker(name), seal_json({"name": name, "files": entries}))

    def get_folder(self, name: str, into: Path) -> bool:
        """Write what is kept under `name` to the new folder `into`; False when it is not there or not intact."""
        entries = self._read_marker(name)
        if entries is None:
            return False
        if self._is_own(into, name):
            damaged = [relative for relative, entry in entries.items() if not matches(into / relative, entry)]
            return not self._report(name, damaged)
        if into.exists() and any(into.iterdir()):
            raise ConfigError(f"{into} is not empty", hint="pass a new folder")
        staging = into.with_name(f".{into.name}-{secrets.token_hex(4)}")
        try:
            staging.mkdir(parents=True)
            damaged = self._copy(entries, name, staging)
            if not damaged:
                os.replace(staging, into)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return not self._report(name, damaged)

    def _copy(self, entries: dict[str, FileEntry], name: str, target: Path) -> list[str]:
        """Copy the files; the names of those that are missing or have other bytes than promised."""

        def is_good(relative: str) -> bool:
            path = target / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            found = self._files.get(f"{self._key(name)}/{relative}", path)
            return found and matches(path, entries[relative])

        relatives = sorted(entries)
        return [r for r, good in zip(relatives, in_parallel(is_good, relatives), strict=True) if not good]

    def names(self) -> list[str]:
        """What is kept and complete, sorted as text."""
        prefix = len(self._root) + 1
        below = [key[prefix:] for key in self._files.keys(self._root)]
        return sorted(name.removesuffix(MARKER) for name in below if "/" not in name and name.endswith(MARKER))

    def remove(self, name: str) -> None:
        self._files.remove(self._marker(name))
        self._files.remove_below(self._key(name))

    def clear(self) -> None:
        for name in self.names():
            self._files.remove(self._marker(name))
        self._files.remove_below(self._root)

    def _key(self, name: str) -> str:
        return f"{self._root}/{check_key(name, what='name')}"

    def _marker(self, name: str) -> str:
        return self._key(name) + MARKER

    def _is_own(self, local: Path, name: str) -> bool:
        return self.folder is not None and local.resolve() == (self.folder / check_key(name, what="name")).resolve()

    def _read_marker(self, name: str) -> dict[str, FileEntry] | None:
        content = self._files.read(self._marker(name))
        if content is None:
            return None
        try:
            fields = open_sealed_json(content, where=self._marker(name))
            entries = entries_from_json(fields.get("files"), where=self._marker(name))
        except CorruptError as error:
            log.warning("%s: leaving it out", error)
            return None
        return entries if fields.get("name") == name else None

    def _report(self, name: str, damaged: list[str]) -> list[str]:
        if damaged:
            log.warning("%s/%s is left out: %s missing or damaged", self._root, name, ", ".join(damaged[:5]))
        return damaged
