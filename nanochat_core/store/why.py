"""Why a step runs again: what differs between its identity now and that of an earlier artifact.

Answers "which of config, inputs, code or packages" by name. A step with several earlier artifacts is compared with the
nearest one, the one with the fewest differences: that is the one people mean by "but it ran yesterday". What was made
from another kind of source is no earlier version of it, and a list of differences to it would explain nothing.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from nanochat_core.base.fingerprint import canonical_json

ABSENT = "absent"
DIGEST_CHARS = 12
VERSIONS = ("documented", "python")  # settings of a corpus that are versions of what is installed
VALUE_CHARS = 200


class Identified(Protocol):
    """What an earlier artifact has to tell; `Artifact` does."""

    @property
    def step(self) -> str: ...
    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def inputs(self) -> Mapping[str, str]: ...
    @property
    def code(self) -> Mapping[str, str]: ...
    @property
    def packages(self) -> Mapping[str, str]: ...


Earlier = TypeVar("Earlier", bound=Identified)


def explain(current: Mapping[str, Any], earlier: Identified) -> list[str]:
    """One line per difference, old -> new; empty when the identities are equal.

    `current` has the keys of `fingerprint`: step, config, inputs, code, packages.
    """
    lines = [] if current["step"] == earlier.step else [f"step: {earlier.step} -> {current['step']}"]
    config = _differences(_flat(earlier.config), _flat(current["config"]))
    lines += [f"config {key}: {_change(old, new)}" for key, old, new in config]
    inputs = _differences(earlier.inputs, current["inputs"])
    lines += [f"input {key}: {old[:DIGEST_CHARS]} -> {new[:DIGEST_CHARS]}" for key, old, new in inputs]
    code = _differences(earlier.code, current["code"])
    lines += [f"code {key} {_verb(old, new)}" for key, old, new in code]
    packages = _differences(earlier.packages, current["packages"])
    return lines + [f"package {key}: {old} -> {new}" for key, old, new in packages]


def drift(current: Mapping[str, Any], earlier: Identified, *, neutral: Mapping[str, Sequence[Any]]) -> list[str] | None:
    """What differs, where that is code, packages and settings without effect alone; None: something else differs.

    `neutral`: settings, by the last part of their names -> values that are as good as absent.
    """
    if current["step"] != earlier.step or current["inputs"] != dict(earlier.inputs):
        return None
    for name, *values in _differences(_flat(earlier.config), _flat(current["config"])):
        if name.partition(".")[0] in VERSIONS:
            continue
        allowed = [canonical_json(value) for value in neutral.get(name.rpartition(".")[2], ())]
        if ABSENT not in values or not {*values} <= {ABSENT, *allowed}:
            return None
    return explain(current, earlier)


def nearest(current: Mapping[str, Any], artifacts: Sequence[Earlier]) -> Earlier | None:
    """The related artifact with the fewest differences; of equals the first, so pass them newest first."""
    related = [artifact for artifact in artifacts if _is_related(current["config"], artifact.config)]
    return min(related, key=lambda artifact: len(explain(current, artifact)), default=None)


def _is_related(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> bool:
    """Whether two configurations are of one kind: the same source, and any setting in common."""
    return ours.get("source") == theirs.get("source") and (
        ours.keys() == theirs.keys() or bool(ours.keys() & theirs.keys())
    )


def _change(old: str, new: str) -> str:
    """old -> new; of long ones (the list of a thousand files) the part where they begin to differ."""
    if max(len(old), len(new)) <= VALUE_CHARS:
        return f"{old} -> {new}"
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, same - VALUE_CHARS // 4)
    return " -> ".join(f"{'...' if start else ''}{value[start : start + VALUE_CHARS]}..." for value in (old, new))


def _differences(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key, ABSENT), new.get(key, ABSENT)
        if before != after:
            yield key, before, after


def _verb(old: str, new: str) -> str:
    if old == ABSENT:
        return "is new"
    return "is gone" if new == ABSENT else "changed"


def _flat(config: Any, prefix: str = "") -> dict[str, str]:
    """Nested settings as dotted keys with JSON values, which also tells 1 from 1.0 and "1"."""
    if isinstance(config, Mapping) and config:
        return {k: v for key, value in config.items() for k, v in _flat(value, f"{prefix}{key}.").items()}
    return {prefix.rstrip(".") or "(all)": canonical_json(config)}
