"""Names for people: refs that mean an artifact, and pins that keep one for ever.

A ref holds what it means. The refs that a run sets as it ends (`expires`) do not: of each name the newest one does,
the older ones are there as long as their run is kept; otherwise no artifact of any nightly run would ever go. A pin
remembers artifacts, not names, so it outlives the ref or the run record that it was made from.
"""

import difflib
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.store.filesystem import Files
from nanochat_core.store.manifest import Artifact, check_key, open_sealed_json, seal_json

log = logging.getLogger(__name__)
NEAR_SHOWN = 5


@dataclass(frozen=True, kw_only=True)
class Ref:
    """A name for people, and the artifact that it means."""

    name: str
    version: str
    step: str
    fingerprint: str
    digest: str
    """Of the result without its logs: the same weights, made anew, are what was named; older refs: of everything."""
    set_at: str
    expires: bool = False
    """Set by a run as it ended: an older one goes when gc takes the artifact."""


@dataclass(frozen=True, kw_only=True)
class Pin:
    """Artifacts that are never collected."""

    target: str
    """NAME@VERSION of the ref, or the run's id."""
    is_run: bool
    artifacts: tuple[tuple[str, str], ...]
    """(step, fingerprint) of each."""
    pinned_at: str


def ref_key(name: str, version: str) -> str:
    return f"refs/{check_key(name, what='ref')}/{check_key(version, what='version')}.json"


def pin_key(target: str) -> str:
    """Refs and runs have places of their own: a run may be called like a ref."""
    name, separator, version = target.partition("@")
    if separator:
        return f"pins/refs/{check_key(name, what='ref')}/{check_key(version, what='version')}.json"
    return f"pins/runs/{check_key(name, what='run')}.json"


def absent(name: str, known: Sequence[str], *, url: str, kinds: Sequence[str]) -> MissingError:
    """For a name that is not there: what to type instead, of those `known` (oldest first). `kinds`: run, ref."""
    plural = " and ".join(f"{kind}s" for kind in kinds)
    near = difflib.get_close_matches(name, known, n=NEAR_SHOWN, cutoff=0.4)
    shown = ", ".join(near or known[-NEAR_SHOWN:])
    hint = f"{plural} like it: {shown}" if near else f"of {len(known)} {plural} the newest: {shown}"
    if not known:
        hint = f"this store has no {plural} yet: `nanochat run tiny` makes some, NANOCHAT_STORE names another store"
    return MissingError(f"there is no {' and no '.join(kinds)} {name} in {url}", hint=hint)


def labels(refs: Sequence[Ref]) -> list[str]:
    """NAME@VERSION of each, the newest last."""
    return [f"{ref.name}@{ref.version}" for ref in sorted(refs, key=lambda ref: ref.set_at)]


class Names:
    """The refs and pins of one store."""

    def __init__(self, files: Files) -> None:
        self._files = files

    def set_ref(self, name: str, version: str, artifact: Artifact, *, expires: bool) -> Ref:
        ref = Ref(
            name=name, version=version, step=artifact.step, fingerprint=artifact.fingerprint,
            digest=artifact.result_digest, set_at=_now(), expires=expires,
        )  # fmt: skip
        self._files.write(ref_key(name, version), seal_json(asdict(ref)))
        return ref

    def find(self, name: str, version: str | None) -> Ref | None:
        """The ref of this version, or of the only one that begins so; the newest version when none is given."""
        if version is not None and (whole := self._read_ref(ref_key(name, version))):
            return whole
        keys = [key for key in self._files.keys(f"refs/{check_key(name, what='ref')}") if _begins(key, version)]
        if version is not None and len(keys) > 1:
            raise MissingError(f"{name}@{version} is the beginning of {len(keys)} refs", hint="nanochat refs list")
        return max(filter(None, map(self._read_ref, keys)), key=lambda ref: ref.set_at, default=None)

    def refs(self, *, strict: bool = False) -> list[Ref]:
        """Every ref, by name and then by age; those that cannot be read are left out, or (`strict`) an error."""
        found = []
        for key in self._files.keys("refs"):
            try:
                found.append(self._read_ref(key))
            except CorruptError as error:
                if strict:
                    raise
                log.warning("%s: leaving it out", error)
        return sorted((ref for ref in found if ref is not None), key=lambda ref: (ref.name, ref.set_at))

    def remove_ref(self, name: str, version: str) -> bool:
        """False when there was none."""
        key = ref_key(name, version)
        is_there = self._files.num_bytes(key) is not None
        self._files.remove(key)
        return is_there

    def add_pin(self, target: str, artifacts: Sequence[tuple[str, str]]) -> Pin:
        pin = Pin(target=target, is_run="@" not in target, artifacts=tuple(artifacts), pinned_at=_now())
        self._files.write(pin_key(target), seal_json(asdict(pin)))
        return pin

    def pins(self) -> list[Pin]:
        """Every pin, sorted; one that cannot be read is an error: it may protect anything."""
        return sorted(filter(None, map(self._read_pin, self._files.keys("pins"))), key=lambda pin: pin.target)

    def remove_pin(self, target: str) -> bool:
        is_there = self._files.num_bytes(pin_key(target)) is not None
        self._files.remove(pin_key(target))
        return is_there

    def _read_ref(self, key: str) -> Ref | None:
        fields = self._read(key)
        if fields is None:
            return None
        try:
            ref = Ref(**fields)
        except TypeError as error:
            raise CorruptError(f"{key} is not a ref: {error}", hint="set the ref again") from error
        if ref_key(ref.name, ref.version) != key:
            raise CorruptError(f"{key} is the ref {ref.name} {ref.version}", hint="set the ref again")
        return ref

    def _read_pin(self, key: str) -> Pin | None:
        fields = self._read(key)
        if fields is None:
            return None
        try:
            artifacts = tuple((str(step), str(fingerprint)) for step, fingerprint in fields.pop("artifacts"))
            pin = Pin(**fields, artifacts=artifacts)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptError(f"{key} is not a pin: {error}", hint="nanochat refs pin it again") from error
        if pin_key(pin.target) != key:
            raise CorruptError(f"{key} is the pin of {pin.target}", hint="nanochat refs pin it again")
        return pin

    def _read(self, key: str) -> dict[str, Any] | None:
        content = self._files.read(key)
        return None if content is None else open_sealed_json(content, where=key)


def _begins(key: str, version: str | None) -> bool:
    return key.rpartition("/")[2].removesuffix(".json").startswith(version or "")


def _now() -> str:
    return datetime.now(UTC).isoformat()
