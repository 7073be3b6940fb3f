"""docs/troubleshooting.md and the table that leads to it speak of errors that the code raises."""

import ast
import re

import pytest
from conftest import ROOT

from nanochat_core.base.errors import NanochatError
from nanochat_core.cli import output
from nanochat_core.cli.troubles import PAGE, SECTIONS, section_of


def sections() -> dict[str, str]:
    """The page's sections of errors by their anchors."""
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    parts = re.findall(r"^### ([^\n]*)\n(.*?)(?=^##|\Z)", text, re.DOTALL | re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-"): body for title, body in parts}


def templates() -> list[str]:
    """Message and hint of each error that the code makes, what is filled in as {}."""
    made = []
    for package in ("nanochat_core", "flows", "tasks"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    hints = [each.value for each in node.keywords if each.arg == "hint"]
                    if hints or ast.unparse(node.func).endswith(("Error", "Finding", "_collective_failure")):
                        made.append("\n".join(_text(part) for part in (*node.args, *hints)))
    return made


def _text(node: ast.expr) -> str:
    parts = [each for each in ast.walk(node) if isinstance(each, ast.JoinedStr | ast.Constant)]
    if isinstance(node, ast.JoinedStr):
        return "".join(str(each.value) if isinstance(each, ast.Constant) else "{}" for each in node.values)
    return "\n".join(_text(each) if isinstance(each, ast.JoinedStr) else str(each.value) for each in parts)


def test_every_section_has_its_words_and_every_word_its_section() -> None:
    assert set(SECTIONS) == set(sections())
    for name, words in SECTIONS.items():
        said = " ".join(sections()[name].split())
        assert [each for each in words if each.strip().strip("({:") not in said] == [], name


def test_every_word_is_one_that_an_error_says_and_no_error_has_two_sections() -> None:
    made = templates()
    assert len(made) > 400
    unsaid = [each for words in SECTIONS.values() for each in words if not any(each in text for text in made)]
    assert unsaid == []
    for text in made:
        found = {name for name, words in SECTIONS.items() if any(each in text for each in words)}
        assert len(found) <= 1, (text, found)


def test_an_error_names_its_section(capsys: pytest.CaptureFixture[str]) -> None:
    full = NanochatError("the disk is full: /tmp", hint="free some space")
    assert section_of(full) == "docs/troubleshooting.md#a-disk-or-a-limit"
    assert output.tell(full) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "more: docs/troubleshooting.md#a-disk-or-a-limit"
    assert section_of(NanochatError("there is no step 'x'", hint="steps: corpus")) is None
