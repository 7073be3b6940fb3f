"""The documentation that every installation of the locked packages has: real English about code, without a download.

The same bytes on every Python and machine: only packages whose sources are equal in all their wheels are read, and not
the standard library, which each Python documents in its own words (numpy is left out as well: its wheel for 3.11 holds
more files than the others). So two machines that share a store make one corpus. Modules are read with `ast`, never
imported: importing a thousand modules would run their code, take minutes and depend on what is installed beside them.
"""

import ast
import importlib.metadata
import inspect
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nanochat_core.data.placed import PlacedText

# Packages of the lock file with prose worth reading, in this order; the total is cut at MAX_BYTES.
PACKAGES = (
    "networkx", "prefect", "pandas", "sqlalchemy", "matplotlib", "pydantic", "fastapi", "typer", "rich", "click",
    "fsspec", "jinja2", "datasets", "sympy",
)  # fmt: skip
WORD_PACKAGES = ("networkx", "pandas")
SKIPPED_FOLDERS = {"test", "tests", "testing", "__pycache__"}
OLDEST_SYNTAX = (3, 11)  # a file that the oldest Python cannot read is read by none
MAX_BYTES = 10_000_000
MAX_DOCUMENT_BYTES = 6_000  # a module's documentation is cut into documents of about a page, like web text
MIN_DOC_CHARS = 40


@dataclass(frozen=True)
class Entry:
    """One documented name."""

    name: str
    """Qualified, e.g. "networkx.classes.function.density"."""
    signature: str
    doc: str
    line: int
    """Of its file, where the documentation starts or the name is defined."""


def documents() -> Iterator[str]:
    """The texts of all pages."""
    return (page.text for page in pages())


def pages() -> Iterator[PlacedText]:
    """All documents in their fixed order, duplicates left out, up to MAX_BYTES of UTF-8."""
    seen: set[int] = set()
    num_bytes = 0
    for page in _all_pages():
        key = hash(page.text)
        if key in seen or len(page.text) < MIN_DOC_CHARS:
            continue
        seen.add(key)
        num_bytes += len(page.text.encode("utf-8", errors="replace"))
        if num_bytes > MAX_BYTES:
            return
        yield page


def _all_pages() -> Iterator[PlacedText]:
    for package in PACKAGES:
        yield from _package_readme(package)
        for source, entries in _package_sources(package):
            yield from _pages(source, entries)


def module_entries(module: str) -> list[Entry]:
    """Entries of one module of an installed package."""
    return _entries_of_source(_installed() / f"{module.replace('.', '/')}.py", module)


def word_counts() -> Counter[str]:
    """How often each lower-case word a to z stands in the documentation of WORD_PACKAGES."""
    docs = (entry.doc for package in WORD_PACKAGES for entries in package_entries(package) for entry in entries)
    return Counter(word for doc in docs for word in re.findall(r"\b[a-z]+\b", doc))


def package_entries(package: str) -> Iterator[list[Entry]]:
    """Entries of each module of an installed package, in order of path."""
    return (entries for _, entries in _package_sources(package))


def _package_sources(package: str) -> Iterator[tuple[str, list[Entry]]]:
    """The source files of an installed package by name, each with its entries."""
    folder = _installed() / package
    if folder.is_dir():
        yield from _entries_of_folder(folder, package)


def _installed() -> Path:
    return Path(sysconfig.get_paths()["purelib"])


def _package_readme(package: str) -> Iterator[PlacedText]:
    try:
        metadata = importlib.metadata.metadata(package).json
    except importlib.metadata.PackageNotFoundError:
        return
    yield from _cut(str(metadata.get("description", "")).strip(), f"{package}, its description")


def _entries_of_folder(folder: Path, package: str) -> Iterator[tuple[str, list[Entry]]]:
    for source in sorted(folder.rglob("*.py")):
        parts = source.relative_to(folder).with_suffix("").parts
        if SKIPPED_FOLDERS & set(parts) or any(part.startswith("test_") for part in parts):
            continue
        name = ".".join([package, *(part for part in parts if part != "__init__")])
        yield source.relative_to(folder.parent).as_posix(), _entries_of_source(source, name)


def _entries_of_source(source: Path, module: str) -> list[Entry]:
    try:
        tree = ast.parse(source.read_text(encoding="utf-8"), feature_version=OLDEST_SYNTAX)
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return []  # templates and deliberately broken files; other modules make up for them
    entries = [Entry(module, module, _clean(ast.get_docstring(tree)), 1)]
    _collect(tree, module, entries)
    return [entry for entry in entries if entry.doc]


def _collect(node: ast.AST, prefix: str, entries: list[Entry]) -> None:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not child.name.startswith("_"):
            name = f"{prefix}.{child.name}"
            entries.append(Entry(name, _signature(child, name), _clean(ast.get_docstring(child)), child.lineno))
            if isinstance(child, ast.ClassDef):
                _collect(child, name, entries)


def _signature(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        return f"class {name}"
    return f"{name}({ast.unparse(node.args)})"


def _clean(doc: str | None) -> str:
    return inspect.cleandoc(doc).encode("utf-8", errors="replace").decode("utf-8") if doc else ""


def _pages(source: str, entries: list[Entry]) -> Iterator[PlacedText]:
    """Join a module's entries into documents of about MAX_DOCUMENT_BYTES, cut between entries."""
    page: list[str] = []
    size = first = 0
    for entry in entries:
        text = f"{entry.signature}\n\n{entry.doc}\n"
        if page and size + len(text) > MAX_DOCUMENT_BYTES:
            yield PlacedText("\n".join(page), source, first)
            page, size = [], 0
        first = first if page else entry.line
        page.append(text)
        size += len(text)
    if page:
        yield PlacedText("\n".join(page), source, first)


def _cut(text: str, source: str) -> Iterator[PlacedText]:
    """Cut a long text at blank lines into documents of about MAX_DOCUMENT_BYTES."""
    page: list[str] = []
    size, first, line = 0, 1, 1
    for paragraph in text.split("\n\n"):
        if page and size + len(paragraph) > MAX_DOCUMENT_BYTES:
            yield PlacedText("\n\n".join(page), source, first)
            page, size, first = [], 0, line
        page.append(paragraph)
        size += len(paragraph)
        line += paragraph.count("\n") + 2
    if page:
        yield PlacedText("\n\n".join(page), source, first)


def first_sentence(doc: str) -> str | None:
    """The first sentence of a docstring on one line, where it reads as one; None for what is no sentence."""
    paragraph = doc.split("\n\n")[0].replace("\n", " ")
    sentence = re.split(r"(?<=[.!?])\s+(?=[A-Z])", re.sub(r"\s+", " ", paragraph).strip())[0]
    if not 20 <= len(sentence) <= 120 or not sentence[0].isupper() or not sentence.endswith("."):
        return None
    return sentence if sentence.isascii() and not re.search(r"[<>{}|=\\`*]|--|::", sentence) else None
