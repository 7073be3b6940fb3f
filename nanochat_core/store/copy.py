"""Carrying: what runs and names reach goes to another store, and is whole there or not there.

An artifact's blobs go first, hashed as they arrive (in a bucket they are read back), then its manifest; names, pins and
runs last, so whatever can be found there can be used there. A blob that is there already does not go again: who was
killed goes on where it stopped. What the other store has made itself under the same fingerprint with other content
stays as it is, and is said.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.store.blobs import Blobs, blob_key, seen
from nanochat_core.store.filesystem import scratch_file, sweep_scratch
from nanochat_core.store.intent import spare
from nanochat_core.store.manifest import Artifact, FileEntry
from nanochat_core.store.names import pin_key, ref_key
from nanochat_core.store.parallel import in_parallel
from nanochat_core.store.store import TRANSFERS, Store, manifest_key, run_artifacts, run_key

Name = tuple[str, str]
"""(step, fingerprint)"""


@dataclass(frozen=True, kw_only=True)
class Cargo:
    """What shall be there in the end."""

    artifacts: tuple[Artifact, ...]
    """Each after those that it was made from."""
    labels: tuple[str, ...]
    """Keys of refs, pins and runs, which are small and mean artifacts."""


@dataclass(kw_only=True)
class Carried:
    """What became of it."""

    went: list[Artifact] = field(default_factory=list)
    there: list[Artifact] = field(default_factory=list)
    other: list[Artifact] = field(default_factory=list)
    """Not carried: the other store has its own, with other content."""
    num_files: int = 0
    num_bytes: int = 0
    """Of the files that went."""
    labels: list[str] = field(default_factory=list)
    labels_there: list[str] = field(default_factory=list)
    labels_left: list[str] = field(default_factory=list)
    """Those that mean something else there, or something that was not carried."""

    @property
    def is_whole(self) -> bool:
        return not self.other and not self.labels_left


def reached(store: Store, *, runs: Iterable[str] = (), refs: Iterable[tuple[str, str]] = ()) -> Cargo:
    """What these runs (ids) and refs (name and version) reach, and the names that mean any of it."""
    runs, refs = list(runs), set(refs)
    known = {(artifact.step, artifact.fingerprint): artifact for artifact in store.artifacts()}
    roots = [name for run in runs for name in run_artifacts(store.run(run))]
    roots += [(ref.step, ref.fingerprint) for ref in store.refs() if (ref.name, ref.version) in refs]
    if lost := [name for name in roots if name not in known]:
        step, fingerprint = lost[0]
        raise MissingError(
            f"{step} {fingerprint[:12]} is not in {store.url} any more, so the whole cannot be carried",
            hint="run it again, or carry what is left by its names",
        )
    artifacts = _with_sources(known, roots)
    names = {(artifact.step, artifact.fingerprint) for artifact in artifacts}
    meaning = [ref for ref in store.refs() if (ref.step, ref.fingerprint) in names]
    targets = {f"{ref.name}@{ref.version}" for ref in meaning} | {*runs}
    labels = [ref_key(ref.name, ref.version) for ref in meaning]
    labels += [pin_key(pin.target) for pin in store.pins() if pin.target in targets]
    return Cargo(artifacts=tuple(artifacts), labels=(*labels, *map(run_key, runs)))


def everything(store: Store) -> Cargo:
    """All artifacts, names, pins and runs; what is unfinished stays."""
    known = {(artifact.step, artifact.fingerprint): artifact for artifact in store.artifacts()}
    labels = [key for prefix in ("refs", "pins", "runs") for key in store.files.keys(prefix)]
    return Cargo(artifacts=tuple(_with_sources(known, known)), labels=tuple(labels))


def _with_sources(known: Mapping[Name, Artifact], roots: Iterable[Name]) -> list[Artifact]:
    """These and what they were made from, sources first. Of equal sources one is enough: one that is carried anyway."""
    by_digest: dict[str, list[Name]] = {}
    for name, artifact in known.items():
        for digest in {artifact.digest, artifact.result_digest}:
            by_digest.setdefault(digest, []).append(name)
    wanted = dict.fromkeys(roots)
    waiting = list(wanted)
    while waiting:
        for digest in known[waiting.pop()].inputs.values():
            found = by_digest.get(digest, [])
            if found and not any(name in wanted for name in found):
                wanted[found[0]] = None
                waiting.append(found[0])
    order: dict[Name, None] = {}

    def place(name: Name) -> None:
        if name in order:
            return
        for digest in known[name].inputs.values():
            for source in by_digest.get(digest, []):
                if source in wanted and source != name:
                    place(source)
        order[name] = None

    for name in wanted:
        place(name)
    return [known[name] for name in order]


def carry(
    source: Store, target: Store, cargo: Cargo, *, on_artifact: Callable[[Artifact, str], None] = lambda *_: None
) -> Carried:
    """Bring the cargo to `target`; `on_artifact` hears of each: "went", "was there" or "has other content there".

    CorruptError where a file of the source has not the bytes that it should have; what went before stays there.
    """
    if source.url == target.url:
        raise ConfigError(f"{source.url} is where it is already", hint="--to names another folder or bucket")
    done = Carried()
    if target.files.folder is not None:
        sweep_scratch(target.files.folder / "tmp")
    for artifact in cargo.artifacts:
        there = target.find(artifact.step, artifact.fingerprint)
        if there is not None and there.digest != artifact.digest:
            done.other.append(artifact)
            on_artifact(artifact, "has other content there")
        elif there is not None:
            done.there.append(artifact)
            on_artifact(artifact, "was there")
        else:
            _carry_artifact(source, target, artifact, done)
            done.went.append(artifact)
            on_artifact(artifact, "went")
    _carry_labels(source, target, cargo, done)
    return done


def _carry_artifact(source: Store, target: Store, artifact: Artifact, done: Carried) -> None:
    key = manifest_key(artifact.step, artifact.fingerprint)
    content = source.files.read(key)
    if content is None:
        raise MissingError(f"{key} is gone from {source.url}", hint="run the same command again")
    entries = list({entry.sha256: entry for entry in artifact.files.values()}.values())

    def bring() -> None:
        missing = [entry for entry in entries if not Blobs(target.files).has(entry)]
        in_parallel(lambda entry: _carry_blob(source, target, entry, artifact), missing, workers=TRANSFERS)
        done.num_files += len(missing)
        done.num_bytes += sum(entry.num_bytes for entry in missing)

    bring()
    target.files.write(key, content)
    spare(target.files, [key, *(blob_key(entry.sha256) for entry in entries)])
    bring()  # what a gc there took, that came between


def _carry_blob(source: Store, target: Store, entry: FileEntry, artifact: Artifact) -> None:
    """One file, which has the promised bytes where it arrives."""
    key, there, folder = blob_key(entry.sha256), target.files, source.files.folder
    with scratch_file(source.scratch) as temporary:
        if folder is None and not source.files.get(key, temporary):
            raise _damaged(entry, artifact, source, "is missing")
        local = temporary if folder is None else folder / key
        if not local.is_file():
            raise _damaged(entry, artifact, source, "is missing")
        if (found := Blobs(there).add(local)) != entry:  # hashed as it is written
            Blobs(there).remove(found)
            raise _damaged(entry, artifact, source, f"has sha256 {found.sha256}")
    if there.folder is None:
        _read_back(target, entry)


def _read_back(target: Store, entry: FileEntry) -> None:
    """CorruptError where a bucket has not kept what it was given."""
    with scratch_file(target.scratch) as temporary:
        if not target.files.get(blob_key(entry.sha256), temporary) or seen(temporary) != entry:
            Blobs(target.files).remove(entry)
            raise CorruptError(f"{target.url} gives other bytes than it was sent: {entry.sha256}", hint="try again")


def _damaged(entry: FileEntry, artifact: Artifact, source: Store, what: str) -> CorruptError:
    name = next(name for name, each in artifact.files.items() if each == entry)
    return CorruptError(
        f"{name} of {artifact.step} {artifact.fingerprint[:12]} {what} in {source.url}",
        hint=f"run the pipeline there again: {artifact.step} is made anew",
    )


def _carry_labels(source: Store, target: Store, cargo: Cargo, done: Carried) -> None:
    """Names, pins and runs; none that would mean what is not there, and none over another one."""
    left = {(artifact.step, artifact.fingerprint) for artifact in done.other}
    meaning = {ref_key(ref.name, ref.version): (ref.step, ref.fingerprint) for ref in source.refs()}
    for key in cargo.labels:
        content, there = source.files.read(key), target.files.read(key)
        if content is None:
            continue
        if there == content:
            done.labels_there.append(key)
        elif there is not None or meaning.get(key) in left:
            done.labels_left.append(key)
        else:
            target.files.write(key, content)
            done.labels.append(key)
    spare(target.files, [manifest_key(each.step, each.fingerprint) for each in cargo.artifacts])
