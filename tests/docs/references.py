"""Writes the references: docs/settings.md, docs/commands.md, and the generated tables of docs/reference.md.

`python tests/docs/references.py` writes them, test_references.py compares them with what is written.
"""

import dataclasses
import functools
import json
import re
import tempfile
import tomllib
import typing
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import click
import typer

from flows.cli import app
from nanochat_core import presets
from nanochat_core.base.errors import EXIT_CODES, NanochatError
from nanochat_core.config import RunConfig
from nanochat_core.named_tables import ANY, TABLES, InTable, in_table
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import plan_run
from nanochat_core.record.step_log import FIELDS, MAY_HAVE
from nanochat_core.settings import allowed, default_of, meanings, options_of, setting_names

DOCS = Path(__file__).resolve().parents[2] / "docs"
WIDTH = 100
INTRODUCTION = """# Settings

`--set NAME=VALUE`, a line of a preset's file, or an override of Prefect's form. *Keys*: the steps that have it in their
key. They run again when it changes, and so does what is made from them. Written by `make references`."""
# settings that only count beside others are changed beside those
BESIDE = (
    (), ("base.model=NAME", "base.content=0"),
    ("corpus.source=hub", "corpus.dataset=a/b"), ("corpus.source=path", "corpus.path={}/one.jsonl"),
    ("sft.source=path", "sft.path={}/one.jsonl", "core.source=path", "core.path={}"),
    ("sft.source=mix", "benchmarks.source=hub", "rl.enabled=true", "rl.source=gsm8k", "core.source=url"),
    ("corpus.sources.NAME.path={}/one.jsonl", "corpus.sources.b.path={}/two.jsonl"),
    ("corpus.sources.NAME.path={}/one.jsonl", "corpus.sources.b.path={}/two.jsonl", "pretrain.phases.NAME.share=0.5",
     "pretrain.phases.NAME.weights.NAME=1", "pretrain.phases.b.weights.b=1"),
    ("benchmarks.source=path", "benchmarks.path={}", "sft.source=mix", "sft.identity_path={}/one.jsonl"),
)  # fmt: skip


def settings_page() -> str:
    """Every setting: what it may be, its default, the presets that have another value, the keys that it is in."""
    keys = _keys()
    lines = [INTRODUCTION]
    hints = typing.get_type_hints(RunConfig)
    for section, kind in {
        "": RunConfig,
        **{n: hint for n, hint in hints.items() if dataclasses.is_dataclass(hint)},
        **{f"{tables}.{ANY}": kind for tables, kind in TABLES.items()},
    }.items():
        doc = (kind.__doc__ or "").strip()
        lines += [
            "",
            f"## {section or 'The run'}",
            "",
            doc,
            "",
            "| setting | meaning | may be | default | presets | keys |",
        ]
        lines += ["|---|---|---|---|---|---|", *_rows(section, keys)]
    return "\n".join(lines) + "\n"


def _rows(section: str, keys: dict[str, set[str]]) -> Iterator[str]:
    defaults = dataclasses.asdict(RunConfig(preset=""))
    values = {name: tomllib.loads((presets.FOLDER / f"{name}.toml").read_text()) for name in presets.preset_names()}
    for name in setting_names():
        if name == "preset" or name.rpartition(".")[0] != section:
            continue
        field = name.rpartition(".")[2]
        default = default_of(name) if in_table(name) else (defaults[section] if section else defaults)[field]
        changed = {preset: (each.get(section, {}) if section else each).get(field) for preset, each in values.items()}
        said = ", ".join(f"{preset} {_value(value)}" for preset, value in changed.items() if value is not None)
        steps = ", ".join(step for step in STEPS if step in keys[name])
        cells = (f"`{name}`", meanings()[name], allowed(name), _value(default), said, steps)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)


def _keys() -> dict[str, set[str]]:
    """The steps whose own settings differ when a setting does, by trying others beside several configurations."""
    found: dict[str, set[str]] = {name: set() for name in setting_names()}
    # versions do not change meanwhile, and reading them is most of the time
    known = mock.patch.object(metadata, "version", functools.cache(metadata.version))
    with known, tempfile.TemporaryDirectory() as folder:
        _write_files(Path(folder))
        for beside in BESIDE:
            sets = [each.format(folder) for each in beside]
            config = presets.load_config("tiny", sets)
            before = _settings(config)
            sections = {each.partition(".")[0] for each in beside}
            for name in found:
                if not beside or name.partition(".")[0] in sections:
                    for other in _others(config, name, folder):
                        after = _settings(other)
                        found[name] |= {step for step in STEPS if after and before and before[step] != after[step]}
    return found


def _others(config: RunConfig, name: str, folder: str) -> Iterator[RunConfig]:
    """The same configuration with other values of one setting."""
    section, _, field = name.rpartition(".")
    if found := in_table(name):
        yield from _others_of_table(config, found)
        return
    owner = getattr(config, section) if section else config
    old = getattr(owner, field)
    for kind in options_of(name):
        if typing.get_origin(kind) is typing.Literal:
            values: tuple[object, ...] = typing.get_args(kind)
        elif kind is str:
            values = (f"{folder}/two.jsonl", f"{folder}/two", "L", "gsm8k")
        elif name in TABLES:
            values = ((),)
        elif kind is bool:
            values = (not old,)
        else:
            number = old if isinstance(old, int | float) and old else 32
            values = {int: (2 * int(number), 2, 1_000_000), float: (number / 2, number / 100, 0.5)}.get(kind, (None,))
        for value in values:
            changed = dataclasses.replace(owner, **{field: value})
            yield dataclasses.replace(config, **{section: changed}) if section else changed


def _others_of_table(config: RunConfig, found: InTable) -> Iterator[RunConfig]:
    """The same for a setting of the tables that have its name."""
    section, _, field = found.tables.partition(".")
    tables = getattr(getattr(config, section), field)
    for table in tables:
        values = {"weights": ({"b": 2.0, ANY: 1.0},), "share": (0.25,)}.get(found.field, (3.0, 64))
        for value in values:
            changed = [dataclasses.replace(each, **{found.field: value}) if each is table else each for each in tables]
            owner = dataclasses.replace(getattr(config, section), **{field: tuple(changed)})
            yield dataclasses.replace(config, **{section: owner})


def _write_files(folder: Path) -> None:
    talk = '{"text": "%s", "messages": [{"role": "user", "content": "%s?"}, {"role": "assistant", "content": "%s"}]}\n'
    for name in ("one", "two"):
        (folder / f"{name}.jsonl").write_text("".join(talk % ((f"{name} {i}",) * 3) for i in range(40)))
    (folder / "two").mkdir()


def _settings(config: RunConfig) -> dict[str, str] | None:
    """Each step's own settings, where they can be had; None for a configuration that is refused."""
    try:
        plan = plan_run(config)
    except NanochatError:
        return None
    said = {}
    for name, step in STEPS.items():
        try:
            said[name] = json.dumps(step.settings(plan), default=str, sort_keys=True)
        except (NanochatError, OSError):
            said[name] = ""
    return said


def commands_page() -> str:
    """Every verb's help, as it prints it."""
    lines = ["# Commands", "", "What `--help` prints. Written by `make references`."]
    for path, command in commands():
        context = click.Context(command, info_name=path, terminal_width=WIDTH, max_content_width=WIDTH)
        text = re.sub(r"[ \t]+$", "", command.get_help(context), flags=re.MULTILINE).strip()
        lines += ["", f"## {path}", "", "```text", text, "```"]
    return "\n".join(lines) + "\n"


def commands() -> Iterator[tuple[str, click.Command]]:
    """All verbs with their whole names, groups before what is in them."""

    def below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield path, command
        for name, each in getattr(command, "commands", {}).items():
            yield from below(f"{path} {name}", each)

    return below("nanochat", typer.main.get_command(app))


def tables() -> dict[str, list[str]]:
    """The generated tables of docs/reference.md, by name."""
    from nanochat_core.serve.app import create_app
    from nanochat_core.serve.metrics import Metrics
    from nanochat_core.serve.pool import ModelPool, ServedModel

    unused = SimpleNamespace(id="unused")
    paths = create_app(ModelPool([ServedModel(unused, load=None)]), token="unused").openapi()["paths"]
    endpoints = [
        f"| `{method.upper()} {path}` | {_summary(each)} |" for path, of in paths.items() for method, each in of.items()
    ]
    series = [f"| `{each.name}` | {each.type} | {each.documentation} |" for each in Metrics().registry.collect()]
    log = [f"| `{event}` | {', '.join((*of, *MAY_HAVE.get(event, ())))} |" for event, of in FIELDS.items()]
    return {
        "exit codes": ["| code | means |", "|---|---|", *(f"| {code} | {text} |" for code, text in EXIT_CODES.items())],
        "endpoints": ["| path | what |", "|---|---|", *endpoints],
        "metrics": ["| series | kind | what |", "|---|---|---|", *series],
        "step log": ["| event | fields |", "|---|---|", *log],
    }


def _summary(operation: dict[str, str]) -> str:
    return (operation.get("description") or operation["summary"]).split("\n")[0]


def reference_page(text: str) -> str:
    """docs/reference.md with its tables as they are today."""
    for name, lines in tables().items():
        pattern = re.compile(rf"(<!-- begin {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        assert len(pattern.findall(text)) == 1, name
        text = pattern.sub(lambda found, lines=lines: found[1] + "\n".join(lines) + "\n" + found[2], text)
    return text


def pages() -> dict[Path, str]:
    """Every page, and what it says today."""
    reference = DOCS / "reference.md"
    return {
        DOCS / "settings.md": settings_page(),
        DOCS / "commands.md": commands_page(),
        reference: reference_page(reference.read_text(encoding="utf-8")),
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
