"""Changing a bundle the way somebody with something to hide would: one field, and then the digests that tell of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat_core.record import line_digests
from nanochat_core.record.archive import entry_of
from nanochat_core.store.manifest import Artifact, seal_json

Edit = Callable[[Any], None]


def edit_json(path: Path, edit: Edit) -> None:
    """Change the value in a JSON file in place."""
    text = path.read_text()
    value = json.loads(text)
    edit(value)
    path.write_text(json.dumps(value, indent=1) + ("\n" if text.endswith("\n") else ""))  # as it was otherwise


def edit_line(path: Path, number: int, edit: Edit) -> None:
    """Change the record in one line (from 1) of a JSONL file."""
    lines = path.read_text().splitlines()
    record = json.loads(lines[number - 1])
    edit(record)
    lines[number - 1] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")


def setting(path: str, value: Any) -> Edit:
    """An edit that sets a.b.0.c, or changes it where `value` is callable."""

    def edit(fields: Any) -> None:
        *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
        for part in parents:
            fields = fields[part]
        fields[last] = value(fields[last]) if callable(value) else value

    return edit


def unsealed(content: bytes) -> dict[str, Any]:
    """The fields of a sealed file."""
    fields: dict[str, Any] = json.loads(content)
    fields.pop("seal", None)
    return fields


def reseal_bundle(folder: Path) -> None:
    """Make lines.json and record.json fit the files again, claims left as they are."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    evidence = {name: (folder / name).read_bytes() for name in names if name.startswith("evidence/")}
    (folder / line_digests.NAME).write_bytes(line_digests.make(evidence))
    record = json.loads((folder / "record.json").read_text())
    record.pop("seal", None)
    listed = [name for name in names if name != "record.json"]
    record["files"] = {name: vars(entry_of(folder / name)) for name in listed}
    (folder / "record.json").write_bytes(seal_json(record))


def reseal_manifest(run: Path, step: str) -> None:
    """Give a manifest the digests of the run's files, and its digest and seal anew; the fingerprint stays."""
    path = run / "manifests" / f"{step}.json"
    fields = json.loads(path.read_text())
    for name in fields["files"]:
        if (run / step / name).is_file():
            fields["files"][name] = vars(entry_of(run / step / name))
    for name in ("seal", "digest", "format"):
        fields.pop(name, None)
    files = {name: type("Entry", (), entry)() for name, entry in fields["files"].items()}
    digest = Artifact(**{**fields, "files": files}).digest
    path.write_bytes(seal_json({**fields, "format": 1, "digest": digest}))
