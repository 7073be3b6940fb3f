"""A program's text as the fingerprint sees it: one spelling for each syntax tree, the same on every Python.

`ast.dump` and `ast.unparse` are another text on another release: new fields (`type_params`), f-strings cut at other
places (PEP 701), other quotes. So trees are written out here. Fields go by name, and what is empty is left out, so a
field that a newer Python adds says nothing until somebody uses it. Neighbouring texts of an f-string are joined.
Comments and formatting are not in a tree; docstrings and type-checking-only code are dropped.
"""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import ConfigError

# Not part of what a program does: where a name stands tells load from store, and the rest is how it was written.
UNSAID = frozenset({"ctx", "kind", "type_comment", "type_ignores", "lineno", "col_offset", "str"})


def parse(content: bytes, path: Path) -> ast.Module:
    """The tree of a file, without what cannot change a result."""
    try:
        return normalised(ast.parse(content, filename=str(path)))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} is not valid Python: {error}", hint="fix the file, then run again") from error


def digest(tree: ast.AST) -> str:
    """sha256 of the one spelling, as hex digits."""
    return hashlib.sha256(spelled(tree).encode()).hexdigest()


def spelled(tree: Any) -> str:
    """The one spelling of a tree."""
    return "".join(_spelled(tree))


def _spelled(value: Any) -> Iterator[str]:
    if isinstance(value, ast.AST):
        yield f"({type(value).__name__}"
        for name in sorted(value._fields):
            held = _joined(value) if isinstance(value, ast.JoinedStr) else getattr(value, name, None)
            if name in UNSAID or (_is_empty(held) and not isinstance(value, ast.Constant)):
                continue
            yield f" {name}="
            yield from _spelled(held)
        yield ")"
    elif isinstance(value, list):
        yield "["
        for item in value:
            yield from _spelled(item)
            yield ","
        yield "]"
    else:
        yield _constant(value)


def _is_empty(value: Any) -> bool:
    """`f"{x:}"` is `f"{x}"`: an empty format of an f-string is written as none on some releases."""
    return value is None or value == [] or (isinstance(value, ast.JoinedStr) and not _joined(value))


def _joined(text: ast.JoinedStr) -> list[ast.expr]:
    """The parts of an f-string, with neighbouring texts as one and no empty ones."""
    parts: list[ast.expr] = []
    for part in text.values:
        if isinstance(part, ast.Constant) and parts and isinstance(parts[-1], ast.Constant):
            part = ast.Constant(str(parts.pop().value) + str(part.value))  # type: ignore[attr-defined]
        parts.append(part)
    return [part for part in parts if not (isinstance(part, ast.Constant) and part.value == "")]


def _constant(value: Any) -> str:
    """`ascii` and not `repr`: which characters are printable is another table in each release."""
    # int has no decimal text past 4,300 digits
    return f"int:{value:#x}" if type(value) is int else f"{type(value).__name__}:{value!a}"


def normalised(tree: ast.Module) -> ast.Module:
    """`tree` without what cannot change a result."""
    return ast.fix_missing_locations(_Normaliser(_unseen_flags(tree)).visit(tree))


class _Normaliser(ast.NodeTransformer):
    """Drops bare strings (docstrings, also those under fields) and type-checking-only code."""

    def __init__(self, flags: set[str]) -> None:
        self.flags = flags

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        if ast.unparse(node.test) not in self.flags:
            return self.generic_visit(node)
        return [kept for child in node.orelse if (kept := self.visit(child)) is not None]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if node.module == "typing":
            node.names = [alias for alias in node.names if alias.name != "TYPE_CHECKING"]
        return node if node.names else None

    def generic_visit(self, node: ast.AST) -> ast.AST:
        visited = super().generic_visit(node)
        # A body may have held nothing but its docstring, and an empty one is no Python.
        if isinstance(visited, ast.stmt | ast.ExceptHandler) and getattr(visited, "body", None) == []:
            visited.body = [ast.Pass()]  # type: ignore[union-attr]
        return visited


def _unseen_flags(tree: ast.Module) -> set[str]:
    """How this file writes `typing.TYPE_CHECKING`; none where it has a name like that of its own."""
    flags: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "TYPE_CHECKING" and isinstance(node.ctx, ast.Store):
            return set()
        if isinstance(node, ast.ImportFrom) and node.module == "typing":
            flags.update(alias.asname or alias.name for alias in node.names if alias.name == "TYPE_CHECKING")
        elif isinstance(node, ast.Import):
            flags.update(
                f"{alias.asname or alias.name}.TYPE_CHECKING" for alias in node.names if alias.name == "typing"
            )
    return flags
