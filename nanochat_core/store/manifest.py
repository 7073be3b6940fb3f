"""What an artifact is: a manifest that names files by digest and says what made them.

Two digests with two purposes. `Artifact.digest` covers names and content only, so that the same bytes made by another
commit or on another day are the same input to the next step. The `seal` in the JSON file covers every field, so that a
flipped bit in a metric or an input is found as well; the same seal guards refs, markers and run records.
"""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.base.fingerprint import canonical_json, identity_digest
from nanochat_core.base.foreign import is_safe_name as is_safe_name
from nanochat_core.base.foreign import loads

FORMAT = 1
SEAL = "seal"
PARTS = "parts"  # among the metrics
LOG_FOLDER = "log"  # files below it (metrics, output) are kept with an artifact and are no part of its result
SHA256 = re.compile(r"[0-9a-f]{64}")
TEXTS = ("step", "fingerprint")
TABLES, TABLES_OF_TEXTS = ("files", "config", "metrics", "provenance"), ("inputs", "code", "packages")
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,199}")


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """The content of one file."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """One manifest."""

    step: str
    fingerprint: str
    files: Mapping[str, FileEntry]
    """By relative name with "/", also in subfolders."""
    inputs: Mapping[str, str]
    """Input name -> `digest` of the artifact that was read."""
    config: Mapping[str, Any]
    """What the step's result depends on."""
    code: Mapping[str, str]
    """Core module -> digest of its normalised source."""
    packages: Mapping[str, str]
    metrics: Mapping[str, Any]
    """Headline numbers."""
    provenance: Mapping[str, Any]
    """Who, when, from which commit; see provenance.py."""

    @cached_property
    def digest(self) -> str:
        """Content digest: independent of who made it and when."""
        pairs = sorted((name, entry.sha256) for name, entry in self.files.items())
        return hashlib.sha256(canonical_json(pairs).encode()).hexdigest()

    @cached_property
    def result_digest(self) -> str:
        """Like `digest`, without the logs: two runs that made the same thing agree, whatever their logs say."""
        results = {name: entry.sha256 for name, entry in self.files.items() if not name.startswith(f"{LOG_FOLDER}/")}
        return identity_digest(results)

    @property
    def parts(self) -> Mapping[str, str]:
        """Name -> `result_digest` of the artifacts of the same step that it was put together from, if any."""
        parts = self.metrics.get(PARTS)
        return parts if isinstance(parts, dict) and all(isinstance(each, str) for each in parts.values()) else {}

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes for entry in self.files.values())

    def to_json(self) -> bytes:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return seal_json({"format": FORMAT, "digest": self.digest, **fields})

    @classmethod
    def from_json(cls, content: bytes, *, where: str) -> "Artifact":
        """Read a manifest; `where` names it in errors."""
        fields = open_sealed_json(content, where=where)
        if type(number := fields.get("format")) is int and number > FORMAT:
            raise ConfigError(
                f"{where} was written by a newer release (format {number}, this one reads up to {FORMAT})",
                hint="update nanochat, or name another store: NANOCHAT_STORE",
            )
        if number != FORMAT:
            raise MissingError(f"{where} has format {number!r}, this version reads {FORMAT}", hint="update nanochat")
        lacking = [field.name for field in dataclasses.fields(cls) if field.name not in fields]
        if lacking:
            raise CorruptError(f"{where} lacks {', '.join(lacking)}", hint="run the step again")
        values = {field.name: fields[field.name] for field in dataclasses.fields(cls)}
        _check_kinds(values, where=where)
        artifact = cls(**{**values, "files": entries_from_json(fields["files"], where=where)})
        if fields.get("digest") != artifact.digest:
            raise CorruptError(f"{where} lists files that do not have its digest", hint="run the step again")
        return artifact


def _check_kinds(values: Mapping[str, Any], *, where: str) -> None:
    """CorruptError for a field of a manifest that holds another kind of value than it does in ours."""
    texts = [name for name in TEXTS if not isinstance(values[name], str)]
    tables = [name for name in (*TABLES, *TABLES_OF_TEXTS) if not isinstance(values[name], dict)]
    if not tables:
        tables = [name for name in TABLES_OF_TEXTS if not all(isinstance(v, str) for v in values[name].values())]
    if wrong := texts + tables:
        raise CorruptError(f"{where} holds another kind of value in {', '.join(wrong)}", hint="run the step again")


def entries_from_json(files: Any, *, where: str) -> dict[str, FileEntry]:
    """The files of a manifest or marker. A name that would leave the folder is refused."""
    try:
        entries = {name: FileEntry(sha256=f["sha256"], num_bytes=f["num_bytes"]) for name, f in files.items()}
        sound = all(
            SHA256.fullmatch(e.sha256) and type(e.num_bytes) is int and e.num_bytes >= 0 for e in entries.values()
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise CorruptError(f"{where} has no readable list of files", hint="run the step again") from error
    if not sound or not all(is_safe_name(name) for name in entries):
        raise CorruptError(f"{where} lists an impossible file", hint="run the step again")
    return entries


def check_name(name: str) -> str:
    if not is_safe_name(name):
        raise ConfigError(
            f"the file name {name!r} cannot be stored", hint="use printable UTF-8 names without . and .. parts"
        )
    return name


def check_key(value: str, *, what: str) -> str:
    """Steps, fingerprints, refs and the like become parts of keys: letters, digits and ._=+- only."""
    if not KEY.fullmatch(value):
        raise ConfigError(f"{what} {value!r} cannot be part of a key", hint="use letters, digits, '-', '_' and '.'")
    return value


def seal_json(fields: Mapping[str, Any]) -> bytes:
    """A JSON object for people to read, with a digest of all of it inside."""
    if SEAL in fields:
        raise ConfigError(f"the record already has a field {SEAL!r}", hint="give the field another name")
    canonical = canonical_json(fields)
    sealed = {**json.loads(canonical), SEAL: hashlib.sha256(canonical.encode()).hexdigest()}
    return (json.dumps(sealed, indent=1, sort_keys=True) + "\n").encode()


def open_sealed_json(content: bytes, *, where: str) -> dict[str, Any]:
    """What `seal_json` was given. CorruptError when a byte of it changed."""
    try:
        fields = loads(content.decode(), is_strict=True)
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{where} is not valid JSON: {error}", hint="run the step again") from error
    if not isinstance(fields, dict) or SEAL not in fields:
        raise CorruptError(f"{where} is not a sealed record", hint="run the step again")
    seal = fields.pop(SEAL)
    actual = hashlib.sha256(canonical_json(fields).encode()).hexdigest()
    if seal != actual:
        raise CorruptError(f"{where} was altered: its seal is {seal}, its content {actual}", hint="run the step again")
    return fields
