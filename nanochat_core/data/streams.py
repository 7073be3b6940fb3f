"""The content of text files piece by piece: packed or not, as lines, as JSON values, as text. Memory does not grow.

Whatever the size of a file, a block of it and one line or value are in memory. A line or a value has a bound: without
one, a file that lacks line breaks is read whole before anybody can say so.
"""

import bz2
import codecs
import csv
import gzip
import io
import itertools
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa

from nanochat_core.base import text
from nanochat_core.base.errors import MissingError
from nanochat_core.base.foreign import MAX_VALUE_BYTES as MAX_VALUE_BYTES
from nanochat_core.base.foreign import NO_VALUES, RepeatedKey, check_depth, once

BLOCK_BYTES = 1 << 20
BROKEN = (*NO_VALUES, zlib.error, lzma.LZMAError, pa.ArrowException)


def blocks(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked."""
    try:
        with _open(path) as file:
            while block := file.read(BLOCK_BYTES):
                yield block
    except BROKEN as error:
        raise MissingError(
            f"{path} cannot be read: {error}", hint="check the file, or take it out of the folder"
        ) from error


def _open(path: Path) -> BinaryIO:
    ending = path.suffix.lower()
    if ending == ".zst":
        stream = pa.CompressedInputStream(for_arrow(path), "zstd")
        return cast(BinaryIO, io.BufferedReader(stream, BLOCK_BYTES))
    openers: dict[str, Callable[[Path, str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
    return cast(BinaryIO, openers.get(ending, open)(path, "rb"))


def for_arrow(path: Path | str) -> str | BinaryIO:
    """What Arrow can open: it takes names in UTF-8 alone, and a file's name may hold any bytes."""
    try:
        return os.fsencode(path).decode("utf-8")
    except UnicodeDecodeError:
        return open(path, "rb")


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines without their ends; a carriage return alone ends one as well."""
    number, left = 0, b""
    for block in blocks(path):
        *whole, left = (left + block).splitlines(keepends=True)
        if left.endswith(b"\n"):  # not \r: its \n may be in the next block
            whole, left = [*whole, left], b""
        for line in whole:
            number += 1
            yield number, line.rstrip(b"\r\n")
        if len(left) > MAX_VALUE_BYTES:
            raise too_long(f"{path}, line {number + 1}")
    if left:
        yield number + 1, left.rstrip(b"\r\n")


def too_long(where: str) -> MissingError:
    """The error for a line or a value beyond the bound."""
    return MissingError(
        f"{where} has more than {MAX_VALUE_BYTES >> 20} MiB", hint="cut it into several; is it one JSON object a line?"
    )


def text_blocks(path: Path) -> Iterator[str]:
    """The text of a file in UTF-8, without a mark, with line feeds alone."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    num_bytes, held = 0, ""
    for block in blocks(path):
        if not num_bytes and (kind := text.other_kind(block)):
            raise MissingError(f"{path} is {kind}, whatever its name says", hint=text.OTHER_HINT)
        if not num_bytes:
            text.require_narrow(block, path)
        try:
            piece = held + decoder.decode(block)
        except UnicodeDecodeError:
            raise _no_utf8(path) from None
        if "\0" in piece:
            raise MissingError(f"{path} has bytes of zero: it is no text", hint="take it out of the folder")
        num_bytes, held = num_bytes + len(block), ""
        if piece.endswith("\r"):
            piece, held = piece[:-1], "\r"
        piece = piece.removeprefix(text.MARK) if num_bytes == len(block) else piece
        yield piece.replace("\r\n", "\n").replace("\r", "\n")
    try:
        yield held.replace("\r", "\n") + decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise _no_utf8(path) from None


def _no_utf8(path: Path) -> MissingError:
    """The error for a file that is known not to be UTF-8, with the line."""
    return no_utf8(path) or text.NoUtf8(f"{path} is not UTF-8", hint="save it as UTF-8")


def no_utf8(path: Path, *, most_bytes: int | None = None) -> text.NoUtf8 | None:
    """What is wrong with the encoding of a file, with the line; None where it is UTF-8, or so far as it is read."""
    num_bytes = 0
    for number, line in lines(path):
        try:
            text.decode(line, path, line=number)
        except text.NoUtf8 as error:
            return error
        num_bytes += len(line)
        if most_bytes is not None and num_bytes > most_bytes:
            return None
    return None


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of a table with a header, each with the line that it starts on; .tsv has tabs, .csv what its header has."""
    text_lines = _text_lines(path)
    header = next(text_lines, "")
    is_tabs = ".tsv" in [suffix.lower() for suffix in path.suffixes]
    delimiter = "\t" if is_tabs else max(",;\t|", key=header.count)
    csv.field_size_limit(MAX_VALUE_BYTES)
    rows = csv.reader(itertools.chain([header], text_lines), delimiter=delimiter, strict=True)
    start = 1
    try:
        names = [name.strip() for name in next(rows, [])]
        if len(set(names)) < len(names):
            raise MissingError(f"{path}: a column is there twice: {', '.join(names)}", hint="keep one of them")
        start = rows.line_num + 1
        for row in rows:
            if row and len(row) != len(names):
                raise MissingError(
                    f"{path}, line {start} has {len(row)} columns, and its header {len(names)}",
                    hint=f"a text that holds {delimiter!r} or a line break stands in double quotes",
                )
            if row:
                yield start, dict(zip(names, row, strict=True))
            start = rows.line_num + 1
    except csv.Error as error:
        raise MissingError(f"{path}, line {start} is no row of a table: {error}", hint="is the file whole?") from error


def _text_lines(path: Path) -> Iterator[str]:
    """Lines with their ends; a line feed alone ends one."""
    left = ""
    for piece in text_blocks(path):
        *whole, left = (left + piece).split("\n")
        yield from (f"{line}\n" for line in whole)
    if left:
        yield left


def json_values(path: Path) -> Iterator[tuple[int, Any]]:
    """Numbered values of a JSON file: the items of a list, or values one after the other, a line each or not."""
    decoder, pieces, buffer, number = json.JSONDecoder(object_pairs_hook=once), text_blocks(path), "", 0
    while not (buffer := buffer.lstrip()) and (piece := next(pieces, None)) is not None:
        buffer = piece
    is_list = buffer.startswith("[")
    at = int(is_list)
    while True:
        at = _skipped(buffer, at, is_list=is_list)
        try:
            if is_list and buffer[at : at + 1] == "]":
                _require_end(path, itertools.chain([buffer[at + 1 :]], pieces))
                return
            value, at = decoder.raw_decode(buffer, at)
            check_depth(value)
        except RepeatedKey as error:
            raise MissingError(f"{path}, item {number + 1}: {error}", hint="keep the one that is meant") from error
        except (ValueError, RecursionError) as error:
            if len(buffer) - at > MAX_VALUE_BYTES:
                raise too_long(f"{path}, item {number + 1}") from error
            more = _more(pieces, len(buffer) - at)
            if not more:
                if at >= len(buffer) and not is_list:
                    return
                raise MissingError(
                    f"{path}, item {number + 1} is not JSON: {error}", hint="is the file whole?"
                ) from error
            buffer, at = buffer[at:] + more, 0
            continue
        number += 1
        yield number, value


def _require_end(path: Path, pieces: Iterator[str]) -> None:
    if any(piece.strip() for piece in pieces):
        raise MissingError(f"{path} goes on after its list", hint="one list, or one JSON object a line")


def _skipped(buffer: str, at: int, *, is_list: bool) -> int:
    between = " \t\r\n," if is_list else " \t\r\n"
    while at < len(buffer) and buffer[at] in between:
        at += 1
    return at


def _more(pieces: Iterator[str], wanted: int) -> str:
    """At least so much further text, where there is any: reading in doubling steps keeps long values cheap."""
    taken: list[str] = []
    num = 0
    while num < max(1, wanted) and (piece := next(pieces, None)) is not None:
        taken.append(piece)
        num += len(piece)
    return "".join(taken)
