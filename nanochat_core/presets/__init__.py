"""Presets are TOML files beside this module; `--set a.b=c` changes one value.

Everything is checked here, at the edge: unknown names (with the nearest known one), types and choices. After that the
frozen dataclasses of config.py are trusted. What a value means, the setting's type says: a text setting takes any text
as it stands (2024-01-01, true, 1e3, {x}), so that no date and no number is made of a branch's or a folder's name.
"""

import dataclasses
import difflib
import json
import os
import re
import tomllib
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from nanochat_core import named_tables
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.foreign import MAX_SETTINGS_BYTES
from nanochat_core.base.neutral import NEUTRAL
from nanochat_core.base.redaction import refuse
from nanochat_core.base.text import read_text
from nanochat_core.bounds import ELSEWHERE, check_no_secrets, check_sources
from nanochat_core.config import RunConfig
from nanochat_core.settings import described, did_you_mean, options, options_of

FOLDER = Path(__file__).parent


def preset_names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_config(preset: str, overrides: Iterable[str] = ()) -> RunConfig:
    """The preset (a name, or the path of a TOML file) with `section.field=value` overrides applied in order."""
    overrides = list(overrides)
    _refuse_secrets(preset, overrides)
    values = _read_preset(preset)
    for override in overrides:
        _apply_override(values, override)
    base = values.get("base")
    if isinstance(base, dict) and "from" in base:  # a word of the language, which no field can be called
        base["model"] = base.pop("from")
    named_tables.inherit(values)
    _make_absolute(values)
    config: RunConfig = _build(RunConfig, {"preset": Path(preset).stem, **values}, where="")
    check_no_secrets(config)  # before a missing file is told by its name
    check_sources(config)
    return config


def _refuse_secrets(preset: str, overrides: Iterable[str]) -> None:
    """What was typed is recorded as it was typed, also where a later `--set` takes it back (plan_run: the rest)."""
    refuse(preset, "the preset's name", hint=ELSEWHERE)
    for override in overrides:
        name, _, text = override.partition("=")
        refuse(text, name.strip(), hint=ELSEWHERE)


def config_from_record(values: Mapping[str, Any], *, is_foreign: bool = False) -> RunConfig:
    """A run's configuration from the values in its ledger; fields that came later have their defaults, or the
    value that is as good as absent.

    `is_foreign`: the ledger is somebody else's, and the kind of each value is looked at.
    """
    hints = typing.get_type_hints(RunConfig)
    built: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise ConfigError(f"unknown setting {name}", hint="read it with the version that wrote it")
        kind = hints[name]
        built[name] = _section_from_record(kind, name, value) if dataclasses.is_dataclass(kind) else value
        if is_foreign:
            _convert(value, kind, where=name)
    return RunConfig(**built)


def _section_from_record(kind: Any, name: str, values: Any) -> Any:
    known = {field.name for field in dataclasses.fields(kind)}
    if not isinstance(values, Mapping):
        raise ConfigError(f"{name} is no section")
    if unknown := sorted(values.keys() - known):
        raise ConfigError(f"unknown setting {name}.{unknown[0]}", hint="read it with the version that wrote it")
    as_if_absent = {
        field.name: field.metadata[NEUTRAL] for field in dataclasses.fields(kind) if NEUTRAL in field.metadata
    }
    hints = typing.get_type_hints(kind)
    lists = {each: named_tables.kind_of_tables(hints[each]) for each in values}
    tables = {each: _tables_from_record(one, f"{name}.{each}", values[each]) for each, one in lists.items() if one}
    return kind(**{**as_if_absent, **values, **tables})


def _tables_from_record(kind: type, name: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, list | tuple):
        raise ConfigError(f"{name} is no list of tables")
    return tuple(_section_from_record(kind, name, table) for table in values)


PATHS = (
    "base.tokenizer",
    "corpus.path",
    "corpus.digests_file",
    "sft.path",
    "sft.identity_path",
    "core.path",
    "benchmarks.path",
)
MAY_BE_PATHS = (*PATHS, "corpus.dataset", "sft.smoltalk", "base.model")  # the last: a folder here, or a name
NONE_WORDS = ("none", "null", "off")  # of numbers; of an optional text `none` alone
TRUE_WORDS, FALSE_WORDS = ("true", "yes", "on"), ("false", "no", "off")


def _make_absolute(values: dict[str, Any]) -> None:
    """Paths as they are seen from anywhere: a recorded run is made again in another folder."""
    for name in PATHS:
        section, _, field = name.partition(".")
        given = values.get(section)
        sources = given.get("sources") if isinstance(given, dict) and section == "corpus" else None
        for each in (given, *(sources if isinstance(sources, list) else ())):
            if isinstance(each, dict) and isinstance(each.get(field), str) and each[field]:
                each[field] = _absolute(each[field])


def _absolute(path: str) -> str:
    """The same file with its whole path; a file that is there wins over what `~` means."""
    here = path if os.path.lexists(path) else os.path.expanduser(path)
    plain, whole = os.path.abspath(here), os.path.join(os.getcwd(), here)
    if os.path.exists(whole) and not (os.path.exists(plain) and os.path.samefile(plain, whole)):
        return whole  # `link/..` is not the folder that the link is in
    return plain


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
        return tomllib.loads(read_text(path, error=ConfigError, most=MAX_SETTINGS_BYTES))
    except (ValueError, RecursionError, OSError) as error:  # of a number of 5,000 digits it is not TOMLDecodeError
        raise ConfigError(f"{path} is not valid TOML: {error}") from error


def _apply_override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name.strip():
        raise ConfigError(f"--set {override!r} is not of the form section.field=value", hint="--set sft.epochs=2")
    name = name.strip()
    name = "base.model" if name == "base.from" else name
    if named_tables.in_table(name):
        target, field_name = named_tables.place(values, name)
        may_be_path = named_tables.general(name) in MAY_BE_PATHS
        target[field_name] = _parse_value(text, options_of(name), may_be_path=may_be_path)
        return
    *sections, field_name = name.split(".")
    target = values
    for section in sections:
        target = target.setdefault(section, {})
        if not isinstance(target, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    value = _parse_value(text, options_of(name), may_be_path=name in MAY_BE_PATHS)
    if name in named_tables.TABLES:  # all of them in a line, or none of them
        value = [] if text.strip() in ("", "none") else _toml_value(text)
    target[field_name] = value


def portable(override: str) -> str:
    """The same `--set` in letters that any server's JSON takes: a file's name may hold bytes that are no UTF-8."""
    name, equals, text = override.partition("=")
    is_whole = not any("\ud800" <= letter <= "\udfff" for letter in text)
    return override if is_whole else f"{name}{equals}{json.dumps(text.strip())}"


def _parse_value(given: str, options: tuple[Any, ...], *, may_be_path: bool = False) -> Any:
    """What a `--set` means for a setting of these types: text as it is, else a TOML value, `none` or a choice."""
    text = given.strip()
    if str in options:
        return _parse_text(given, is_optional=type(None) in options, may_be_path=may_be_path)
    for choice in (text, text.strip('"')):  # the form sends every text in quotes
        if any(choice in typing.get_args(option) for option in options):
            return choice
    if bool in options and text.lower() in (*TRUE_WORDS, *FALSE_WORDS):
        return text.lower() in TRUE_WORDS
    if text.lower() in NONE_WORDS:
        return None
    return _number(text)


def _number(text: str) -> Any:
    """A number as TOML or Python writes it (1_000, .5), a boolean, else the text: no date and no list is one."""
    value = _toml_value(text)
    if isinstance(value, int | float):
        return value
    return float(text) if re.fullmatch(r"[+-]?(\d+\.|\.\d+)(e[+-]?\d+)?", text, re.ASCII | re.IGNORECASE) else text


def _parse_text(given: str, *, is_optional: bool, may_be_path: bool) -> str | None:
    """Any text; of an optional one `none` and nothing at all mean None. In quotes it is what the quotes hold."""
    text = given.strip()
    if may_be_path and (there := next((path for path in (given, text) if path and os.path.lexists(path)), None)):
        return there
    if is_optional and text in ("", "none"):
        return None
    if len(text) > 1 and text[0] == text[-1] == '"':
        try:
            return str(json.loads(text))
        except ValueError:
            pass
    quoted = _toml_value(text) if text[:1] in ("'", '"') else text
    return quoted if isinstance(quoted, str) else text


def _toml_value(text: str) -> Any:
    """A TOML value where it parses as one, otherwise the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _build(kind: type, values: Mapping[str, Any], *, where: str) -> Any:
    """Build a config dataclass from plain values, checking every name and type."""
    hints = typing.get_type_hints(kind)
    for name, value in values.items():
        if name not in hints:
            deeper = next(iter(value), None) if isinstance(value, dict) else None
            asked = f"{where}{name}" + (f".{deeper}" if deeper else "")
            raise ConfigError(f"unknown setting {asked}", hint=did_you_mean(asked) or f"known here: {', '.join(hints)}")
    return kind(**{name: _convert(value, hints[name], where=f"{where}{name}") for name, value in values.items()})


def _convert_tables(value: Any, kind: type, *, where: str) -> tuple[Any, ...]:
    """Tables with a name each; errors name the table by it."""
    if not isinstance(value, list | tuple) or not all(isinstance(each, dict) for each in value):
        raise ConfigError(f"{where} = {value!r} is no list of tables", hint=f"[[{where}]] in a file, each with a name")
    for number, each in enumerate(value, start=1):
        if not isinstance(each.get("name"), str):
            raise ConfigError(f"table {number} of {where} has no name", hint='name = "docs"')
    return tuple(_build(kind, each, where=f"{where}.{each['name']}.") for each in value)


def _convert(value: Any, hint: Any, *, where: str) -> Any:
    if kind := named_tables.kind_of_tables(hint):
        return _convert_tables(value, kind, where=where)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} = {value!r} does not fit", hint=f"expected {described(where)}")
        inner = typing.get_args(hint)[1]
        return {str(name): _convert(each, inner, where=f"{where}.{name}") for name, each in value.items()}
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} = {value!r} is a section, not a value", hint=f"set {where}.<field>=...")
        return _build(typing.cast(type, hint), value, where=f"{where}.")
    for option in options(hint):
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
    quotes = f'; in a file text stands in quotes: {where.rpartition(".")[2]} = "{value}"'
    hint = f"expected {described(where)}{quotes if str in options(hint) else ''}"
    raise ConfigError(f"{where} = {value!r} does not fit", hint=hint)
