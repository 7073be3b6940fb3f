"""What was found in source files, kept in a file by the sha256 of all that it depends on.

Parsing and printing the hundred modules that a step reaches takes a second, each time that a command starts. An entry
cannot be stale: its key names the content, and who read it. A file that is damaged, unreadable or cannot be written
costs that second again, and nothing else.
"""

import contextlib
import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

NUM_KEPT = 4096  # entries; some ten times the modules there are

Facts = dict[str, Any]


class SourceMemo:
    """One file of entries; several processes may use it at once, and the last one to save wins."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._entries = _read(path)
        self._has_news = False

    def get(self, key: str) -> Facts | None:
        """What was put under `key`, in this process or an earlier one."""
        return self._entries.get(key)

    def put(self, key: str, facts: Facts) -> None:
        """Keep JSON values under `key`."""
        with self._guard:
            self._entries[key] = facts
            self._has_news = True

    def save(self) -> None:
        """Write what is new; a folder that cannot be written is left as it is."""
        with self._guard, contextlib.suppress(OSError):
            if not self._has_news:
                return
            self._has_news = False
            newest = dict(list(self._entries.items())[-NUM_KEPT:])
            text = json.dumps(newest)
            self._path.parent.mkdir(parents=True, exist_ok=True)
            part = self._path.with_suffix(f".{os.getpid()}.tmp")
            part.write_text(f"{_digest(text)}\n{text}")
            part.replace(self._path)


def _read(path: Path) -> dict[str, Facts]:
    """The entries of a file that is as it was written; else none."""
    try:
        digest, _, text = path.read_text(encoding="utf-8").partition("\n")
        entries = json.loads(text) if digest == _digest(text) else {}
    except (OSError, ValueError):
        return {}
    return dict(entries)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
