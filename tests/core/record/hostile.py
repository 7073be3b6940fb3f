"""Bundles as somebody with a grudge would make them: one sound one, changed in its bytes or in the values inside.

A change of values is sealed again where the format allows, or every one of them would end at the first digest.
"""

import copy
import io
import json
import math
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.record.spoil import unsealed

from nanochat_core.record import line_digests
from nanochat_core.record.archive import entry_of
from nanochat_core.store.manifest import Artifact, FileEntry, seal_json

Files = dict[str, bytes]
ESCAPES = "\x1b[2J\x1b[H\x1b[32msound\x1b[0m\x07\x9b31m\u202esdrawkcab\u2066\x7f"
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**63, 10**99, -(10**99), 0.5, -0.0, 1e308, 5e-324, math.nan, math.inf, "", "x", "7",
    "\ud800", "\0", ESCAPES, "[green]sound[/green]", "x" * 70_000, "../x", [], {}, [[]], [{}], {"": None}, [None] * 999,
    {"step": 1}, [1, "a", None], {"a": {"b": {"c": []}}},
)  # fmt: skip
RAW = (  # in the place of a value, as text: what json.dumps does not write
    b"1" + b"0" * 5000, b"1e999", b"-Infinity", b"NaN", b"1." + b"0" * 9000, b"[" * 900 + b"]" * 900,
    b"[" * 100_000, b'{"a":' * 70 + b"1" + b"}" * 70, b'"\\ud800"', b'"\\u0000"', b"\xff", b"\xef\xbb\xbf1", b"",
    b"0x10",
)  # fmt: skip
NAMES = (
    "../x", "/etc/passwd", "a\\b", "C:x", ESCAPES, "evidence//x", "evidence/x/" * 30 + "y", "x" * 2000, "evidence",
    "record.json/x", "evidence/\u202e/run.json", "con", "a\0b", ".", "", "lines.json/",
)  # fmt: skip
LINES = (
    b"",
    b"{}",
    b"[]",
    b"1",
    b"\xff\xfe",
    b"null",
    b'{"event":"step"}',
    b'{"event":[]}',
    b'{"event":"end","step":1}',
)


def read(path: Path) -> Files:
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def packed(files: Files) -> bytes:
    into = io.BytesIO()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in files.items():
            target.writestr(name, content)
    return into.getvalue()


def mutants(sound: Path, draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """(what was done, a zip) without an end."""
    files, content = read(sound), sound.read_bytes()
    while True:
        kind = draw.choice(("bytes", "entry", "raw", "value", "value", "value", "line", "line"))
        if kind == "bytes":
            yield "bytes", _bytes(content, draw)
        elif kind == "entry":
            yield _entry(files, draw)
        else:
            what, changed = {"raw": _raw, "value": _value, "line": _line}[kind](files, draw)
            if draw.random() < 0.8:
                changed = resealed(changed)
            yield what, packed(changed)


def _bytes(content: bytes, draw: random.Random) -> bytes:
    """The zip itself: bits, pieces and its ends, most of it in the headers."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 8))):
        headers = [at for mark in (b"PK\1\2", b"PK\3\4", b"PK\5\6") for at in places(content, mark)]
        at = draw.choice(headers) + draw.randrange(46) if draw.random() < 0.7 else draw.randrange(len(content))
        at = min(at, len(changed) - 1)
        if draw.random() < 0.8:
            changed[at] = draw.choice((0, 1, 0xFF, 0x7F, draw.randrange(256), changed[at] ^ (1 << draw.randrange(8))))
        else:
            end = at + draw.randrange(1, 500)
            changed[at:end] = draw.choice((b"", bytes(changed[at:end]) * 2, draw.randbytes(end - at)))
    return bytes(changed)


def places(content: bytes, mark: bytes) -> list[int]:
    found, at = [], content.find(mark)
    while at >= 0:
        found.append(at)
        at = content.find(mark, at + 1)
    return found


def _entry(files: Files, draw: random.Random) -> tuple[str, bytes]:
    """An entry more or less, or of another kind or name."""
    into = io.BytesIO()
    changed = dict(files)
    name = draw.choice(list(changed))
    odd = draw.choice(NAMES)
    what = draw.choice(("lost", "odd", "twice", "renamed", "linked", "bzip2", "lzma", "encrypted", "many", "zeros"))
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as target:
        if what in ("lost", "renamed"):
            kept = changed.pop(name)
            if what == "renamed":
                changed[odd] = kept
        for each, content in changed.items():
            target.writestr(each or "empty", content)
        if what in ("odd", "twice"):
            target.writestr(odd or name if what == "odd" else name, b"x")
        elif what == "linked":
            info = zipfile.ZipInfo("evidence/link")
            info.external_attr = draw.choice((0o120777, 0o010644, 0o060644)) << 16
            target.writestr(info, "/etc/passwd")
        elif what in ("bzip2", "lzma"):
            method = zipfile.ZIP_BZIP2 if what == "bzip2" else zipfile.ZIP_LZMA
            target.writestr(f"{name}.more", b"\n" * draw.choice((10, 20 << 20)), method)
        elif what == "many":
            for number in range(draw.choice((50, 5000))):
                target.writestr(f"{draw.choice(('evidence/r', 'x', 'evidence'))}/{number}", b"")
        elif what == "zeros":
            target.writestr(f"{name}.more", draw.choice((b"\0", b"\n", b"[")) * (6 << 20))
    made = into.getvalue()
    if what == "encrypted":
        at = draw.choice(places(made, b"PK\1\2")) + 8
        made = made[:at] + bytes([made[at] | draw.choice((1, 0x40))]) + made[at + 1 :]
    return f"entry {what}", made


def _raw(files: Files, draw: random.Random) -> tuple[str, Files]:
    """Text that no writer of JSON writes, in the place of a number or a text."""
    name = draw.choice([name for name in files if name.endswith((".json", ".jsonl"))])
    content, raw = files[name], draw.choice(RAW)
    at = draw.choice([at for at in places(content, b": ") if content[at + 2 : at + 3] not in b"[{"] or [0])
    end = min((found for mark in (b",", b"\n", b"}") if (found := content.find(mark, at)) >= 0), default=len(content))
    return f"{name} raw {raw[:20]!r}", {**files, name: content[: at + 2] + raw + content[end:]}


def _value(files: Files, draw: random.Random) -> tuple[str, Files]:
    """Values of another kind, keys that are gone, renamed or new, anywhere in a JSON file or one of its lines."""
    name = draw.choice([name for name in files if name.endswith((".json", ".jsonl"))])
    lines = files[name].splitlines() if name.endswith(".jsonl") else [files[name]]
    number = draw.randrange(len(lines))
    value = json.loads(lines[number])
    done = [_change(value, draw) for _ in range(draw.choice((1, 1, 1, 3)))]
    is_sealed = isinstance(value, dict) and "seal" in value and draw.random() < 0.9
    text = _sealed(value) if is_sealed else json.dumps(value).encode()
    lines[number] = text
    end = b"\n" if name.endswith(".jsonl") else b""
    return f"{name} {done}"[:200], {**files, name: end.join(lines) + end}


def _sealed(value: dict[str, Any]) -> bytes:
    try:
        return seal_json({key: inner for key, inner in value.items() if key != "seal"})
    except Exception:  # NaN has no seal
        return json.dumps(value).encode()


def _change(value: Any, draw: random.Random) -> str:
    places = list(_containers(value))
    if not places:
        return "nothing"
    where, container = draw.choice(places)
    keys = list(container) if isinstance(container, dict) else list(range(len(container)))
    key = draw.choice(keys) if keys else None
    what = draw.choice(("set", "set", "set", "lose", "add", "rename", "repeat"))
    if what == "set" and key is not None:
        container[key] = _odd(draw)
    elif what == "lose" and key is not None:
        del container[key]
    elif isinstance(container, dict):
        new = draw.choice(
            ("", "x", ESCAPES, "seal", "line", "\ud800", "[red]", "x" * 5000, "__class__", "event", "seed")
        )
        container[new] = container.pop(key) if what == "rename" and key is not None else _odd(draw)
    else:
        container.extend([_odd(draw)] * draw.choice((1, 50)))
    return f"{what} {where}.{str(key)[:20]}"


def _odd(draw: random.Random) -> Any:
    """A copy: what a later change puts into it is not there in the next case."""
    return copy.deepcopy(draw.choice(VALUES))


def _containers(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list) and value:
        yield where, value
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in pairs:
            yield from _containers(inner, f"{where}.{key}")


def _line(files: Files, draw: random.Random) -> tuple[str, Files]:
    """A log with lines more, less, twice, in another order or of another form."""
    name = draw.choice([name for name in files if name.endswith(".jsonl")])
    lines = files[name].splitlines()
    what = draw.choice(("lose", "repeat", "swap", "put", "put", "cut", "empty", "flood"))
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    if what == "lose":
        del lines[min(at, other) : max(at, other)]
    elif what == "repeat":
        lines[at:at] = [lines[other]] * draw.choice((1, 30))
    elif what == "swap":
        lines[at], lines[other] = lines[other], lines[at]
    elif what == "put":
        lines[at] = draw.choice(LINES)
    elif what == "cut":
        lines[at] = lines[at][: draw.randrange(len(lines[at]) + 1)]
    elif what == "empty":
        lines = []
    else:
        lines[at:at] = [draw.choice(LINES)] * 200_000
    return f"{name} {what}", {**files, name: b"\n".join(lines) + draw.choice((b"\n", b"\n", b""))}


def resealed(files: Files) -> Files:
    """The files with manifests, lines and list that fit them, as far as they can be made to."""
    files = dict(files)
    for name in [name for name in files if "/manifests/" in name]:
        run, _, step = name.rpartition("/manifests/")
        files[name] = _manifest(files, files[name], f"{run}/{step.removesuffix('.json')}")
    evidence = {name: content for name, content in files.items() if name.startswith("evidence/")}
    files[line_digests.NAME] = line_digests.make(evidence)
    try:
        record = unsealed(files["record.json"])
        record["files"] = {n: vars(entry_of(content)) for n, content in sorted(files.items()) if n != "record.json"}
        files["record.json"] = seal_json(record)
    except Exception:  # the record itself was changed
        pass
    return files


def _manifest(files: Files, content: bytes, folder: str) -> bytes:
    try:
        fields = unsealed(content)
        for name in fields["files"]:
            if f"{folder}/{name}" in files:
                fields["files"][name] = vars(entry_of(files[f"{folder}/{name}"]))
        values = {key: value for key, value in fields.items() if key not in ("digest", "format")}
        entries = {name: FileEntry(**entry) for name, entry in fields["files"].items()}
        fields["digest"] = Artifact(**{**values, "files": entries}).digest
        return seal_json(fields)
    except Exception:  # it is no manifest any more
        return content
