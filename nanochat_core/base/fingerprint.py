"""The cache key of a step: what decides its result, and nothing else.

A step runs again when its identity config, the content of its inputs, the code it reaches, or the version of a deciding
package changed. Code means every statement of the core that the step's body can reach by name (closure.py), in a
spelling that comments, docstrings and formatting are not part of (syntax.py). Hashing only the task function's own text
(what orchestrators do by default) serves stale results after an edit in a helper; hashing the whole repository trains
again after an edit in the README. Every part of a key is the same on each Python and for each build of a package.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from nanochat_core.base import syntax
from nanochat_core.base.closure import PACKAGE as PACKAGE
from nanochat_core.base.closure import PACKAGE_ROOT as PACKAGE_ROOT
from nanochat_core.base.closure import code_closure, function_entry
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.source_memo import SourceMemo


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII, no NaN; the same in every process."""
    return json.dumps(_plain(value, "value"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any, where: str) -> Any:
    """`value` in JSON's own types; `where` is the path to it, for the error."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _finite(float(value), where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_text_key(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ConfigError(
        f"{where} is a {type(value).__name__}, which has no fixed JSON form", hint="pass numbers, text, lists or dicts"
    )


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise ConfigError(f"{where} is {value}, which JSON cannot hold", hint="leave the value out, or use None")
    return value


def _text_key(key: Any, where: str) -> str:
    # json.dumps would turn 1 and "1" into the same key without a word.
    if not isinstance(key, str):
        raise ConfigError(f"{where} has the key {key!r}, which is not text", hint="use str keys")
    return str(key)


def fingerprint(
    *, step: str, config: Any, inputs: Mapping[str, str], code: Mapping[str, str], packages: Mapping[str, str]
) -> str:
    """The cache key of one step, as 64 hex digits."""
    return identity_digest({"step": step, "config": config, "inputs": inputs, "code": code, "packages": packages})


def identity_digest(identity: Any) -> str:
    """sha256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions, read without importing; "+cpu" and the like are cut off: they name a build, not a release."""
    return {name: _public_version(name) for name in sorted(names)}


def _public_version(name: str) -> str:
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "absent"


def step_code(
    functions: Iterable[Callable[..., Any]], entries: Iterable[str] = (), *, memo: SourceMemo | None = None
) -> dict[str, str]:
    """Digests of all that a step's functions reach, and of what it declares besides."""
    chosen = list(functions)
    ours = [function_entry(each) for each in chosen if each.__module__.split(".")[0] == PACKAGE]
    others = [each for each in chosen if each.__module__.split(".")[0] != PACKAGE]
    # A step of another program is not followed: all of its file counts.
    files = {f"{each.__module__}:{each.__qualname__}": Path(each.__code__.co_filename) for each in others}
    foreign = {name: syntax.digest(syntax.parse(path.read_bytes(), path)) for name, path in files.items()}
    return code_closure([*ours, *entries], memo=memo) | foreign


def function_code(function: Callable[..., Any]) -> dict[str, str]:
    """Digests of all that one function reaches."""
    return step_code([function])
