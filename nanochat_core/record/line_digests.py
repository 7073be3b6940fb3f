"""A short digest of every line of the evidence, so that a refusal can name the line that was changed.

The files' own sha256 decide whether a bundle is refused; these 32 bits per line only say where. Manifests and the like
have one field per line, so the line names the field.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from nanochat_core.base.errors import CorruptError
from nanochat_core.record.problems import Problem, read_json

NAME = "lines.json"
FORMAT = 1
HEX_CHARS = 8
FIELD = re.compile(r'\s*"(?P<name>[^"]+)":')
MAX_SHOWN = 5


def make(files: Mapping[str, bytes]) -> bytes:
    """The content of lines.json for these files."""
    digests = {name: line_digests(content) for name, content in sorted(files.items())}
    return (json.dumps({"format": FORMAT, "lines": digests}, indent=1, sort_keys=True) + "\n").encode()


def line_digests(content: bytes) -> str:
    """One digest after the other, eight hex digits each."""
    lines = content.split(b"\n")
    return "".join(hashlib.blake2b(line, digest_size=HEX_CHARS // 2).hexdigest() for line in lines)


def parse(content: bytes) -> dict[str, str]:
    """The digests by file; CorruptError where it is not such a file."""
    fields: Any = read_json(content, where=NAME)
    digests = fields.get("lines") if isinstance(fields, dict) else None
    if not isinstance(digests, dict) or fields != {"format": FORMAT, "lines": digests}:
        raise CorruptError(f"{NAME} holds other fields than format, which is {FORMAT}, and lines")
    if not all(isinstance(text, str) for text in digests.values()):
        raise CorruptError(f"{NAME} holds digests that are no text")
    return digests


def changed_lines(file: str, content: bytes, promised: str) -> Iterator[Problem]:
    """Where `content` differs from what was bundled."""
    found = line_digests(content)
    if found == promised:
        return
    lines = content.split(b"\n")
    if len(found) != len(promised):
        first = next((n for n, pair in enumerate(_pairs(found, promised), start=1) if pair[0] != pair[1]), 1)
        was, now = len(promised) // HEX_CHARS - 1, len(lines) - 1
        yield Problem(file, f"line {first}", f"and what follows differs: {now} lines, {was} were bundled")
        return
    wrong = [number for number, pair in enumerate(_pairs(found, promised), start=1) if pair[0] != pair[1]]
    for number in wrong[:MAX_SHOWN]:
        named = FIELD.match(lines[number - 1].decode("utf-8", "replace"))
        where = f"line {number} field {named['name']}:" if named else f"line {number}"
        yield Problem(file, where, "is not what was bundled")
    if len(wrong) > MAX_SHOWN:
        yield Problem(file, f"{len(wrong) - MAX_SHOWN} more lines", "are not what was bundled")


def _pairs(found: str, promised: str) -> Iterator[tuple[str, str]]:
    for start in range(0, min(len(found), len(promised)), HEX_CHARS):
        yield found[start : start + HEX_CHARS], promised[start : start + HEX_CHARS]
