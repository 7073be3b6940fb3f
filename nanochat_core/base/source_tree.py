"""Which modules a folder holds, and what a dotted name means among them. Nothing is imported."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Of a module: all of its names; no name, but what runs when it is imported.
WHOLE, LOADED = "*", ""
COMPILED = (".so", ".pyd")


@dataclass(frozen=True)
class File:
    """A source file, in one state."""

    path: Path
    stamp: tuple[int, ...]


class SourceTree:
    """Module names and their files below one folder, in one state."""

    def __init__(self, root: Path, files: Iterable[tuple[str, File]]) -> None:
        self.root = root
        self.files = dict(files)
        self.walks: dict[tuple[str, ...], Any] = {}
        self._packages = {parent for module in self.files for parent in self.parents(module)}
        self._split: dict[str, tuple[str, str]] = {}
        self._below: dict[str, list[str]] = {}

    def has(self, module: str) -> bool:
        return module in self.files or module in self._packages

    def parents(self, module: str) -> list[str]:
        parts = module.split(".")
        return [".".join(parts[:count]) for count in range(1, len(parts))]

    def submodules(self, package: str) -> list[str]:
        """Those that a package holds itself."""
        return [module for module in self.files if module.rpartition(".")[0] == package]

    def below(self, path: str) -> list[str]:
        """All modules of the package that a dotted name is; none for the package of all, which is no answer."""
        if path not in self._packages or "." not in path:
            return []
        if path not in self._below:
            self._below[path] = [module for module in self.files if module.startswith(f"{path}.")]
        return self._below[path]

    def split(self, path: str) -> tuple[str, str]:
        """The module in a dotted name, and the name in it; all of the module where nothing follows."""
        if path not in self._split:
            self._split[path] = self._parted(path)
        return self._split[path]

    def _parted(self, path: str) -> tuple[str, str]:
        parts = path.split(".")
        for count in range(len(parts), 0, -1):
            module = ".".join(parts[:count])
            if self.has(module):
                return module, parts[count] if count < len(parts) else WHOLE
        return parts[0], LOADED  # of another tree than this one


def scan(folder: Path, package: str) -> Iterator[tuple[str, File]]:
    """Every module with its file; the time of change is among what tells states apart, since nobody can set it."""
    with os.scandir(folder) as entries:
        found = sorted(
            entries, key=lambda entry: (entry.name.endswith(COMPILED), entry.name)
        )  # those come last: they win
    for entry in found:
        stem = entry.name.partition(".")[0]
        if (entry.name == f"{stem}.py" or entry.name.endswith(COMPILED)) and entry.is_file():
            stat = entry.stat()
            stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
            yield (package if stem == "__init__" else f"{package}.{stem}"), File(Path(entry.path), stamp)
        elif entry.is_dir() and entry.name.isidentifier() and entry.name != "__pycache__":
            yield from scan(folder / entry.name, f"{package}.{entry.name}")
