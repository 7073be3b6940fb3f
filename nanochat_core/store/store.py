"""The store: publish what a step made, find it again by fingerprint, read it back verified.

An artifact exists when its manifest does: blobs go first and the manifest last, so a reader never sees half of one, and
two processes that publish the same step at once are both fine (the later manifest stays, in one piece). Nothing here
trusts what it reads: a manifest that is damaged, in another's place, or whose blobs are gone counts as absent, and the
step runs again; a file with another digest than promised is never handed out.
"""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.base.redaction import redact_value
from nanochat_core.store import format
from nanochat_core.store.blobs import Blobs, blob_key, seen
from nanochat_core.store.cache import Cache
from nanochat_core.store.failures import explained
from nanochat_core.store.filesystem import Files, open_files, scratch_file, sweep_scratch
from nanochat_core.store.intent import spare
from nanochat_core.store.lease import TTL_S, Claim, Lease, LeaseBook, LeaseLostError, acquire
from nanochat_core.store.manifest import Artifact, FileEntry, check_key, open_sealed_json, seal_json
from nanochat_core.store.names import Names, Pin, Ref, absent, labels
from nanochat_core.store.parallel import in_parallel
from nanochat_core.store.partial import Partial, list_files, partial_root
from nanochat_core.store.views import Views

log = logging.getLogger(__name__)
DEFAULT_CACHE_BYTES = 50 << 30
FENCING_NUMBER = "fencing_number"
TRANSFERS = 4  # files at once; each of them uses several connections of its own


def manifest_key(step: str, fingerprint: str) -> str:
    return f"steps/{check_key(step, what='step')}/{check_key(fingerprint, what='fingerprint')}.json"


def run_key(run_id: str) -> str:
    return f"runs/{check_key(run_id, what='run')}.json"


class Store:
    """Artifacts, refs, partial work and run records under one URL."""

    def __init__(self, files: Files, *, cache_folder: Path, cache_max_bytes: int) -> None:
        self.url = files.location.url
        self._files = files
        self._blobs = Blobs(files)
        self._names = Names(files)
        self._cache_folder = cache_folder.expanduser().absolute()
        self._views = Views(self._cache_folder / "views")
        self._cache = Cache(self._blobs, folder=self._cache_folder, max_bytes=cache_max_bytes, views=self._views)

    @classmethod
    def open(cls, url: str, *, cache_folder: Path, cache_max_bytes: int = DEFAULT_CACHE_BYTES) -> "Store":
        """The store at a folder or URL; an error within seconds when a remote one cannot be used, or is a newer one."""
        return cls(format.checked(open_files(url)), cache_folder=cache_folder, cache_max_bytes=cache_max_bytes)

    @property
    def files(self) -> Files:
        """The objects themselves, for the garbage collector."""
        return self._files

    @property
    def scratch(self) -> Path:
        """A folder of this machine for what is on its way."""
        return self._cache_folder / "tmp"

    @property
    def names(self) -> Names:
        return self._names

    # --- artifacts ---

    def publish(
        self,
        folder: Path,
        *,
        step: str,
        fingerprint: str,
        inputs: Mapping[str, str],
        config: Mapping[str, Any],
        code: Mapping[str, str],
        packages: Mapping[str, str],
        metrics: Mapping[str, Any],
        provenance: Mapping[str, Any],
        lease: Lease | None = None,
    ) -> Artifact:
        """Store the files of `folder` and then the manifest that makes them an artifact.

        With a lease, LeaseLostError when somebody else holds it; the manifest then carries its fencing number.
        """
        if lease is not None:
            provenance = {**provenance, FENCING_NUMBER: lease.number}
            assert manifest_key(step, fingerprint) == f"steps{lease.root.removeprefix('leases')}.json", lease.root
            lease.check()

        def artifact(files: Mapping[str, FileEntry]) -> Artifact:
            return Artifact(
                step=step, fingerprint=fingerprint, files=files, inputs=inputs, config=config,
                code=code, packages=packages, metrics=redact_value(metrics), provenance=redact_value(provenance),
            )  # fmt: skip

        artifact({}).to_json()  # a value that JSON cannot hold should fail before the upload, not after
        names = list_files(folder)
        if self._files.folder is not None:
            sweep_scratch(self._files.folder / "tmp")
        entries = in_parallel(lambda name: self._blobs.add(folder / name), names, workers=TRANSFERS)
        published = artifact(dict(zip(names, entries, strict=True)))
        self._write_manifest(published, lease)
        blobs = [blob_key(entry.sha256) for entry in entries]
        spare(self._files, None if inputs else [manifest_key(step, fingerprint), *blobs])
        lost = [name for name in names if not self._blobs.has(published.files[name])]  # by a gc that came between
        in_parallel(lambda name: self._blobs.add(folder / name), lost, workers=TRANSFERS)
        if self._files.folder is None:
            self._cache.keep({entry: folder / name for name, entry in published.files.items()})
        return published

    def _write_manifest(self, artifact: Artifact, lease: Lease | None) -> None:
        """The write that all others wait for. A holder that slept since its check meets a later one's manifest."""
        key, content = manifest_key(artifact.step, artifact.fingerprint), artifact.to_json()
        if lease is None:
            self._files.write(key, content)
            return
        lease.check()
        if self._files.create(key, content):
            return
        existing = self._read_manifest(key)
        if existing is not None and existing.provenance.get(FENCING_NUMBER, 0) > lease.number:
            raise LeaseLostError(
                f"{artifact.step} {artifact.fingerprint[:12]} was published by a later holder of its lease",
                hint="run the same command again to use what it made",
            )
        lease.check()
        self._files.write(key, content)

    def find(self, step: str, fingerprint: str) -> Artifact | None:
        """The artifact, when its manifest is sound and every blob is there with the right size."""
        artifact = self._read_manifest(manifest_key(step, fingerprint))
        if artifact is None:
            return None
        names = sorted(artifact.files)
        present = in_parallel(lambda name: self._blobs.has(artifact.files[name]), names)
        lost = [name for name, has in zip(names, present, strict=True) if not has]
        if lost:
            log.warning(
                "%s %s counts as absent: %d of %d files missing or of another size, such as %s",
                step, fingerprint[:12], len(lost), len(names), lost[0],
            )  # fmt: skip
            return None
        return artifact

    def reuse(self, step: str, fingerprint: str) -> Artifact | None:
        """Like `find`, for a run that will work with the artifact: gc takes it for as young as a new one."""
        key = manifest_key(step, fingerprint)
        artifact = self._read_manifest(key)
        if artifact is None:
            return None
        self._files.touch(key)
        spare(self._files, [key, *(blob_key(entry.sha256) for entry in artifact.files.values())])
        return self.find(step, fingerprint)  # only now: gc may have been at work until `spare` stopped it

    def _read_manifest(self, key: str) -> Artifact | None:
        content = self._files.read(key)
        if content is None:
            return None
        try:
            artifact = Artifact.from_json(content, where=key)
            if manifest_key(artifact.step, artifact.fingerprint) != key:
                raise CorruptError(f"{key} is the manifest of {artifact.step} {artifact.fingerprint}")
        except MissingError as error:
            log.warning("%s: it counts as absent", error)
            return None
        return artifact

    def artifacts(self, step: str | None = None) -> list[Artifact]:
        """Every artifact with a sound manifest, newest first."""
        prefix = "steps" if step is None else f"steps/{check_key(step, what='step')}"
        found = in_parallel(self._read_manifest, self._files.keys(prefix))
        return sorted(
            (artifact for artifact in found if artifact is not None),
            key=lambda artifact: str(artifact.provenance.get("finished_at", "")),
            reverse=True,
        )

    def fetch(self, artifact: Artifact, names: Iterable[str] | None = None) -> Path:
        """A read-only folder with these files (None: all), every one of them hashed now.

        CorruptError when a file is missing or altered, also after a second try; `discard` then lets the step run again.
        The folder stays usable at least as long as this process lives.
        """
        entries = _select(artifact, names)
        with explained((OSError,), url=str(self._cache_folder), doing="using the cache"):
            targets = {name: self._local_path(entry) for name, entry in entries.items()}
            view = self._views.open(targets)
            if self._files.folder is None:
                self._cache.make_room(entries.values())
            in_parallel(lambda name: self._check(artifact, name), sorted(entries))
            self._views.fill(targets)
        return view

    def _local_path(self, entry: FileEntry) -> Path:
        folder = self._files.folder
        return self._cache.path(entry) if folder is None else folder / blob_key(entry.sha256)

    def _obtain(self, entry: FileEntry) -> FileEntry | None:
        if self._files.folder is None:
            return self._cache.obtain(entry)
        with self._files.explained(f"reading {blob_key(entry.sha256)}"):
            return seen(self._local_path(entry))

    def _check(self, artifact: Artifact, name: str) -> None:
        promised = artifact.files[name]
        if self._obtain(promised) == promised:
            return
        log.warning("%s of %s %s is damaged: fetching it again", name, artifact.step, artifact.fingerprint[:12])
        found = self._obtain(promised)
        if found != promised:
            raise CorruptError(
                f"{name} of {artifact.step} {artifact.fingerprint[:12]} should have sha256 {promised.sha256}, "
                + (f"and has {found.sha256}" if found else "and is missing"),
                hint=f"discard the artifact, then run again: {artifact.step} makes it anew",
            )

    def verify(self, artifact: Artifact) -> list[str]:
        """Names of the files that are missing or altered in the store itself; reads everything."""
        names = sorted(artifact.files)
        sound = in_parallel(lambda name: self._is_sound(artifact.files[name]), names)
        return [name for name, is_sound in zip(names, sound, strict=True) if not is_sound]

    def _is_sound(self, entry: FileEntry) -> bool:
        if self._files.folder is not None:
            return self._obtain(entry) == entry
        with scratch_file(self.scratch) as temporary:  # not through the cache: its copy may be better
            return self._blobs.get(entry, temporary) and seen(temporary) == entry

    def discard(self, artifact: Artifact) -> None:
        """Forget the artifact and its damaged blobs, so that the step can run again; sound ones may serve others."""
        self._files.remove(manifest_key(artifact.step, artifact.fingerprint))
        for name in self.verify(artifact):
            self._blobs.remove(artifact.files[name])

    # --- names ---

    def set_ref(self, name: str, version: str, artifact: Artifact, *, expires: bool = False) -> Ref:
        """Let `name` at `version` mean `artifact`; an earlier meaning of the same version is replaced.

        `expires`: set by a run as it ends, see names.py.
        """
        ref = self._names.set_ref(name, version, artifact, expires=expires)
        self._hold([(artifact.step, artifact.fingerprint)])
        if self._files.num_bytes(manifest_key(artifact.step, artifact.fingerprint)) is None:
            raise MissingError(
                f"{artifact.step} {artifact.fingerprint[:12]} is not in {self.url} any more", hint="run the step again"
            )
        return ref

    def ref(self, name: str, version: str | None = None) -> Artifact:
        """The artifact that a name means; of the newest version when none is given."""
        found = self._names.find(name, version)
        if found is None:
            asked = f"{name}@{version}" if version else name
            raise absent(asked, labels(self.refs()), url=self.url, kinds=["ref"])
        return self._resolve(found)

    def _resolve(self, ref: Ref) -> Artifact:
        artifact = self.find(ref.step, ref.fingerprint)
        if artifact is None:
            raise MissingError(
                f"the ref {ref.name} {ref.version} means {ref.step} {ref.fingerprint[:12]}, which is gone or damaged",
                hint="run the step again, or set the ref to another artifact",
            )
        if ref.digest not in (artifact.result_digest, artifact.digest):
            raise CorruptError(
                f"the ref {ref.name} {ref.version} was set to content {ref.digest[:12]}, and {ref.step} "
                f"{ref.fingerprint[:12]} now has {artifact.result_digest[:12]}",
                hint="the step was made anew since: set the ref again if that is what you want",
            )
        return artifact

    def refs(self) -> list[Ref]:
        """Every readable ref, by name and then by age."""
        return self._names.refs()

    def remove_ref(self, name: str, version: str | None = None) -> list[Ref]:
        """Forget a name, or one version of it; the refs that are gone. The artifacts stay until gc."""
        gone = [ref for ref in self.refs() if ref.name == name and version in (None, ref.version)]
        return [ref for ref in gone if self._names.remove_ref(ref.name, ref.version)]

    def pin(self, target: str) -> Pin:
        """Keep what a run (its id) or a ref (NAME or NAME@VERSION) means now for ever, and what it was made from."""
        if "@" not in target and target in self.runs():
            artifacts = run_artifacts(self.run(target))
        else:
            name, _, version = target.partition("@")
            ref = self._names.find(name, version or None)
            if ref is None:
                raise absent(target, [*self.runs(), *labels(self.refs())], url=self.url, kinds=["run", "ref"])
            self._resolve(ref)
            target, artifacts = f"{ref.name}@{ref.version}", [(ref.step, ref.fingerprint)]
        pin = self._names.add_pin(target, artifacts)
        self._hold(artifacts)
        return pin

    def unpin(self, target: str) -> list[Pin]:
        """Take pins away: of a run, of a ref or what alone it begins with, of all versions of a name. Those gone."""
        pins = self.pins()
        found = [pin for pin in pins if target in (pin.target, pin.target.partition("@")[0])]
        found = found or [pin for pin in pins if "@" in target and pin.target.startswith(target)]
        if not found or (len(found) > 1 and "@" in target):
            how_many = f"is the beginning of {len(found)} pins" if found else "is not pinned"
            raise MissingError(f"{target} {how_many}", hint="nanochat refs list")
        return [pin for pin in found if self._names.remove_pin(pin.target)]

    def pins(self) -> list[Pin]:
        return self._names.pins()

    def _hold(self, artifacts: Iterable[tuple[str, str]]) -> None:
        """After a name was written: gc may have begun to delete what it means (intent.py)."""
        keys = [manifest_key(step, fingerprint) for step, fingerprint in artifacts]
        spare(self._files, keys)

    # --- leases ---

    def lease(
        self,
        step: str,
        fingerprint: str,
        *,
        owner: str,
        ttl_s: float = TTL_S,
        wait_s: float | None = None,
        inputs: Mapping[str, str] | None = None,
        on_wait: Callable[[str], None] | None = None,
        on_lost: Callable[[LeaseLostError], None] | None = None,
    ) -> Lease:
        """Become the one writer of a step, and stay it until the end of the `with` block (lease.py).

        Waits for ever, or for `wait_s` seconds and then raises LeaseHeldError. gc keeps the artifacts that `inputs`
        (name -> digest) mean. `on_lost` is called by a thread when somebody else has taken over.
        """
        book = LeaseBook(self._files, step=step, fingerprint=fingerprint)
        claim = Claim(owner=owner, ttl_s=ttl_s, inputs=inputs or {}, on_lost=on_lost)
        lease = acquire(book, claim, wait_s=wait_s, on_wait=on_wait)
        try:
            spare(self._files, None if inputs else [partial_root(step, fingerprint), manifest_key(step, fingerprint)])
        except BaseException:
            lease.release()  # nobody else could: its thread would renew it for as long as this process lives
            raise
        return lease

    # --- unfinished steps and runs ---

    def partial(self, step: str, fingerprint: str, *, lease: Lease | None = None) -> Partial:
        """Where an unfinished step keeps what it has; with a lease only its holder can write there."""
        return Partial(self._files, step=step, fingerprint=fingerprint, lease=lease)

    def put_run(self, run_id: str, record: Mapping[str, Any]) -> None:
        """Write the record of a run, replacing an earlier one."""
        self._files.write(run_key(run_id), seal_json({"run_id": run_id, "record": redact_value(record)}))

    def run(self, run_id: str) -> dict[str, Any]:
        key = run_key(run_id)
        content = self._files.read(key)
        if content is None:
            raise absent(run_id, self.runs(), url=self.url, kinds=["run"])
        fields = open_sealed_json(content, where=key)
        if fields.get("run_id") != run_id or not isinstance(fields.get("record"), dict):
            raise CorruptError(f"{key} is the record of {fields.get('run_id')!r}", hint="remove the file")
        record: dict[str, Any] = fields["record"]
        return record

    def runs(self) -> list[str]:
        """Ids of the recorded runs, sorted."""
        return [os.path.basename(key).removesuffix(".json") for key in self._files.keys("runs")]


def run_artifacts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(step, fingerprint) of what a run's record names."""
    lines = record.get("steps") or []
    return [(str(line["step"]), str(line["fingerprint"])) for line in lines if {"step", "fingerprint"} <= line.keys()]


def _select(artifact: Artifact, names: Iterable[str] | None) -> dict[str, FileEntry]:
    wanted = list(artifact.files) if names is None else list(names)
    unknown = [name for name in wanted if name not in artifact.files]
    if unknown:
        raise MissingError(
            f"{artifact.step} {artifact.fingerprint[:12]} has no file {unknown[0]!r}",
            hint=f"it has {', '.join(sorted(artifact.files)[:10]) or 'none'}",
        )
    return {name: artifact.files[name] for name in wanted}
