"""What a store's roots reach, and what may therefore be deleted: a plan, made without writing anything.

Roots are refs (of those that expire the newest of each name), pins, kept runs, live leases with what they read, and
every artifact or unfinished step younger than the retention: a run that was killed on Friday goes on on Monday. From
the roots the inputs of each manifest lead to what it was made from, and the manifests that stay to their blobs.

Ages are told by the storage's own stamps. Whether a silent lease is dead is told by watching it for its ttl, so that
no clock that jumped can kill it. What cannot be read might protect anything: then there is no plan, but an error.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nanochat_core.base.errors import CorruptError
from nanochat_core.store.filesystem import SCRATCH_KEPT_S, Stamp
from nanochat_core.store.lease import TTL_S, Held, LeaseBook
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.names import Ref, ref_key
from nanochat_core.store.parallel import in_parallel
from nanochat_core.store.partial import partial_root
from nanochat_core.store.s3 import Hidden, S3Files
from nanochat_core.store.store import Store, manifest_key, run_artifacts

DAY_S = 86_400.0
GRACE_S = DAY_S  # for what may belong to something under way: blobs before their manifest, uploads, released leases
Name = tuple[str, str]
"""(step, fingerprint)"""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is kept beyond refs, pins and live leases."""

    keep_runs: int
    """So many of the newest runs,"""
    keep_days: float
    """and all that are younger, finished or not."""
    grace_s: float = GRACE_S

    @property
    def kept_s(self) -> float:
        return max(self.keep_days * DAY_S, self.grace_s)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One thing to delete."""

    kind: str
    """ref, manifest, partial, lease, blob, upload, version or scratch."""
    key: str
    num_bytes: int
    why: str
    hidden: Hidden | None = None
    keys: tuple[str, ...] = ()
    """The objects that it consists of, where there are several."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What would be deleted, in this order, and what stays."""

    items: tuple[Item, ...]
    num_artifacts_kept: int
    num_blobs_kept: int


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A store as it was read just now, in an order in which nothing that is written meanwhile looks unreachable."""

    now: float
    blobs: Mapping[str, Stamp]
    partials: Mapping[Name, Mapping[str, Stamp]]
    manifests: Mapping[Name, Stamp]
    artifacts: Mapping[Name, Artifact]
    """Those of the manifests that can be read."""
    leases: Mapping[Name, Mapping[str, Stamp]]
    held: Mapping[Name, Held]
    live: frozenset[Name]
    """(step, fingerprint) of the leases that somebody holds."""
    rooted: frozenset[Name]
    """What refs, pins and kept runs name."""
    refs: tuple[Ref, ...]

    def is_older(self, stamp: Stamp, seconds: float) -> bool:
        return seconds <= 0 or self.now - stamp.modified > seconds


def make_plan(store: Store, policy: Policy) -> Plan:
    """What `policy` lets go now; reads only."""
    seen = take_snapshot(store, policy)
    by_digest = _by_digest(seen)
    kept = _reachable(seen, policy, by_digest)
    _check_readable(store, kept, seen)
    doomed = seen.manifests.keys() - kept
    kept_partials = {name for name in seen.partials if _keeps_partial(seen, name, policy)}
    staying = [artifact for name, artifact in seen.artifacts.items() if name not in doomed]
    used = {entry.sha256 for artifact in staying for entry in artifact.files.values()}
    blobs = [
        Item(kind="blob", key=key, num_bytes=stamp.num_bytes, why="no manifest names it")
        for key, stamp in seen.blobs.items()
        if key.rpartition("/")[2] not in used and seen.is_older(stamp, policy.grace_s)
    ]
    items = [
        *_ref_items(seen, doomed),
        *(_manifest_item(seen, name) for name in _consumers_first(seen, doomed, by_digest)),
        *(_partial_item(seen, name) for name in seen.partials if name not in kept_partials),
        *_lease_items(seen, kept | kept_partials, policy),
        *blobs,
        *_hidden_items(store, seen, policy),
    ]
    return Plan(items=tuple(items), num_artifacts_kept=len(kept), num_blobs_kept=len(seen.blobs) - len(blobs))


def take_snapshot(store: Store, policy: Policy) -> Snapshot:
    """Blobs before the manifests that name them, manifests before the roots that name those."""
    files = store.files
    now = files.now()
    blobs = files.stamps("blobs")
    partials = _by_name(files.stamps("partial"))
    manifests = {_manifest_name(key): stamp for key, stamp in files.stamps("steps").items() if key.count("/") == 2}
    artifacts = {(artifact.step, artifact.fingerprint): artifact for artifact in store.artifacts()}
    leases = {name: keys for name, keys in _by_name(files.stamps("leases")).items() if name[0] != "gc"}
    books = {name: LeaseBook(files, step=name[0], fingerprint=name[1]) for name in leases}
    current = zip(books, in_parallel(LeaseBook.current, books.values()), strict=True)
    held = {name: holder for name, holder in current if holder is not None}
    live = _live({name: books[name] for name in held}, held, leases, now=now, policy=policy)
    refs = tuple(store.names.refs(strict=True))
    newest = {ref.name: ref for ref in refs}  # they come sorted by age
    rooted = {(ref.step, ref.fingerprint) for ref in refs if not ref.expires or newest[ref.name] is ref}
    rooted.update(name for pin in store.pins() for name in pin.artifacts)
    rooted.update(_kept_runs(store, now, policy))
    return Snapshot(
        now=now, blobs=blobs, partials=partials, manifests=manifests, artifacts=artifacts,
        leases=leases, held=held, live=live, rooted=frozenset(rooted), refs=refs,
    )  # fmt: skip


def _kept_runs(store: Store, now: float, policy: Policy) -> Iterable[Name]:
    """What the newest, the young and the pinned runs made or used."""
    stamps = store.files.stamps("runs")
    newest = sorted(stamps, key=lambda key: stamps[key].modified, reverse=True)
    pinned = {f"runs/{pin.target}.json" for pin in store.pins() if pin.is_run}
    for rank, key in enumerate(newest):
        if rank < policy.keep_runs or now - stamps[key].modified <= policy.keep_days * DAY_S or key in pinned:
            yield from run_artifacts(store.run(key.rpartition("/")[2].removesuffix(".json")))


def _live(
    books: Mapping[Name, LeaseBook],
    held: Mapping[Name, Held],
    leases: Mapping[Name, Mapping[str, Stamp]],
    *,
    now: float,
    policy: Policy,
) -> frozenset[Name]:
    live, silent = set(), {}
    for name, holder in held.items():
        ttl_s = holder.record.ttl_s if holder.record else TTL_S
        youngest = max(stamp.modified for stamp in leases[name].values())
        if holder.is_free:
            continue
        if now - youngest <= max(policy.grace_s, 2 * ttl_s) or (holder.record and holder.record.holder.is_alive):
            live.add(name)
        else:
            silent[name] = ttl_s
    if silent:  # a clock that jumped makes a living holder look silent: watch it
        time.sleep(max(silent.values()))
        live.update(name for name in silent if books[name].current() != held[name])
    return frozenset(live)


def _by_digest(seen: Snapshot) -> dict[str, set[Name]]:
    """The artifacts that an input's digest can mean: by their results, or by all of their files."""
    found: dict[str, set[Name]] = {}
    for name, artifact in seen.artifacts.items():
        for digest in (artifact.digest, artifact.result_digest):
            found.setdefault(digest, set()).add(name)
    return found


def _reachable(seen: Snapshot, policy: Policy, by_digest: Mapping[str, set[Name]]) -> set[Name]:
    """Every artifact that a root leads to."""
    there = seen.manifests.keys() | seen.artifacts.keys()
    young = {name for name, stamp in seen.manifests.items() if not seen.is_older(stamp, policy.kept_s)}
    young |= seen.artifacts.keys() - seen.manifests.keys()  # published since they were listed
    waiting = [name for name in seen.rooted | seen.live | young if name in there]
    readers = seen.live | {name for name in seen.partials if _keeps_partial(seen, name, policy)}
    for record in (seen.held[name].record for name in readers if name in seen.held):
        digests = record.inputs.values() if record else ()
        waiting += [name for digest in digests for name in by_digest.get(digest, ())]
    reached: set[Name] = set()
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += _sources(seen, name, by_digest)
    return reached


def _sources(seen: Snapshot, name: Name, by_digest: Mapping[str, set[Name]]) -> list[Name]:
    artifact = seen.artifacts.get(name)
    digests = [*artifact.inputs.values(), *artifact.parts.values()] if artifact else []
    return [source for digest in digests for source in by_digest.get(digest, ())]


def _consumers_first(seen: Snapshot, doomed: set[Name], by_digest: Mapping[str, set[Name]]) -> list[Name]:
    """An order in which a crash leaves no artifact without what it was made from."""
    order: list[Name] = []
    visited: set[Name] = set()

    def visit(name: Name) -> None:
        stack = [(name, False)]
        while stack:
            each, is_done = stack.pop()
            if is_done:
                order.append(each)
            elif each not in visited:
                visited.add(each)
                stack.append((each, True))
                stack += [(source, False) for source in _sources(seen, each, by_digest) if source in doomed]

    for name in sorted(doomed):
        visit(name)
    return order[::-1]


def _check_readable(store: Store, names: Iterable[Name], seen: Snapshot) -> None:
    """A manifest that stays and cannot be read may need anything: then nothing is safe to delete."""
    for step, fingerprint in names:
        key = manifest_key(step, fingerprint)
        if (step, fingerprint) not in seen.artifacts and store.files.read(key) is not None:
            raise CorruptError(
                f"{key} in {store.url} cannot be read, so what it needs is unknown and nothing is deleted",
                hint="run its step again, or remove that file",
            )


def _keeps_partial(seen: Snapshot, name: Name, policy: Policy) -> bool:
    """Leftovers of a finished step go after the grace time, the work of an unfinished one after the retention."""
    limit_s = policy.grace_s if name in seen.artifacts else policy.kept_s
    return name in seen.live or not all(seen.is_older(stamp, limit_s) for stamp in seen.partials[name].values())


def _manifest_item(seen: Snapshot, name: Name) -> Item:
    key = manifest_key(*name)
    return Item(kind="manifest", key=key, num_bytes=seen.manifests[name].num_bytes, why="nothing reaches it")


def _partial_item(seen: Snapshot, name: Name) -> Item:
    num_bytes = sum(stamp.num_bytes for stamp in seen.partials[name].values())
    why = "the step is finished" if name in seen.artifacts else "nobody has worked on it for long"
    return Item(kind="partial", key=partial_root(*name), num_bytes=num_bytes, why=why)


def _ref_items(seen: Snapshot, doomed: set[Name]) -> Iterable[Item]:
    for ref in seen.refs:
        if (ref.step, ref.fingerprint) in doomed:
            key = ref_key(ref.name, ref.version)
            yield Item(kind="ref", key=key, num_bytes=0, why="its run is not kept, and the name has a newer version")


def _lease_items(seen: Snapshot, staying: set[Name], policy: Policy) -> Iterable[Item]:
    """Records of leases, once nothing is left that a woken old holder could harm."""
    for name, stamps in seen.leases.items():
        if name in seen.live or name in staying:
            continue
        if all(seen.is_older(stamp, policy.grace_s) for stamp in stamps.values()):
            num_bytes = sum(stamp.num_bytes for stamp in stamps.values())
            root = f"leases/{name[0]}/{name[1]}"
            yield Item(kind="lease", key=root, num_bytes=num_bytes, why="nobody holds it", keys=tuple(stamps))


def _hidden_items(store: Store, seen: Snapshot, policy: Policy) -> Iterable[Item]:
    """What a bucket holds besides objects, and what killed processes left in a folder."""
    if isinstance(store.files, S3Files):
        found = [("upload", hidden) for hidden in store.files.uploads()]
        found += [("version", hidden) for hidden in store.files.old_versions()]
        for kind, hidden in found:
            stamp = Stamp(num_bytes=hidden.num_bytes, modified=hidden.modified)
            if seen.is_older(stamp, policy.grace_s):
                key = f"{hidden.key}?{hidden.identifier}"
                why = "it was never completed" if kind == "upload" else "it is not the latest"
                yield Item(kind=kind, key=key, num_bytes=hidden.num_bytes, why=why, hidden=hidden)
    for key, stamp in store.files.stamps("tmp").items():
        if seen.is_older(stamp, max(policy.grace_s, SCRATCH_KEPT_S)):
            yield Item(kind="scratch", key=key, num_bytes=stamp.num_bytes, why="its process was killed")


def _manifest_name(key: str) -> Name:
    _, step, file = key.split("/")
    return step, file.removesuffix(".json")


def _by_name(stamps: Mapping[str, Stamp]) -> dict[Name, dict[str, Stamp]]:
    """The objects of each (step, fingerprint)."""
    found: dict[Name, dict[str, Stamp]] = {}
    for key, stamp in stamps.items():
        parts = key.split("/")
        if len(parts) > 3:
            found.setdefault((parts[1], parts[2]), {})[key] = stamp
    return found
