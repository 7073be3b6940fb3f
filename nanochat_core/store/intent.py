"""What the garbage collector is about to delete, said before it does it, and how that is stopped.

A publisher that finds a blob already there does not upload it, and a ref may be set to an artifact at the very moment
it is collected. So each side first writes its own mark and then looks for the other's: gc writes the list of what it
will delete, then looks once more for what is reachable; publishers, refs and pins write themselves first, then look
at that list. One of the two always sees the other. Who finds what it needs on the list takes the list away and waits
until gc has noticed: gc looks for its list before every deletion, and makes a new plan when it is gone.
"""

import secrets
import time
from collections.abc import Iterable

from nanochat_core.base.errors import CorruptError
from nanochat_core.store.filesystem import Files
from nanochat_core.store.lease import TTL_S, LeaseBook, Watch
from nanochat_core.store.manifest import open_sealed_json, seal_json

KEY = "gc/intent.json"
POLL_S = 0.05


class Vetoed(Exception):
    """Somebody needs a thing on the list; an inner signal of gc, never shown."""


class Intent:
    """gc's side: one list of keys that it may delete as long as the list is there."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._token = ""

    def announce(self, keys: Iterable[str]) -> None:
        self._token = secrets.token_hex(8)
        self._files.write(KEY, seal_json({"token": self._token, "keys": sorted(keys)}))

    def check(self) -> None:
        """Right before a deletion: raise Vetoed when the list was taken away or replaced."""
        if _read(self._files)[0] != self._token:
            raise Vetoed

    def withdraw(self) -> None:
        if self._token and _read(self._files)[0] == self._token:
            self._files.remove(KEY)


def collector_book(files: Files) -> LeaseBook:
    """The lease that only one gc at a time holds."""
    return LeaseBook(files, step="gc", fingerprint="collect")


def spare(files: Files, keys: Iterable[str] | None) -> None:
    """Keep gc from deleting these keys (None: whatever it is); call it after writing what makes them reachable.

    Then see whether they are still there. With no gc at work it costs one read.
    """
    token, doomed = _read(files)
    if token is None or (doomed is not None and keys is not None and doomed.isdisjoint(keys)):
        return
    files.remove(KEY)
    book, watch = collector_book(files), Watch()
    while _read(files)[0] in (None, token):  # another list: gc has planned anew, with us in sight
        held = book.current()
        if held is None or held.is_free:
            return
        if watch.unchanged_s(held) >= (held.record.ttl_s if held.record else TTL_S):
            return  # it died on another machine
        time.sleep(POLL_S)


def _read(files: Files) -> tuple[str | None, set[str] | None]:
    """Token and keys; no token when there is no list, no keys when it cannot be read."""
    content = files.read(KEY)
    if content is None:
        return None, None
    try:
        fields = open_sealed_json(content, where=KEY)
        return str(fields["token"]), set(fields["keys"])
    except (CorruptError, KeyError, TypeError):
        return "unreadable", None
