"""Text as people have it: files that an editor on Windows, PowerShell or an old tool wrote.

A byte order mark is no text, and CRLF ends a line as LF does. UTF-16 and UTF-32 (PowerShell's `>`, Notepad's "Unicode")
are refused by name, other bytes that are no UTF-8 by file, line and byte: a guess would train on mojibake. What a
person types is never refused (`typed`). Whoever reads a file that is not of our own making reads it here.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nanochat_core.base.encodings import likely
from nanochat_core.base.errors import ConfigError, MissingError, NanochatError
from nanochat_core.base.foreign import MAX_FILE_BYTES, RepeatedKey, loads, once, read_bounded

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
    b"%PDF-": "a PDF",
}
# controls but line feed and tab; marks of direction, separators, invisible operators, tags
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164"
    "\ufeff\uffa0\ufff9-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
OTHER_HINT = "fetch a pointer's file by git lfs pull; give others the ending of what they are, or unpack them"


class NoUtf8(MissingError):
    """Bytes that are text in another encoding, or none."""


def other_kind(raw: bytes) -> str | None:
    """What bytes that should be a text are by their start; None where they may be one."""
    return next((kind for start, kind in OTHERS.items() if raw.startswith(start)), None)


def decode(raw: bytes, where: str | Path, *, line: int | None = None, error: type[NanochatError] = NoUtf8) -> str:
    """`raw` as text without a mark at its start; raises `error` for what is no UTF-8."""
    place = f"{where}, line {line}" if line else str(where)
    require_narrow(raw, where, place=place, error=error)
    if line in (None, 1) and (kind := other_kind(raw)):
        raise error(f"{where} is {kind}, whatever its name says", hint=OTHER_HINT)
    try:
        return raw.decode("utf-8").removeprefix(MARK)
    except UnicodeDecodeError as wrong:
        byte = raw[wrong.start]
        raise error(
            f"{place} is not UTF-8: byte 0x{byte:02x} at offset {wrong.start}",
            hint=_convert(likely(raw), where),
        ) from wrong


def require_narrow(
    raw: bytes, where: str | Path, *, place: str | None = None, error: type[NanochatError] = NoUtf8
) -> None:
    """Raises `error` for the start of a text in UTF-16 or UTF-32; `place` is `where` with its line."""
    if wide := next((name for name, start in WIDE.items() if start.match(raw)), None):
        raise error(f"{place or where} is {wide}, not UTF-8", hint=_convert(wide.lower(), where))


def _convert(encoding: str | None, where: str | Path) -> str:
    known = "" if encoding else "; ENCODING is that of the program that wrote it"
    return f"convert it: iconv -f {encoding or 'ENCODING'} -t utf-8 {Path(where).name} > NEW{known}"


def read_text(path: Path, *, error: type[NanochatError] = MissingError, most: int = MAX_FILE_BYTES) -> str:
    """A file's text of up to `most` bytes, with line feeds alone. OSError where it cannot be read."""
    return decode(read_bounded(path, most=most, error=error), path, error=error).replace("\r\n", "\n")


def read_json(path: Path, *, error: type[NanochatError] = MissingError) -> Any:
    """A JSON file."""
    return parse_json(read_bounded(path, error=error), path, error=error)


def parse_json(
    raw: bytes, where: str | Path, *, line: int | None = None, error: type[NanochatError] = MissingError
) -> Any:
    """The JSON value of a file, or of one line of it, in which no key may be there twice."""
    try:
        content = decode(raw, where, line=line, error=NoUtf8 if error is MissingError else error)
        return loads(content, object_pairs_hook=once if line else None)
    except RepeatedKey as wrong:
        raise error(f"{where}, line {line}: {wrong}", hint="keep the one that is meant") from wrong
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


def visible(text: str) -> str:
    """Text for a terminal: line feeds and tabs as they are, and nothing that moves, hides, colours or turns around.

    Controls (escape sequences begin with one), marks of direction and other invisible letters are spelt as in JSON:
    \\u001b. What joins letters of a script or an emoji stays.
    """
    return text if text.isascii() and text.isprintable() else UNSEEN.sub(_spelt, text)


def one_line(text: str) -> str:
    """The same for a name or a value within a line: a line feed would make it look like several."""
    return visible(text).replace("\n", "\\n").replace("\t", "\\t")


def _spelt(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at] << 8 | units[at + 1]:04x}" for at in range(0, len(units), 2))


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
