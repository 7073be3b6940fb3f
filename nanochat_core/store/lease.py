"""One writer per (step, fingerprint), also across machines: a lease with a fencing number that only grows.

    leases/<step>/<fingerprint>/00000007.json              who holds number 7; created exclusively, never changed
    leases/<step>/<fingerprint>/00000007-<token>.beat.json its holder's sign of life; only that holder writes it

The highest number is the holder. To take over is to create the next one, so nothing has to be compared and swapped,
and a woken loser knows from two reads: its own record, and that the next one is absent. No clock of another machine
counts: a waiter takes over when the sign of life did not change for the holder's ttl on the waiter's own monotonic
clock, at once when it was released or its process on this machine is dead.

Exactly one creates a number in a folder, on AWS and SeaweedFS. Elsewhere (memory://, unknown servers) a create may let
several through that were under way at once; each then waits several times what its own request took and reads back:
the last write stays, and only its token is a holder. That fails when a request stalls inside the server for longer.
"""

import contextlib
import functools
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from nanochat_core.base.errors import CorruptError, NanochatError
from nanochat_core.store.failures import UnreachableError
from nanochat_core.store.filesystem import Files
from nanochat_core.store.holder import Holder
from nanochat_core.store.manifest import check_key, open_sealed_json, seal_json

log = logging.getLogger(__name__)
TTL_S = 60.0
BEATS_PER_TTL = 4
POLLS_PER_TTL = 8
MAX_POLL_S = 2.0
SETTLE_S = 0.5  # where creating is not atomic: at least this long until the read-back,
SETTLE_FACTOR = 4.0  # and this many times what the request itself took
NUM_KEPT_RECORDS = 8  # older numbers go away; the last ones show a slow waiter that it comes too late
RECORD = re.compile(r"(\d{8})\.json")


class LeaseLostError(NanochatError):
    """Somebody else holds the lease now: this process may not write any more."""


OnLost = Callable[[LeaseLostError], None]


class LeaseHeldError(NanochatError):
    """Somebody else holds the lease, and the caller did not want to wait (longer)."""


@dataclass(frozen=True, kw_only=True)
class LeaseRecord:
    """Who took a number."""

    number: int
    token: str
    owner: str
    """For people: a run, a host, a purpose."""
    holder: Holder
    ttl_s: float
    inputs: Mapping[str, str] = field(default_factory=dict)
    """Input name -> digest of what the holder reads; gc keeps it while the lease is alive."""
    acquired_at: str = ""

    @property
    def told(self) -> str:
        """Who and since when, for people who wait."""
        with contextlib.suppress(ValueError):
            return f"{self.owner} since {datetime.fromisoformat(self.acquired_at):%H:%M} UTC"
        return self.owner


@dataclass(frozen=True, kw_only=True)
class Held:
    """The highest number of a lease and its last sign of life, as read just now."""

    number: int
    record: LeaseRecord | None
    """None when it cannot be read."""
    beat: bytes | None

    @property
    def is_released(self) -> bool:
        return self.beat is not None and b'"is_released": true' in self.beat

    @property
    def is_free(self) -> bool:
        """Whether the next one may take over now, without waiting."""
        return self.is_released or (self.record is not None and self.record.holder.is_gone)


class LeaseBook:
    """The records of one lease."""

    def __init__(self, files: Files, *, step: str, fingerprint: str) -> None:
        self.files = files
        self.root = f"leases/{check_key(step, what='step')}/{check_key(fingerprint, what='fingerprint')}"

    def record_key(self, number: int) -> str:
        return f"{self.root}/{number:08d}.json"

    def beat_key(self, number: int, token: str) -> str:
        return f"{self.root}/{number:08d}-{token}.beat.json"

    def latest_number(self) -> int:
        """The highest number there is, 0 for none. A listing may lag behind, so the next ones are looked for."""
        names = (key.rpartition("/")[2] for key in self.files.keys(self.root))
        number = max((int(found[1]) for name in names if (found := RECORD.fullmatch(name))), default=0)
        while self.files.num_bytes(self.record_key(number + 1)) is not None:
            number += 1
        return number

    def record(self, number: int) -> LeaseRecord | None:
        content = self.files.read(self.record_key(number))
        if content is None:
            return None
        try:
            fields = open_sealed_json(content, where=self.record_key(number))
            return LeaseRecord(**{**fields, "holder": Holder(**fields["holder"])})
        except (CorruptError, KeyError, TypeError) as error:
            log.warning("%s cannot be read: %s", self.record_key(number), error)
            return None

    def current(self) -> Held | None:
        """Who holds it or held it last; None when nobody ever did."""
        number = self.latest_number()
        if number == 0:
            return None
        record = self.record(number)
        beat = None if record is None else self.files.read(self.beat_key(number, record.token))
        return Held(number=number, record=record, beat=beat)

    def remove_before(self, number: int) -> None:
        for key in self.files.keys(self.root):
            name = key.rpartition("/")[2]
            if name[:8].isdigit() and int(name[:8]) < number:
                self.files.remove(key)


class Watch:
    """For how long the holder was seen not to change, by this process's own clock."""

    def __init__(self) -> None:
        self._seen: tuple[int, bytes | None] | None = None
        self._since = 0.0

    def unchanged_s(self, held: Held) -> float:
        if (held.number, held.beat) != self._seen:
            self._seen, self._since = (held.number, held.beat), time.monotonic()
        return time.monotonic() - self._since

    def forget(self) -> None:
        """After a look that failed: the holder may have been as unable to write as we were to read."""
        self._seen = None


class Lease:
    """A lease that this process holds until `release`, the end of its `with` block, or its loss.

    `lost` is set, and `on_lost` called once (by the thread that finds out), when somebody else took over.
    """

    def __init__(self, book: LeaseBook, record: LeaseRecord, *, on_lost: OnLost | None) -> None:
        self.record = record
        self.number = record.number
        self.lost = threading.Event()
        self._book = book
        self._on_lost = on_lost
        self._count = 0
        self._released = threading.Event()
        self._guard = threading.Lock()
        self._write_beat()
        self._thread = threading.Thread(target=self._renew, name=f"lease {book.root}", daemon=True)
        self._thread.start()

    @property
    def root(self) -> str:
        return self._book.root

    @property
    def is_lost(self) -> bool:
        """Without a request: what is known by now, at most ttl / 4 old, and renewed at once when the process wakes."""
        return self.lost.is_set()

    @property
    def successor(self) -> str | None:
        """A path that exists as soon as the lease is lost, where the store is a folder: for other processes to test."""
        folder = self._book.files.folder
        return None if folder is None else str(folder / self._book.record_key(self.number + 1))

    def raise_if_lost(self) -> None:
        """LeaseLostError when the loss is known; no request."""
        if self._released.is_set() or self.is_lost:
            raise self._error()

    def check(self) -> None:
        """Ask the store, and raise LeaseLostError when somebody else holds the lease. Right before every write."""
        self.raise_if_lost()
        if not self._is_current():
            self._lose()
            raise self._error()

    def release(self) -> None:
        """Let the next one have it at once."""
        with self._guard:
            if self._released.is_set():
                return
            self._released.set()
        if threading.current_thread() is not self._thread:  # on_lost may release
            self._thread.join()
        if not self.is_lost:
            try:
                self._write_beat(is_released=True)
            except NanochatError as error:
                log.warning("the lease %s could not be released (%s): it runs out by itself", self.root, error)

    def __enter__(self) -> "Lease":
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def _renew(self) -> None:
        while not self._released.wait(self.record.ttl_s / BEATS_PER_TTL):
            try:
                if not self._is_current():
                    self._lose()
                    return
                self._write_beat()
            except NanochatError as error:
                log.warning("the lease %s could not be renewed, trying again: %s", self.root, error)

    def _is_current(self) -> bool:
        if self._book.files.num_bytes(self._book.record_key(self.number + 1)) is not None:
            return False
        own = self._book.record(self.number)
        return own is not None and own.token == self.record.token

    def _lose(self) -> None:
        with self._guard:
            if self.lost.is_set():
                return
            self.lost.set()
        log.warning("%s", self._error())
        if self._on_lost is not None:
            self._on_lost(self._error())

    def _error(self) -> LeaseLostError:
        state = "was lost to another process" if self.is_lost else "was released"
        return LeaseLostError(
            f"the lease {self.root} number {self.number} {state}: nothing more is written under it",
            hint="the other process goes on with this step; run the same command again to use what it makes",
        )

    def _write_beat(self, *, is_released: bool = False) -> None:
        self._count += 1
        content = seal_json({"count": self._count, "is_released": is_released})
        self._book.files.write(self._book.beat_key(self.number, self.record.token), content)


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What somebody who wants a lease brings along."""

    owner: str
    ttl_s: float = TTL_S
    inputs: Mapping[str, str] = field(default_factory=dict)
    on_lost: OnLost | None = None


def acquire(
    book: LeaseBook,
    claim: Claim,
    *,
    wait_s: float | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Lease:
    """Take the lease; waits for ever (None), or at most `wait_s` seconds and then raises LeaseHeldError.

    `on_wait` is called with the owner, and since when, each time that somebody has to be waited for; it may raise to
    stop waiting.
    """
    began, watch = time.monotonic(), Watch()
    while True:
        held = _look(book, watch)
        owner = held.record.told if held and held.record else "an unknown process"
        if held is None or held.is_free or watch.unchanged_s(held) >= _ttl(held, claim):
            number = held.number if held else 0
            if lease := _take(book, claim, number + 1):
                return lease
        elif on_wait is not None:
            on_wait(owner)
        left = None if wait_s is None else began + wait_s - time.monotonic()
        if left is not None and left <= 0:
            raise LeaseHeldError(
                f"{book.root} is held by {owner}", hint="wait for it; a dead holder is replaced after its ttl"
            )
        pause = min(_ttl(held, claim) / POLLS_PER_TTL, MAX_POLL_S) * (0.5 + secrets.randbelow(1000) / 1000)
        time.sleep(pause if left is None else min(pause, left))


def _look(book: LeaseBook, watch: Watch) -> Held | None:
    """The current holder; waits while the storage does not answer."""
    while True:
        try:
            return book.current()
        except UnreachableError as error:
            watch.forget()
            log.warning("waiting for %s: %s", book.root, error)
            time.sleep(MAX_POLL_S)


def _ttl(held: Held | None, claim: Claim) -> float:
    return held.record.ttl_s if held and held.record else claim.ttl_s


def _take(book: LeaseBook, claim: Claim, number: int) -> Lease | None:
    """Try to become holder `number`; None when another one is faster."""
    record = LeaseRecord(
        number=number, token=secrets.token_hex(8), owner=claim.owner, holder=Holder.current(), ttl_s=claim.ttl_s,
        inputs=dict(claim.inputs), acquired_at=datetime.now(UTC).isoformat(),
    )  # fmt: skip
    is_ours = functools.partial(_is_ours, book, record)
    began = time.monotonic()
    book.files.create(book.record_key(number), seal_json(_fields(record)))
    took_s = time.monotonic() - began
    if not is_ours():  # whatever `create` said: a reply that was lost makes it refuse our own record
        return None
    if not book.files.has_atomic_create:
        time.sleep(max(SETTLE_S, SETTLE_FACTOR * took_s))
        if not is_ours():
            return None
    # We may have slept since we looked: others have come and gone, or gc has removed what we follow.
    follows = number == 1 or book.files.num_bytes(book.record_key(number - 1)) is not None
    if book.latest_number() != number or not follows:
        book.files.remove(book.record_key(number))
        return None
    book.remove_before(number - NUM_KEPT_RECORDS)
    return Lease(book, record, on_lost=claim.on_lost)


def _is_ours(book: LeaseBook, record: LeaseRecord) -> bool:
    found = book.record(record.number)
    return found is not None and found.token == record.token


def _fields(record: LeaseRecord) -> dict[str, Any]:
    return asdict(record)
