"""Presets are TOML files beside this module; `--set a.b=c` changes one value.

Everything is checked here, at the edge: unknown names (with the nearest known one), types and choices. After that the
frozen dataclasses of config.py are trusted.
"""

import dataclasses
import difflib
import json
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from nanochat_core.base.errors import ConfigError
from nanochat_core.base.text import read_text
from nanochat_core.bounds import check_sources
from nanochat_core.config import RunConfig

FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_config(preset: str, overrides: Iterable[str] = ()) -> RunConfig:
    """The preset (a name, or the path of a TOML file) with `section.field=value` overrides applied in order."""
    values = _read_preset(preset)
    for override in overrides:
        _apply_override(values, override)
    _make_absolute(values)
    config: RunConfig = _build(RunConfig, {"preset": Path(preset).stem, **values}, where="")
    check_sources(config)
    return config


def config_from_record(values: Mapping[str, Any]) -> RunConfig:
    """A run's configuration from the values in its ledger; fields that came later have their defaults."""
    hints = typing.get_type_hints(RunConfig)
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"unknown setting {name}", hint="read it with the version that wrote it")
        kind = hints[name]
        built[name] = _section_from_record(kind, name, value) if dataclasses.is_dataclass(kind) else value
    return RunConfig(**built)


def _section_from_record(kind: Any, name: str, values: Any) -> Any:
    known = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} is no section")
    if unknown := sorted(values.keys() - known):
        raise ConfigError(f"unknown setting {name}.{unknown[0]}", hint="read it with the version that wrote it")
    return kind(**values)


PATHS = ("corpus.path", "corpus.digests_file", "sft.path", "sft.identity_path", "core.path", "benchmarks.path")


def _make_absolute(values: dict[str, Any]) -> None:
    """Paths as they are seen from anywhere: a recorded run is made again in another folder."""
    for name in PATHS:
        section, _, field = name.partition(".")
        given = values.get(section)
        if isinstance(given, dict) and isinstance(given.get(field), str) and given[field]:
            given[field] = os.path.abspath(os.path.expanduser(given[field]))


def _read_preset(preset: str) -> dict[str, Any]:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", Path(preset).stem):
        raise ConfigError(
            f"the preset {preset!r} has a name that models cannot carry", hint="use letters, digits, - and _"
        )
    path = Path(preset) if preset.endswith(".toml") else FOLDER / f"{preset}.toml"
    if not path.is_file():
        near = difflib.get_close_matches(preset, preset_names(), n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ConfigError(f"there is no preset {preset!r}", hint=f"{hint}presets: {', '.join(preset_names())}")
    try:
        return tomllib.loads(read_text(path, error=ConfigError))
    except (tomllib.TOMLDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _apply_override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {override!r} is not of the form section.field=value", hint="--set sft.epochs=2")
    *sections, field_name = name.strip().split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    target[field_name] = _parse_value(text.strip())


def _parse_value(text: str) -> Any:
    """A TOML value where it parses as one, `none`, otherwise the text itself (so that paths need no quotes)."""
    if text.lower() in ("none", "null", "off"):
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _build(kind: type, values: Mapping[str, Any], *, where: str) -> Any:
    """Build a config dataclass from plain values, checking every name and type."""
    hints = typing.get_type_hints(kind)
    for name in values:
        if name not in hints:
            near = difflib.get_close_matches(name, list(hints), n=1)
            hint = f"did you mean {where}{near[0]}?" if near else f"known here: {', '.join(hints)}"
            raise ConfigError(f"unknown setting {where}{name}", hint=hint)
    return kind(**{name: _convert(value, hints[name], where=f"{where}{name}") for name, value in values.items()})


def _convert(value: Any, hint: Any, *, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} = {value!r} is a section, not a value", hint=f"set {where}.<field>=...")
        return _build(typing.cast(type, hint), value, where=f"{where}.")
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is type(None):
            if value is None:
                return None
        elif typing.get_origin(option) is Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif option is int and isinstance(value, float) and value.is_integer():
            return int(value)
        elif isinstance(value, option) and not (option is int and isinstance(value, bool)):
            return value
    raise ConfigError(f"{where} = {value!r} does not fit", hint=f"expected {_describe(options)}")


def _describe(options: tuple[Any, ...]) -> str:
    parts = []
    for option in options:
        if typing.get_origin(option) is Literal:
            parts.append("one of " + ", ".join(json.dumps(choice) for choice in typing.get_args(option)))
        else:
            parts.append(
                "none"
                if option is type(None)
                else {"int": "a whole number", "float": "a number", "str": "text"}.get(option.__name__, option.__name__)
            )
    return " or ".join(parts)
