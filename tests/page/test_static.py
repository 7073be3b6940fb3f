"""What holds for the page's files without a browser: nothing inline, nothing from elsewhere, no markup from text."""

import re
from pathlib import Path

import pytest

STATIC = Path(__file__).resolve().parents[2] / "nanochat_core/serve/static"
MODULES, PAGES = sorted(STATIC.glob("*.js")), sorted(STATIC.glob("*.html"))
MAX_LINES, MAX_CHARS = 400, 120
UNSAFE = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|\beval\(|new Function"
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_modules_are_short_say_what_they_are_and_make_no_markup_from_text(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    assert lines[0].startswith("// ")
    assert len(lines) <= MAX_LINES
    assert [line for line in lines if len(line) > MAX_CHARS] == []
    assert UNSAFE.findall(text) == []


def test_every_import_and_address_is_a_file_of_the_page() -> None:
    for path in MODULES:
        for name in re.findall(r'from "\./([^"]+)"|import\("\./([^"]+)"', path.read_text(encoding="utf-8")):
            assert (STATIC / name[0]).is_file(), (path.name, name)
    for page in PAGES:
        linked = re.findall(r'(?:src|href)="(?!#|\./")([^"]+)"', page.read_text(encoding="utf-8"))
        assert linked
        assert [name for name in linked if not (STATIC.parent / name).is_file()] == []


def test_nothing_is_inline_and_nothing_comes_from_elsewhere() -> None:
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        assert re.findall(r"<style|\sstyle=|\son[a-z]+=|javascript:|https?://", page) == []
        assert re.findall(r"<script(?![^>]*\ssrc=)", page) == []
    for path in STATIC.glob("*.css"):
        assert re.findall(r"@import|https?://|url\(\"?data:", path.read_text(encoding="utf-8")) == []
