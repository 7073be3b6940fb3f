"""Which side wins where a Prefect server and the files of this checkout differ.

What `nanochat deploy` wrote last is remembered on the server, a digest per field, in a variable. A field that is still
what was written is the file's to change; any other was changed by somebody, in the UI or with Prefect's own commands,
and stays until `--overwrite`. Where nothing is remembered (an earlier version wrote it) nobody can tell the two apart,
so what is there stays as well, and is said. The same three-way rule as that of package managers for edited settings.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate

VARIABLE = "nanochat_deployed"
DIGEST_DIGITS = 8  # of sixteen kinds; the server takes 5,000 characters, and a clash would only overwrite one edit


@dataclass(frozen=True)
class Decision:
    """What is to be done to one thing that is there."""

    changed: tuple[str, ...] = ()
    """Fields to bring to what the files say."""
    kept: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    """Fields that somebody changed: what the server has, what the files say."""


class Written:
    """What was written to a server, and what may be written now."""

    def __init__(self, client: SyncPrefectClient, *, overwrite: bool = False, dry_run: bool = False) -> None:
        self.dry_run, self._overwrite, self._client = dry_run, overwrite, client
        there = client.read_variable_by_name(VARIABLE)
        self._is_there = there is not None
        value = there.value if there is not None else {}
        self._before: dict[str, dict[str, str]] = value if isinstance(value, dict) else {}
        self._now = {thing: dict(fields) for thing, fields in self._before.items()}

    def decide(self, thing: str, held: Mapping[str, Any], wanted: Mapping[str, Any]) -> Decision:
        """Compare what the server has of `thing` with what the files say, field by field of `wanted`."""
        before, now = self._before.get(thing, {}), self._now.setdefault(thing, {})
        changed, kept = [], {}
        for name, value in wanted.items():
            has, wants = _digest(held[name]), _digest(value)
            if has != wants and not self._overwrite and before.get(name) != has:
                kept[name] = (held[name], value)
                continue
            now[name] = wants
            if has != wants:
                changed.append(name)
        return Decision(tuple(changed), kept)

    def created(self, thing: str, wanted: Mapping[str, Any]) -> None:
        """Remember what is written of a new thing."""
        self._now[thing] = {name: _digest(value) for name, value in wanted.items()}

    def knows(self, thing: str) -> bool:
        """Whether it was written here before, so that one that is gone was taken away by somebody."""
        return thing in self._before and not self._overwrite

    def of(self, prefix: str) -> list[str]:
        """What is remembered of things whose names begin so."""
        return [thing.removeprefix(prefix) for thing in self._before if thing.startswith(prefix)]

    def forget(self, thing: str) -> None:
        self._now.pop(thing, None)

    def told(self, decision: Decision | None) -> str:
        """What was done to a thing, in words; None: it was not there."""
        would = "would be " if self.dry_run else ""
        if decision is None:
            return f"{would}created"
        return f"{would}updated: {', '.join(decision.changed)}" if decision.changed else "unchanged"

    def save(self) -> None:
        """Remember all of it on the server."""
        if self.dry_run or (self._is_there and self._now == self._before):
            return
        if self._is_there:
            self._client.update_variable(VariableUpdate(name=VARIABLE, value=self._now))
        else:
            self._client.create_variable(VariableCreate(name=VARIABLE, value=self._now))
            self._is_there = True


def _digest(value: Any) -> str:
    text = json.dumps(plain(value), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]


def plain(value: Any) -> Any:
    """JSON values with lists in one order: a server keeps sets, and gives them back as it likes."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return sorted((plain(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value
