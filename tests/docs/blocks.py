"""The fenced blocks of the documents, and what the comments before them say to the test that runs them.

A comment that readers do not see stands right above its block:

    <!-- not here: REASON -->     not run, and counted with its reason
    <!-- long -->                 run by `make docs`, and not by `make test`
    <!-- args: --set a.b=1 -->    each `nanochat VERB` that plans a run gets these as well: the block is shrunk
    <!-- copied -->               the source is copied before: this block and those after it change and run the copy
    <!-- before: COMMAND -->      run first: input files that a reader would have
    <!-- stays: TEXT -->          does not end by itself; good as soon as it has printed TEXT, stopped with the document
    <!-- exit: 5 -->              what it ends with
    <!-- numbers: any -->         of output: how far a number may be off (`5%`); equal without it
    <!-- without: REGEX -->       of output: lines that this machine need not print

`sh` and `python` are run, `output` is what the block before it prints, `text`, `json` and `toml` are for reading only.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

MARKS = ("not here", "long", "args", "copied", "before", "stays", "exit", "numbers", "without")
LANGUAGES = ("sh", "python", "output", "text", "json", "toml")
COMMENT = re.compile(r"<!-- *(.*?) *-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block: where it stands, its language, its text, and its marks."""

    document: str
    line: int
    language: str
    text: str
    marks: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(path: Path, name: str) -> list[Block]:
    """All blocks of a document; indented ones as well, which have no language."""
    found: list[Block] = []
    marks: dict[str, str] = {}
    for token in MarkdownIt().parse(path.read_text(encoding="utf-8")):
        if token.type == "html_block":
            marks |= _marks(token.content)
        elif token.type in ("fence", "code_block"):
            assert token.map is not None
            found.append(Block(name, token.map[0] + 1, token.info.strip(), token.content, marks))
            marks = {}
        else:
            assert not marks, f"{name}: {marks} stand above no block"
    return found


def _marks(html: str) -> dict[str, str]:
    pairs = (text.partition(":") for text in COMMENT.findall(html))
    return {name.strip(): " ".join(value.split()) for name, _, value in pairs if name.strip() in MARKS}


TIME = re.compile(r"(?<![\w.])(\d[\d.,]* (h|min|ms|s|days?)\b ?)+")
LEFT_OUT = (
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"(file://)?(?<![\w.])[/~][\w.-]+(/[\w.-]*)+|\b[\w.-]+/bin/\w+"), "PATH"),
    (re.compile(r"\b\w+-\d{8}-\d{6}-\w{4}\b|\b[0-9a-f]{12,64}\b"), "ID"),
    (re.compile(r"\b20\d\d-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?"), "DATE"),
    (TIME, "TIME "),
)
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:[KMGTB]+(?:iB|B|FLOPs?)?\b)?")
SCALE = {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}


def missing_lines(shown: str, printed: str, marks: dict[str, str]) -> list[str]:
    """The lines of a block of output that did not come, in their order; others may come between them."""
    without = re.compile(marks["without"]) if "without" in marks else None
    wanted = [line for line in shown.splitlines() if line.strip(" .") and not (without and without.search(line))]
    came = iter(_plain(line) for line in printed.splitlines())
    tolerance = marks.get("numbers", "0%")
    for number, line in enumerate(wanted):
        if not any(_alike(_plain(line), other, tolerance) for other in came):
            return wanted[number:]
    return []


def _plain(line: str) -> str:
    for pattern, word in LEFT_OUT:
        line = pattern.sub(word, line)
    return " ".join(line.split())


def _alike(shown: str, printed: str, tolerance: str) -> bool:
    if NUMBER.sub("#", shown) != NUMBER.sub("#", printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return tolerance == "any" or all(_near(*pair, float(tolerance.rstrip("%")) / 100) for pair in pairs)


def _near(shown: str, printed: str, tolerance: float) -> bool:
    wanted, found = _value(shown), _value(printed)
    return abs(wanted - found) <= tolerance * abs(wanted) + 1e-12


def _value(text: str) -> float:
    digits = re.match(r"[-+]?[\d,.]+", text)
    assert digits is not None
    return float(digits[0].replace(",", "").rstrip(".")) * SCALE[text[digits.end() :][:1]]
