"""Which files a path means: what of a folder, a file or a pattern is read, and what is left out, with its reason.

One code for text, conversations and benchmarks. A path that exists is that file or folder, whatever characters it has;
only one that does not is a pattern. Links are followed, but nothing is read twice. Nothing is passed over in silence: a
published mix is .zst, an export from Windows is .TXT, and a link may lead nowhere. The usual names of splits decide
what is held out where they stand as whole words, as the `datasets` library reads them.
"""

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path, PurePath
from typing import Literal

from nanochat_core.base.errors import ConfigError, MissingError

KINDS = {".parquet": "parquet", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv",
         ".tsv": "csv", ".txt": "txt", ".md": "txt", ".markdown": "txt"}  # fmt: skip
PACKED = (".gz", ".bz2", ".xz", ".zst")
ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
SYSTEM = ("thumbs.db", "desktop.ini", "__macosx", "$recycle.bin", "system volume information", "lost+found")
TRAIN, HELD_OUT = ("train",), ("valid", "validation", "val", "dev", "test")
NAMES_SHOWN = 8  # of one reason; more are counted
Role = Literal["train", "held out"]


@dataclass(frozen=True)
class LeftOut:
    """One file or folder that is not read."""

    name: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What a path means."""

    root: Path
    """What the names of files are relative to."""
    files: list[Path] = field(default_factory=list)
    """To read, sorted by name."""
    left_out: list[LeftOut] = field(default_factory=list)

    def name(self, path: Path) -> str:
        """A file's name for people, and for the words of splits."""
        return _name(path, self.root)

    @property
    def names(self) -> list[str]:
        return [self.name(path) for path in self.files]


def find(path: str | None, kinds: Sequence[str], *, setting: str) -> Found:
    """The files of some kinds that `path`, the value of `setting`, means; MissingError where there is none."""
    if not path:
        raise ConfigError(f"{setting.partition('.')[0]}.source = path needs {setting}", hint=f"--set {setting}=FOLDER")
    matched = matches(path, setting=setting)
    if matched == [_expanded(path)]:
        root = matched[0] if matched[0].is_dir() else matched[0].parent
    else:
        root = Path(os.path.commonpath([each.parent for each in matched]))
    search = _Search(root, kinds)
    for each in matched:
        search.take(each, is_named=True)
    if not search.files:
        seen = _told(search.left_out) if search.left_out else "an empty folder"
        wanted = ", ".join(ending for ending, kind in KINDS.items() if kind in kinds)
        raise MissingError(f"{setting} = {path} holds nothing to read: {seen}", hint=f"it reads {wanted} files")
    return Found(root, sorted(search.files.values()), sorted(search.left_out, key=lambda each: each.name))


def matches(path: str, *, setting: str) -> list[Path]:
    """The file or folder that `path` is, else what it fits as a pattern; MissingError where nothing is."""
    named = _expanded(path)
    matched = [named] if os.path.lexists(named) else _fits(named)
    if not matched:
        raise MissingError(f"{setting} = {path}: {_absent(named)}", hint=_near(named))
    return matched


def note_of(found: Found, *, setting: str) -> str | None:
    """One line for people about what is left out; None where nothing is."""
    return f"{setting}: left out {_told(found.left_out)}" if found.left_out else None


def kind_of(path: PurePath) -> str | None:
    """What a file is by its ending, packed or not; None for what is not read."""
    packed = path.suffix.lower() in PACKED
    kind = KINDS.get((PurePath(path.stem).suffix if packed else path.suffix).lower())
    return None if packed and kind == "parquet" else kind


def form_of(path: PurePath) -> str:
    """How a file is read, by its ending: "jsonl", "jsonl.gz"; "" for what is not read."""
    packing = path.suffix.lower() if path.suffix.lower() in PACKED else ""
    return f"{kind_of(path) or ''}{packing}"


def held_out(names: Sequence[str]) -> list[str]:
    """The names that say that a file is for validation; none where all do, or none: then they set nothing apart."""
    chosen = [name for name in names if role_of(name) == "held out"]
    return chosen if len(chosen) < len(names) else []


def last_of(names: Sequence[str]) -> str:
    """The last one that is not for training by its name, where there is any."""
    return ([name for name in names if role_of(name) != "train"] or list(names))[-1]


def role_of(name: str) -> Role | None:
    """What a file is for, by whole words: a folder that is named so, else the file, else the nearest folder."""
    *folders, file = PurePath(name).parts
    whole = (_role([folder.casefold()]) for folder in reversed(folders))
    parts = (_role(_words(part)) for part in (file, *reversed(folders)))
    return next((role for role in (*whole, *parts) if role), None)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", text.casefold())  # runs of letters: digits and marks stand between words


def _role(words: Sequence[str]) -> Role | None:
    found: set[Role] = {"train" if word in TRAIN else "held out" for word in words if word in (*TRAIN, *HELD_OUT)}
    return found.pop() if len(found) == 1 else None


def _expanded(path: str) -> Path:
    try:
        return Path(path).expanduser()
    except RuntimeError:  # ~somebody whom this machine does not know: a name like any other
        return Path(path)


@dataclass
class _Search:
    """Goes through folders; `files` are by their real path, so that nothing is taken twice."""

    root: Path
    kinds: Sequence[str]
    files: dict[str, Path] = field(default_factory=dict)
    folders: dict[str, Path] = field(default_factory=dict)
    left_out: list[LeftOut] = field(default_factory=list)

    def take(self, path: Path, *, is_named: bool = False) -> None:
        try:
            reason = self._refusal(path, is_named=is_named)
            if reason is None and path.is_dir():
                for name in sorted(os.listdir(path)):
                    self.take(path / name)
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        if reason:
            self.left_out.append(LeftOut(_name(path, self.root), reason))

    def _refusal(self, path: Path, *, is_named: bool) -> str | None:
        """Why a path is left out; None, and it is noted as taken, where it is not."""
        if not is_named and (path.name.startswith(".") or path.name.lower() in SYSTEM):
            return "hidden or a system file"
        if not path.exists():
            return "a link that leads nowhere"
        real = os.path.realpath(path)
        if path.is_dir():
            return self._once(self.folders, real, path) or _loop(real, os.path.realpath(self.root))
        return self._unfit(path) or self._once(self.files, real, path)

    def _once(self, taken: dict[str, Path], real: str, path: Path) -> str | None:
        first = taken.setdefault(real, path)
        return None if first == path else f"the same as {_name(first, self.root)}, by a link"

    def _unfit(self, path: Path) -> str | None:
        if not path.is_file():
            return "no regular file"
        if (kind := kind_of(path)) not in self.kinds:
            return _unread(path, kind)
        if not os.access(path, os.R_OK):
            return "no right to read it"
        return None if path.stat().st_size else "empty"


def _loop(real: str, root: str) -> str | None:
    is_above = root != real and root.startswith(real.rstrip(os.sep) + os.sep)
    return "a link to a folder above" if is_above else None


def _unread(path: Path, kind: str | None) -> str:
    ending = path.suffix.lower()
    if ending in ARCHIVES:
        return f"{ending} is an archive: unpack it"
    if ending in PACKED:
        return f"packed {PurePath(path.stem).suffix or 'without a second ending'} is not read: unpack it"
    return f"{ending} is not read" + (" here" if kind else "") if ending else "no ending that says what it is"


def _fits(named: Path) -> list[Path]:
    """What a pattern fits, in order of name; {a,b} and ** as a shell has them."""
    parts: list[str] = []
    for part in named.parts[bool(named.anchor) :]:
        # people write **.jsonl for "of any depth"
        parts += ["**", part.replace("**", "*")] if "**" in part and part != "**" else [part]
    return sorted(set(_fitting(Path(named.anchor or "."), parts)))


def _choices(text: str) -> list[str]:
    if not (braces := re.search(r"\{([^{}]*,[^{}]*)\}", text)):
        return [text]
    ways = (text[: braces.start()] + choice + text[braces.end() :] for choice in braces[1].split(","))
    return [each for way in ways for each in _choices(way)]


def _fitting(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    if not parts:
        yield folder
        return
    first, *rest = parts
    if os.path.lexists(folder / first):  # a name that exists is that name, brackets and all
        yield from _fitting(folder / first, rest)
        return
    if first == "**":
        yield from _fitting(folder, rest)
        here = os.path.realpath(folder) + os.sep
        for name in _listed(folder) if rest else []:
            below = folder / name
            is_loop = below.is_symlink() and here.startswith(os.path.realpath(below) + os.sep)
            if not name.startswith(".") and below.is_dir() and not is_loop:
                yield from _fitting(below, parts)
        return
    if len(choices := _choices(first)) > 1:
        for choice in choices:
            yield from _fitting(folder, [choice, *rest])
        return
    for name in _listed(folder):
        if fnmatchcase(name, first) and name.startswith(".") == first.startswith("."):
            yield from _fitting(folder / name, rest)


def _listed(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _absent(named: Path) -> str:
    looked = "as a path and as a pattern" if re.search(r"[*?[{]", str(named)) else "there"
    return f"nothing is found {looked}; the nearest folder is {_nearest(named).absolute()}"


def _nearest(named: Path) -> Path:
    return next((folder for folder in named.parents if folder.is_dir()), Path())


def _near(named: Path) -> str:
    """Names like the first part of the path that does not exist."""
    folder = _nearest(named)
    missing = named.relative_to(folder).parts[0]
    names = {name.casefold(): name for name in _listed(folder) if not name.startswith(".")}
    close = difflib.get_close_matches(missing.casefold(), names, n=3, cutoff=0.5)
    close += [key for key in names if PurePath(key).stem == PurePath(missing.casefold()).stem and key not in close]
    return f"did you mean {', '.join(names[key] for key in close[:3])}?" if close else "check the path"


def _name(path: Path, root: Path) -> str:
    """Relative to the folder that was named; bytes that are no text become a mark."""
    shown = path.relative_to(root) if path != root and path.is_relative_to(root) else path
    return os.fsencode(shown).decode("utf-8", "replace")


def _told(left_out: Sequence[LeftOut]) -> str:
    reasons: dict[str, list[str]] = {}
    for each in left_out:
        reasons.setdefault(each.reason, []).append(each.name)
    return "; ".join(f"{listing(names)} ({reason})" for reason, names in reasons.items())


def listing(names: Sequence[str]) -> str:
    """Names, as many as a person reads, and how many more."""
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown + (f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else "")
