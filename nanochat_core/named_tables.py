"""Settings that are lists of tables with a name each: `[[corpus.sources]]` in a file, `corpus.sources.NAME.weight=2` on
a command line and in Prefect's form.

The setting of one table is spoken of as corpus.sources.NAME.weight where all of them are meant.
"""

import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from nanochat_core.base.errors import ConfigError
from nanochat_core.corpus_config import PhaseConfig, SourceConfig, TextConfig

TABLES: dict[str, type] = {"corpus.sources": SourceConfig, "pretrain.phases": PhaseConfig}
ANY = "NAME"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")
OF_ONE_TEXT = {field.name for field in dataclasses.fields(TextConfig)}


class InTable(NamedTuple):
    """A setting of one table."""

    tables: str
    """corpus.sources"""
    table: str
    """Its name."""
    field: str
    """Of it; with what is asked of a field that has names itself: weights.docs."""

    @property
    def general(self) -> str:
        """The name under which it is described: what a source shares with the corpus is described there."""
        field = self.field.partition(".")[0]
        is_shared = self.tables == "corpus.sources" and field in OF_ONE_TEXT
        return f"corpus.{field}" if is_shared else f"{self.tables}.{ANY}.{field}"


def in_table(name: str) -> InTable | None:
    """The parts of corpus.sources.docs.weight; None for a setting of no table."""
    for tables in TABLES:
        table, _, field = name.removeprefix(f"{tables}.").partition(".")
        if name.startswith(f"{tables}.") and field:
            return InTable(tables, table, field)
    return None


def general(name: str) -> str:
    """The name under which a setting is described."""
    found = in_table(name)
    return found.general if found else name


def table_settings(tables: str) -> list[str]:
    """What only these tables have, as corpus.sources.NAME.weight."""
    kind = TABLES[tables]
    shared = OF_ONE_TEXT if issubclass(kind, TextConfig) else set()
    own = [field.name for field in dataclasses.fields(kind) if field.name not in shared | {"name"}]
    return [f"{tables}.{ANY}.{field}" for field in own]


def hint_of(name: str) -> Any:
    """The type of a table's setting; None where it has no such field."""
    found = in_table(name)
    if found is None:
        return None
    field, _, inner = found.field.partition(".")
    hint = typing.get_type_hints(TABLES[found.tables]).get(field)
    if typing.get_origin(hint) is dict:
        return typing.get_args(hint)[1] if inner else hint
    return None if inner else hint


def kind_of_tables(hint: Any) -> type | None:
    """The class of the tables in a list; None for another type."""
    args = typing.get_args(hint)
    is_list = typing.get_origin(hint) is tuple and bool(args) and dataclasses.is_dataclass(args[0])
    return args[0] if is_list else None


def place(values: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """Where a table's setting is put in plain values: the table, made where there is none of this name, and field."""
    found = in_table(name)
    assert found is not None, name
    section, _, field = found.tables.partition(".")
    tables = values.setdefault(section, {}).setdefault(field, [])
    if not isinstance(tables, list) or not all(isinstance(each, dict) for each in tables):
        raise ConfigError(f"{found.tables} = {tables!r} is no list of tables", hint=f"[[{found.tables}]] in a file")
    target = next((each for each in tables if each.get("name") == found.table), None)
    if target is None:
        tables.append(target := {"name": found.table})
    field, _, inner = found.field.partition(".")
    if not inner:
        return target, field
    target = target.setdefault(field, {})
    if not isinstance(target, dict):
        raise ConfigError(f"{name}: {field!r} is a value, not a section")
    return target, inner


def inherit(values: dict[str, Any]) -> None:
    """What a source is that says no place of its own: what `corpus` says. What it is where it says a path only."""
    corpus = values.get("corpus")
    if not isinstance(corpus, dict):
        return
    sources = corpus.get("sources")
    for source in sources if isinstance(sources, list) else ():
        if not isinstance(source, dict):
            continue
        if "source" not in source and source.get("path"):
            source["source"] = "path"
        elif "source" not in source and source.get("dataset"):
            source["source"] = "hub"
        elif "source" not in source:
            source |= {name: value for name, value in corpus.items() if name in OF_ONE_TEXT and name not in source}


def flattened(tables: str, values: Iterator[Mapping[str, Any]] | tuple[Mapping[str, Any], ...]) -> dict[str, Any]:
    """Tables as settings by name, without what stands at its default: what `--set` is to be told of them."""
    found: dict[str, Any] = {}
    for table in values:
        usual = {field.name: field.default for field in dataclasses.fields(TABLES[tables])}
        chosen = {name: value for name, value in table.items() if name != "name" and value != usual[name]}
        where = f"{tables}.{table['name']}"
        for name, value in (chosen or {"weight": table.get("weight")}).items():
            inner = value if isinstance(value, dict) else {"": value}
            found |= {f"{where}.{name}.{key}" if key else f"{where}.{name}": each for key, each in inner.items()}
    return found


def toml_tables(values: list[Mapping[str, Any]] | tuple[Mapping[str, Any], ...]) -> str:
    """Tables as a TOML value in a line; what is None is left out, as it is where nothing is said."""
    return f"[{', '.join(_toml(each) for each in values)}]"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{json.dumps(k)} = {_toml(v)}' for k, v in value.items() if v is not None)}}}"
    return json.dumps(value, ensure_ascii=False)
