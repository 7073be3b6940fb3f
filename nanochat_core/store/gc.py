"""Delete what nothing reaches any more, beside running pipelines and in spite of crashes.

`collect` makes a plan (reach.py), announces it (intent.py), makes it again, and deletes what is on both, looking before
each deletion whether anybody has objected. Names go before manifests, a manifest before those it was made from, blobs
last: a crash leaves at worst what the next gc finds. A dry run makes the same plan and stops there.

`clean` does that and sweeps this machine's home folder as well (leftovers.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nanochat_core.store.intent import Intent, Vetoed, collector_book
from nanochat_core.store.lease import TTL_S, Claim, acquire
from nanochat_core.store.leftovers import find_leftovers, remove_leftover
from nanochat_core.store.parallel import in_parallel
from nanochat_core.store.partial import Partial
from nanochat_core.store.reach import Item, Plan, Policy, make_plan
from nanochat_core.store.s3 import S3Files
from nanochat_core.store.store import Store

MAX_ROUNDS = 20  # new plans after objections; the rest is left to the next gc
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a collection did, or would do."""

    is_dry_run: bool
    items: tuple[Item, ...]
    num_artifacts_kept: int
    num_blobs_kept: int

    @property
    def num_bytes(self) -> int:
        return sum(item.num_bytes for item in self.items)

    def to_json(self) -> dict[str, Any]:
        """For `--json`: everything but the objects that an item consists of."""
        fields = ("kind", "key", "num_bytes", "why")
        items = [{name: getattr(item, name) for name in fields} for item in self.items]
        numbers = {"num_bytes": self.num_bytes, "num_artifacts_kept": self.num_artifacts_kept}
        return {"is_dry_run": self.is_dry_run, **numbers, "num_blobs_kept": self.num_blobs_kept, "items": items}


def clean(
    store: Store,
    home: Path,
    policy: Policy,
    *,
    dry_run: bool = False,
    on_deleted: Callable[[Item], None] = lambda item: None,
) -> Report:
    """Collect the store's garbage, then what dead processes left in the home folder of this machine."""
    report = collect(store, policy, dry_run=dry_run, on_deleted=on_deleted)
    items = list(report.items)
    for leftover in find_leftovers(home, older_than_s=policy.kept_s):
        if dry_run or remove_leftover(leftover, older_than_s=policy.kept_s):
            item = Item(
                kind=leftover.kind, key=str(leftover.path), num_bytes=leftover.num_bytes, why="nobody uses it any more"
            )
            items.append(item)
            if not dry_run:
                on_deleted(item)
    return replace(report, items=tuple(items))


def collect(
    store: Store,
    policy: Policy,
    *,
    dry_run: bool = False,
    on_deleted: Callable[[Item], None] = lambda item: None,
    ttl_s: float = TTL_S,
) -> Report:
    """Delete what nothing reaches; with `dry_run` only say what that is. One gc at a time works on a store."""
    if dry_run:
        plan = make_plan(store, policy)
        return _report(plan, plan.items, is_dry_run=True)
    done: dict[tuple[str, str], Item] = {}
    order: dict[tuple[str, str], int] = {}  # deletions go side by side; the report is in the plan's order

    def delete(item: Item) -> None:
        lease.raise_if_lost()
        intent.check()
        _delete(store, item)
        done[item.kind, item.key] = item

    # Long enough to see that a gc on another machine is dead; one that works is left alone.
    with acquire(collector_book(store.files), Claim(owner="gc", ttl_s=ttl_s), wait_s=1.5 * ttl_s) as lease:
        intent = Intent(store.files)
        plan = make_plan(store, policy)
        for _ in range(MAX_ROUNDS):
            intent.announce(key for item in plan.items for key in (item.key, *item.keys))
            announced = {(item.kind, item.key) for item in plan.items}
            plan = make_plan(store, policy)
            items = [item for item in plan.items if (item.kind, item.key) in announced]
            for item in items:
                order.setdefault((item.kind, item.key), len(order))
            try:
                for batch in _batches(items):
                    in_parallel(delete, batch)
                    for item in batch:
                        on_deleted(item)
                break
            except Vetoed:
                lease.check()
                plan = make_plan(store, policy)
        intent.withdraw()
    return _report(plan, (done[name] for name in sorted(done, key=order.__getitem__)), is_dry_run=False)


def _report(plan: Plan, items: Iterable[Item], *, is_dry_run: bool) -> Report:
    return Report(
        is_dry_run=is_dry_run, items=tuple(items),
        num_artifacts_kept=plan.num_artifacts_kept, num_blobs_kept=plan.num_blobs_kept,
    )  # fmt: skip


def _batches(items: Iterable[Item]) -> list[list[Item]]:
    """Blobs and leases may go side by side, in pieces; the order of the others matters."""
    batches: list[list[Item]] = []
    for item in items:
        if batches and item.kind in ("blob", "lease") and batches[-1][0].kind == item.kind and len(batches[-1]) < BATCH:
            batches[-1].append(item)
        else:
            batches.append([item])
    return batches


def _delete(store: Store, item: Item) -> None:
    files = store.files
    if item.kind == "partial":
        _, step, fingerprint = item.key.split("/")
        Partial(files, step=step, fingerprint=fingerprint).clear()
    elif item.kind in ("upload", "version"):
        assert isinstance(files, S3Files)
        assert item.hidden is not None
        (files.abort_upload if item.kind == "upload" else files.remove_version)(item.hidden)
    else:
        for key in item.keys or (item.key,):
            files.remove(key)
