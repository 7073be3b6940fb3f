"""What a file of somebody else may cost: one table of bounds, and the readers of zips and JSON that hold to it.

A bundle, a checkpoint or a line of a corpus comes from strangers, and a few kilobytes can stand for gigabytes, for ten
thousand levels or for a number of a million digits. Each bound is some ten times what our own files need. Sizes that a
file states are looked at before it is read and counted while it is read, for a header may lie.
"""

import io
import json
import math
import os
import pickle
import re
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import CorruptError, NanochatError

# JSON, TOML and YAML
MAX_DEPTH = 64  # of lists and objects in each other
MAX_DIGITS = 100  # of a number; a 64-bit one has 20, and an int below 1e100 is a float without an overflow
MAX_VALUES = 500_000  # in one document: up to 200 bytes of memory each
MAX_VOCABULARY_VALUES = 1_500_000  # of a tokenizer.json: Llama 3's has a million, for it lists 280,000 pairs
MAX_VALUE_BYTES = 32 << 20  # a line, or a value of a JSON file; without one, a file without line breaks is read whole
MAX_SETTINGS_BYTES = 1 << 20  # a preset, a benchmark's table, a model's config
# folders and zips
MAX_ENTRIES = 4_000
MAX_LEVELS = 16  # of folders
MAX_NAME_CHARS = 1000
MAX_FILE_BYTES = 64 << 20  # of one that is taken into memory
MAX_TOTAL_BYTES = 256 << 20  # of all of those
MAX_LINES = 1_000_000  # of all of those
FREE_BYTES, MAX_RATIO = 8 << 20, 100  # a zip may unpack to so much, and to so many times its own size
PARQUET_RATIO = 1000  # so many times for text in parquet: some people's is one sentence, a bomb's is 10,000 and more
MAX_DIRECTORY_BYTES = 8 << 20  # a zip's table of contents, which is read at once
CHUNK_BYTES = 1 << 20
# models: setting -> most
MAX_MODEL = {
    "sequence_len": 1 << 20, "vocab_size": 1 << 20, "n_layer": 512, "n_head": 1024, "n_kv_head": 1024,
    "n_embd": 1 << 16,
}  # fmt: skip
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # others unpack a million to one, or need what is not installed
ENCRYPTED = 0x1 | 0x40 | 0x2000  # bits of an entry's flags
LOCAL_HEADER, LOCAL_MARK = struct.Struct("<4s5H3I2H"), b"PK\3\4"
# what zipfile raises for bytes that are no zip
NO_ZIP = (
    zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, struct.error, EOFError, OSError, NotImplementedError,
    RuntimeError, ValueError, OverflowError, KeyError, IndexError,
)  # fmt: skip

# what readers of pickles, tensors and tables raise for bytes that are none; MemoryError: for a length that is a lie
NO_VALUES = (
    ArithmeticError, AttributeError, EOFError, ImportError, LookupError, MemoryError, OSError, RuntimeError, TypeError,
    ValueError, pickle.UnpicklingError, struct.error,
)  # fmt: skip

# a text without an end goes to the end of all, so that every character is met once
TEXTS = re.compile(r'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
BRACKETS = re.compile(r"[\[\]{}]")
LONG_NUMBER = re.compile(rf"\d{{{MAX_DIGITS}}}|\d[eE]\+?\d{{3}}")  # also in text: then every number is looked at


def loads(
    text: str,
    *,
    is_strict: bool = False,
    object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
    most_values: int = MAX_VALUES,
) -> Any:
    """The JSON value of `text` within the bounds; ValueError or RecursionError where there is none.

    `is_strict`: also no NaN, no infinity, and no number that another program would read as one.
    """
    if (much := excess(text, values=most_values, containers=most_values, depth=MAX_DEPTH)) is not None:
        raise ValueError(f"it has more than {much[0]:,} {much[1]}")
    hooks: dict[str, Any] = {"object_pairs_hook": object_pairs_hook} | ({"parse_constant": _float} if is_strict else {})
    if is_strict and LONG_NUMBER.search(text):
        hooks |= {"parse_int": _integer, "parse_float": _float}
    return json.loads(text, **hooks)


class RepeatedKey(ValueError):
    """An object has a key twice: readers of JSON keep the last one, and nobody knows which was meant."""


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An `object_pairs_hook`: the object; RepeatedKey where a key is there twice (RFC 8259, section 4)."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise RepeatedKey(f"the key {twice!r:.60} is there twice")
    return made


def excess(text: str, *, values: int, containers: int, depth: int) -> tuple[int, str] | None:
    """How many of what a JSON text may have and has more of; None: nothing. Linear, and said before any is made.

    `values`: all of them, about; `containers`: lists and objects; `depth`: of these within each other.
    """
    num_containers = text.count("[") + text.count("{")  # those inside of texts too
    if num_containers <= min(depth, containers) and num_containers + text.count(",") <= values:
        return None
    bare = TEXTS.sub("", text)
    num_containers = bare.count("[") + bare.count("{")
    if num_containers + bare.count(",") > values:
        return values, "values"
    if num_containers > containers:
        return containers, "lists and objects, or one of them has no end"
    level = 0
    for match in BRACKETS.finditer(bare):
        level += 1 if bare[match.start()] in "[{" else -1
        if level > depth:
            return depth, "lists and objects within each other, or one of them has no end"
    return None


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(digits):,} digits, more than {MAX_DIGITS}")
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > MAX_DIGITS or not math.isfinite(float(digits)):
        raise ValueError(f"{digits[:20]} is no number")
    return float(digits)


def check_depth(value: Any) -> None:
    """ValueError for lists and objects nested deeper than `MAX_DEPTH`: who looks at them calls itself at each level."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return
    raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


class PlainUnpickler(pickle._Unpickler):  # type: ignore[name-defined,misc]
    """Python's own unpickler in Python, knowing no name; who inherits says which it knows.

    The one in C takes memory for as many values as a pickle of a few bytes says that it will keep.
    """

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it wants {module}.{name}")

    def imported(self, module: str, name: str) -> Any:
        """What the name stands for, for those that it is safe for."""
        return super().find_class(module, name)


def read_bounded(path: Path, *, most: int = MAX_FILE_BYTES, error: type[NanochatError] = CorruptError) -> bytes:
    """A file that is taken into memory; raises `error` where it is longer than `most` bytes, whatever its size says."""
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise error(f"{path} has more than {most:,} bytes", hint="is it the file that was meant?")
    return content


def walk(folder: Path) -> Iterator[os.DirEntry[str]]:
    """All that lies below a folder but its folders, following no link; CorruptError beyond the bounds."""
    waiting, num_found = [(os.fspath(folder), 1)], 0
    while waiting:
        where, level = waiting.pop()
        with os.scandir(where) as entries:
            for entry in entries:
                num_found += 1
                if num_found > MAX_ENTRIES or level > MAX_LEVELS:
                    what = f"{MAX_ENTRIES:,} files and folders" if level <= MAX_LEVELS else f"{MAX_LEVELS} levels"
                    raise CorruptError(f"{folder} holds more than {what}")
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((entry.path, level + 1))
                else:
                    yield entry


class _Measured(io.BufferedReader):
    """A file of which nobody takes much at once: zipfile reads a table of contents as long as the file says."""

    def read(self, size: int | None = -1) -> bytes:
        wanted = MAX_DIRECTORY_BYTES + 1 if size is None or size < 0 else size
        if wanted > MAX_DIRECTORY_BYTES and self._left() > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its table of contents has more than {MAX_DIRECTORY_BYTES >> 20} MiB")
        return super().read(min(wanted, MAX_DIRECTORY_BYTES))

    def _left(self) -> int:
        return os.fstat(self.fileno()).st_size - self.tell()


class ForeignZip:
    """A zip of somebody else, opened: its entries are known to be plain, few and no bigger than they may be."""

    def __init__(self, path: Path) -> None:
        """CorruptError where it is no zip, or one that it is better not to unpack."""
        self.path = path
        with self._told():
            self._file = _Measured(io.FileIO(path))
            try:
                self._zip = zipfile.ZipFile(self._file)
                self.entries = self._checked()
            except BaseException:
                self._file.close()
                raise

    def close(self) -> None:
        self._zip.close()
        self._file.close()

    def blocks(self, name: str) -> Iterator[bytes]:
        """The content of an entry, a piece at a time; never more than its entry says."""
        num_bytes = 0
        with self._told(name), self._zip.open(self.entries[name]) as file:
            while block := file.read(CHUNK_BYTES):
                num_bytes += len(block)
                if num_bytes > self.entries[name].file_size:
                    raise CorruptError(f"{name} of {self.path} is longer than its entry says")
                yield block
            if num_bytes != self.entries[name].file_size:
                raise CorruptError(f"{name} of {self.path} is shorter than its entry says")

    @contextmanager
    def _told(self, name: str = "") -> Iterator[None]:
        """What zipfile raises, as an error for people."""
        try:
            yield
        except NO_ZIP as error:
            what = f"{name} of {self.path} cannot be unpacked" if name else f"{self.path} is no whole zip file"
            raise CorruptError(f"{what}: {error}", hint="copy the whole file again") from error

    def _checked(self) -> dict[str, zipfile.ZipInfo]:
        infos = self._zip.infolist()
        if len(infos) > MAX_ENTRIES:
            raise CorruptError(f"{self.path} holds {len(infos):,} entries, more than {MAX_ENTRIES:,}")
        for info in infos:
            if fault := _fault(info):
                raise CorruptError(
                    f"{self.path}: the entry {info.orig_filename[:100]!r} {fault}", hint="do not unpack it"
                )
        self._check_places(infos)
        self._check_sizes(infos)
        files = {info.filename: info for info in infos if not info.is_dir()}
        names = Counter(info.filename.rstrip("/") for info in infos)
        twice = {name for name, number in names.items() if number > 1} | _folders_above(names) & files.keys()
        if twice:
            raise CorruptError(f"{self.path} holds {min(twice)!r} twice", hint="ask for a sound one")
        return files

    def _check_places(self, infos: list[zipfile.ZipInfo]) -> None:
        """Each entry has a place of its own in the file: entries that share bytes are a bomb."""
        end = 0
        for info in sorted(infos, key=lambda info: info.header_offset):
            if info.header_offset < end:
                raise CorruptError(
                    f"{self.path}: entries overlap at {info.orig_filename[:100]!r}", hint="do not unpack it"
                )
            self._file.seek(info.header_offset)
            mark, _, flags, method, *_, len_name, len_more = LOCAL_HEADER.unpack(self._file.read(LOCAL_HEADER.size))
            if mark != LOCAL_MARK or method != info.compress_type or flags & ENCRYPTED:
                raise CorruptError(f"{self.path}: the entry {info.orig_filename[:100]!r} says two things of itself")
            end = info.header_offset + LOCAL_HEADER.size + len_name + len_more + info.compress_size
        if end > self._zip.start_dir:
            raise CorruptError(f"{self.path}: an entry goes beyond its end", hint="do not unpack it")

    def _check_sizes(self, infos: list[zipfile.ZipInfo]) -> None:
        total, packed = sum(info.file_size for info in infos), self.path.stat().st_size
        if total > FREE_BYTES + MAX_RATIO * packed:
            raise CorruptError(f"{self.path} has {packed:,} bytes and unpacks to {total:,}", hint="do not unpack it")


def _fault(info: zipfile.ZipInfo) -> str | None:
    """What is wrong with an entry by itself."""
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
        return "is no plain file"
    if info.flag_bits & ENCRYPTED:
        return "is encrypted"
    if info.compress_type not in METHODS:
        return f"is packed by method {info.compress_type}, and only stored and deflated entries are read"
    if info.is_dir() and info.file_size:
        return "is a folder with content"
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return "is stored and has two sizes"
    name = info.filename.rstrip("/") if info.is_dir() else info.filename
    return None if info.orig_filename == info.filename and is_plain_name(name) else "is no plain file"


def is_safe_name(name: str) -> bool:
    """Whether `name` is a plain relative path that every storage can hold."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return name.isprintable() and all(part not in ("", ".", "..") for part in name.split("/"))


def is_plain_name(name: str) -> bool:
    """Whether `name` leads nowhere else, and is the same place on every system."""
    return is_safe_name(name) and name.count("/") < MAX_LEVELS and len(name) <= MAX_NAME_CHARS and "\\" not in name


def _folders_above(names: Iterable[str]) -> set[str]:
    return {name[: found.start()] for name in names for found in re.finditer("/", name)}
