"""The version stands in one place, and the changelog's newest section is about it."""

import platform
import re
import tomllib
from importlib import metadata
from pathlib import Path

from typer.testing import CliRunner

import nanochat_core
from nanochat_core.cli.app import app

ROOT = Path(__file__).resolve().parents[2]


def test_the_changelog_begins_with_the_version_of_the_package():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == nanochat_core.__version__


def test_the_package_has_its_version_from_the_code():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "nanochat_core.__version__"}


def test_the_command_says_its_version():
    done = CliRunner().invoke(app, ["--version"])
    assert done.exit_code == 0
    torch, prefect = metadata.version("torch"), metadata.version("prefect")
    parts = re.fullmatch(r"nanochat (\S+) \((?:commit [0-9a-f]{12}, )?(.*)\)\n", done.stdout)
    assert parts
    assert parts[1] == nanochat_core.__version__
    assert parts[2] == f"Python {platform.python_version()}, torch {torch}, Prefect {prefect}"
