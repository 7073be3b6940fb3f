"""The shape of the repository: sizes that keep files readable, and what may not be in them."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 80
PACKAGES = ("nanochat_core", "tasks", "flows")


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short_and_say_what_they_are(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module says what it is for"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


def test_no_pickle_is_read_and_no_unsafe_load() -> None:
    # torch's collectives of objects unpickle what a port brings: distributed.from_main and to_main have JSON
    unsafe = re.compile(r"pickle\.loads?\(|dist\.\w*_object|torch\.load\((?!.*weights_only=True)|\beval\(|\bexec\(")
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if unsafe.search(line) and not re.search(r"\.eval\(", line)
    ]
    assert found == []


def test_importing_the_core_does_no_work() -> None:
    """No environment written, no logging set up, no torch for the plan."""
    code = (
        "import os, sys, logging; before = dict(os.environ)\n"
        "import nanochat_core.plan, nanochat_core.presets, nanochat_core.pipeline.table\n"
        "assert dict(os.environ) == before and not logging.getLogger().handlers\n"
        "assert 'torch' not in sys.modules and 'prefect' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_the_lock_pins_every_dependency_and_keeps_the_known_limits() -> None:
    pins = dict(
        line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = [re.match(r"[A-Za-z0-9-]+", line)[0].lower() for line in project["dependencies"]]
    pinned = {name.lower().replace("_", "-") for name in pins}
    assert set(declared) <= pinned
    assert pins["prefect"] == "3.9.1"
    assert (0, 139) <= tuple(map(int, pins["fastapi"].split(".")[:2])) < (0, 151)
    assert tuple(map(int, pins["SQLAlchemy"].split(".")[:2])) < (2, 1)


def test_every_pin_but_torch_has_hashes() -> None:
    locked = {line for line in (ROOT / "requirements.lock").read_text().splitlines() if line and line[0] != "#"}
    hashed = re.findall(
        r"^(\S+==\S+(?: ; .+)?) \\\n(?: +--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", _hashes(), re.MULTILINE
    )
    assert {_plain(pin) for pin in hashed} == {_plain(pin) for pin in locked if not pin.startswith("torch==")}


def _hashes() -> str:
    return (ROOT / "requirements.hashes").read_text()


def _plain(pin: str) -> str:
    name, _, version = pin.partition("==")
    return f"{re.sub('[-_.]+', '-', name).lower()}=={version}"


def test_what_the_readme_links_to_is_there() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(
        r"`((?:flows|tasks|nanochat_core|benchmarks|docs)/[^`*]+)`", text
    )
    assert linked
    assert [name for name in linked if not (ROOT / name).exists()] == []
    assert "OUTPUT_" not in text
