"""Nothing is missing from the references, and they say what the code says."""

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

import references
from conftest import ROOT

from nanochat_core.base.errors import EXIT_CODES
from nanochat_core.settings import BOUNDS, described, meanings, setting_names

PRODUCT = ("nanochat_core", "flows", "tasks", "bin", "infra", "deployments")
DOCUMENTS = [ROOT / "README.md", ROOT / "SECURITY.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def test_the_pages_are_those_that_the_code_writes() -> None:
    """`make references` writes them anew."""
    for path, text in references.pages().items():
        assert read(path) == text, path


def test_every_setting_says_what_it_means() -> None:
    assert [name for name in setting_names() if not meanings().get(name)] == []
    assert set(BOUNDS) <= set(setting_names())
    assert described("sft.epochs") == "a whole number, 1 to 10,000: Passes over the conversations (docs/settings.md)"


def test_every_variable_is_in_the_reference_and_no_other() -> None:
    sources = [
        path for part in PRODUCT for path in (ROOT / part).rglob("*") if path.suffix in ("", ".py", ".yaml", ".sh")
    ]
    found = {name for path in sources if path.is_file() for name in re.findall(r"NANOCHAT_[A-Z_]*[A-Z]", read(path))}
    named = set(re.findall(r"NANOCHAT_[A-Z_]*[A-Z]", read(ROOT / "docs/reference.md")))
    assert found == named


def test_every_exit_code_is_in_the_table_and_no_other() -> None:
    sources = [path for part in PRODUCT for path in (ROOT / part).rglob("*.py")]
    found = {int(code) for path in sources for code in re.findall(r"(?:exit_code|EXIT_[A-Z_]+) = (\d+)", read(path))}
    assert found | {0} == set(EXIT_CODES)


def test_every_verb_has_help_with_examples_and_every_flag_says_what_it_does() -> None:
    for path, command in references.commands():
        assert command.help, path
        assert [each.name for each in command.params if each.param_type_name == "option" and not each.help] == [], path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_is_there(document: Path) -> None:
    """Settings, verbs and flags, wherever they stand between backticks or in a block."""
    text = read(document)
    sections = "|".join({name.partition(".")[0] for name in setting_names() if "." in name})
    named = re.findall(rf"--set ((?:{sections})\.\w+)|`((?:{sections})\.\w+)(?:`| =|=)", text)
    unknown = {name for pair in named for name in pair if name} - set(setting_names())
    assert {name for name in unknown if not name.endswith((".json", ".jsonl", ".yaml", ".pkl", ".py"))} == set()
    flags = {path: {flag for each in command.params for flag in each.opts} for path, command in references.commands()}
    for line in re.findall(r"nanochat [a-z][^`\n#|]*", text):
        verb = max((path for path in flags if f"{line} ".startswith(f"{path} ")), key=len, default="")
        used = set(re.findall(r"(?<=\s)--[a-z][\w-]*", line)) - {"--help"}
        assert not verb or used <= flags[verb] | flags["nanochat"], (line, used - flags[verb])
