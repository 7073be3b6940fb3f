"""Text as people have it: files that an editor on Windows, PowerShell or an old tool wrote.

A byte order mark is no text, and CRLF ends a line as LF does. UTF-16 and UTF-32 (PowerShell's `>`, Notepad's "Unicode")
are refused by name, other bytes that are no UTF-8 by file, line and byte: a guess would train on mojibake. What a
person types is never refused (`typed`). Whoever reads a file that is not of our own making reads it here.
"""

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import ConfigError, MissingError, NanochatError

MARK = "\ufeff"
MARK_UTF8 = MARK.encode("utf-8")
# by their marks; without one by the zeros around Latin letters
WIDE = {
    "UTF-32": re.compile(rb"\xff\xfe\0\0|\0\0\xfe\xff|[^\0]\0{3}|\0{3}[^\0]"),
    "UTF-16": re.compile(rb"\xff\xfe|\xfe\xff|(?:[^\0]\0){2}|(?:\0[^\0]){2}"),
}
# what downloads and clones leave under the name of a text
OTHERS = {
    b"version https://git-lfs.github.com/": "a pointer of Git LFS",
    b"\x1f\x8b": "packed by gzip",
    b"(\xb5/\xfd": "packed by zstd",
    b"PK\x03\x04": "a zip archive",
    b"PAR1\x15": "parquet",
}
OTHER_HINT = "fetch a pointer's file by git lfs pull; give others the ending of what they are, or unpack them"


def other_kind(raw: bytes) -> str | None:
    """What bytes that should be a text are by their start; None where they may be one."""
    return next((kind for start, kind in OTHERS.items() if raw.startswith(start)), None)


def decode(raw: bytes, where: str | Path, *, line: int | None = None, error: type[NanochatError] = MissingError) -> str:
    """`raw` as text without a mark at its start; raises `error` for what is no UTF-8."""
    place = f"{where}, line {line}" if line else str(where)
    if wide := next((name for name, start in WIDE.items() if start.match(raw)), None):
        raise error(f"{place} is {wide}, not UTF-8", hint=_convert(wide.lower(), where))
    if line in (None, 1) and (kind := other_kind(raw)):
        raise error(f"{where} is {kind}, whatever its name says", hint=OTHER_HINT)
    try:
        return raw.decode("utf-8").removeprefix(MARK)
    except UnicodeDecodeError as wrong:
        byte = raw[wrong.start]
        raise error(
            f"{place} is not UTF-8: byte 0x{byte:02x} at offset {wrong.start}",
            hint=_convert("cp1252" if 0x80 <= byte < 0xA0 else "latin1", where),
        ) from wrong


def _convert(encoding: str, where: str | Path) -> str:
    return f"convert it: iconv -f {encoding} -t utf-8 {Path(where).name} > NEW"


def read_text(path: Path, *, error: type[NanochatError] = MissingError) -> str:
    """A file's text, with line feeds alone. OSError where it cannot be read."""
    return decode(path.read_bytes(), path, error=error).replace("\r\n", "\n")


def read_json(path: Path, *, error: type[NanochatError] = MissingError) -> Any:
    """A JSON file."""
    return parse_json(path.read_bytes(), path, error=error)


def parse_json(
    raw: bytes, where: str | Path, *, line: int | None = None, error: type[NanochatError] = MissingError
) -> Any:
    """The JSON value of a file, or of one line of it."""
    try:
        return json.loads(decode(raw, where, line=line, error=error))
    except (ValueError, RecursionError) as wrong:
        place, hint = (f"{where}, line {line}", "one JSON object a line") if line else (str(where), None)
        raise error(f"{place} is not JSON: {wrong}", hint=hint) from wrong


def document(text: str) -> str:
    """The text of a document as a parser gave it: no mark at its start, and nothing that no UTF-8 can hold."""
    return without_surrogates(text.removeprefix(MARK))


def without_surrogates(text: str) -> str:
    """JSON can spell half of a surrogate pair, which no UTF-8 can hold: it becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def typed(text: str) -> str:
    """What a person typed: bytes that are no UTF-8, which Python keeps as surrogates, become U+FFFD."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace").removeprefix(MARK)
    except UnicodeEncodeError:
        return without_surrogates(text)


def typed_lines(file: Iterable[bytes], where: str) -> Iterator[str]:
    """Lines that somebody types or a program sends; UTF-16, of which nothing could be read, is refused."""
    for number, raw in enumerate(file):
        if number == 0 and any(start.match(raw) for start in WIDE.values()):
            decode(raw, where, error=ConfigError)
        yield raw.decode("utf-8", "replace").removeprefix(MARK)


def is_blank(line: bytes) -> bool:
    """Whether a line of a file holds nothing."""
    return not line.removeprefix(MARK_UTF8).strip()
