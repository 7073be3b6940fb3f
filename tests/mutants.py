"""Edits of Python source for the tests of the cache key, made from Python's own grammar.

Each class of the syntax tree tells its fields and their types (`ast.Call.__doc__` is "Call(expr func, expr* args,
keyword* keywords)"), so every kind of statement and expression is edited in every place that can hold something, also
those that a newer Python adds. A mutant is another program that still compiles; whether a key notices is for the tests
to say. Edits that change nothing (comments, docstrings) are made as well.
"""

import ast
import copy
import io
import random
import re
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

UNSAID = {"ctx", "kind", "type_comment", "type_ignores", "simple", "is_async", "level"}
SUMS = {"operator": ast.operator, "unaryop": ast.unaryop, "cmpop": ast.cmpop, "boolop": ast.boolop}


@dataclass(frozen=True)
class Mutant:
    """Another program."""

    kind: str
    """Class and field, as "Call.args"."""
    line: int
    text: str


@lru_cache(maxsize=512)
def fields_of(kind: type[ast.AST]) -> dict[str, str]:
    """Field -> its type in the grammar, with the ? or * of it."""
    inside = re.search(r"\((.*)\)", (kind.__doc__ or "").replace("\n", " "))
    pairs = [each.split() for each in inside.group(1).split(",")] if inside else []
    return {name: kind for kind, name in pairs if name not in UNSAID}


def mutants(text: str, *, number: int, draw: random.Random, statement: int | None = None) -> list[Mutant]:
    """At most so many edits of `text`; `statement` is the number of the one in the module to stay in."""
    places = _places(text, statement)
    draw.shuffle(places)
    found: list[Mutant] = []
    for place in places:
        if len(found) == number:
            break
        if (mutant := _mutant(text, place)) is not None:
            found.append(mutant)
    return found


def _places(text: str, statement: int | None) -> list[tuple[int, str]]:
    """(number of the node in `ast.walk`'s order, field) of everything that can be edited."""
    tree, _ = _parsed(text)
    inside = {id(each) for each in _running(tree if statement is None else tree.body[statement])}
    return [
        (number, field)
        for number, node in enumerate(ast.walk(tree))
        if id(node) in inside
        for field in fields_of(type(node))
    ]


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """A node and those below it, without docstrings, hints of functions, and what only type checkers see."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        return
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
        return
    yield node
    for child in ast.iter_child_nodes(node):
        yield from _running(child)


def _mutant(text: str, place: tuple[int, str]) -> Mutant | None:
    tree, dumped = _parsed(text)
    changed = copy.deepcopy(tree)
    node = next(each for number, each in enumerate(ast.walk(changed)) if number == place[0])
    if not _edit(node, place[1]):
        return None
    kind = type(node.value).__name__ if isinstance(node, ast.Constant) else place[1]
    try:
        written = ast.unparse(ast.fix_missing_locations(changed))
        with warnings.catch_warnings(action="ignore"):
            compile(written, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    if meaning(ast.parse(written)) == dumped:
        return None
    return Mutant(f"{type(node).__name__}.{kind}", getattr(node, "lineno", 0), written)


@lru_cache(maxsize=512)
def _parsed(text: str) -> tuple[ast.Module, str]:
    tree = ast.parse(text)
    return tree, meaning(tree)


def meaning(tree: ast.Module) -> str:
    """What tells two programs apart: the tree without docstrings."""
    tree = copy.deepcopy(tree)
    for node in ast.walk(tree):
        for field, value in ast.iter_fields(node):
            if isinstance(value, list) and all(isinstance(each, ast.stmt) for each in value):
                kept = [each for each in value if not _is_text(each)]
                setattr(node, field, kept or [ast.Pass() for _ in value[:1]])  # a class of only a docstring
    return ast.dump(tree)


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _edit(node: ast.AST, field: str) -> bool:
    """Put something else into a field, of a kind that the grammar allows there; False where nothing fits."""
    kind, value = fields_of(type(node))[field], getattr(node, field, None)
    if kind.endswith("*"):
        return _edit_list(value)
    new = _other(kind.rstrip("?"), value)
    if new is None:
        return False
    setattr(node, field, new)
    return True


def _edit_list(values: list[Any]) -> bool:
    """One less, or a statement that does nothing where the last may not go."""
    if not values:
        return False
    if len(values) == 1 and isinstance(values[0], ast.stmt):
        is_pass = isinstance(values[0], ast.Pass)
        values[0] = ast.parse("mutant()").body[0] if is_pass else ast.Pass()
    else:
        values.pop()
    return True


def _other(kind: str, value: Any) -> Any:
    match kind:
        case "expr":
            return ast.Name("mutant", ast.Load()) if isinstance(value, ast.Constant | None) else ast.Constant(7_777)
        case "identifier":
            return f"{value}_mutant" if value else None
        case "int":
            return {-1: 114, 114: 115, 115: 114, 97: 114}.get(value)  # conversions of an f-string
        case "constant":
            return _other_constant(value)
        case "arguments":
            return None  # its own fields are edited
    others = [each for each in SUMS[kind].__subclasses__() if not isinstance(value, each)] if kind in SUMS else []
    return others[0]() if others else None


def _other_constant(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int() | float() | complex():
            return value + 1
        case str():
            return f"{value}x"
        case bytes():
            return value + b"x"
        case None:
            return 0
    return None


def with_unused(text: str) -> str:
    """A function, a class, constants and imports that nobody uses, at the end."""
    return f"{text}\n{UNUSED}"


UNUSED = '''
import json as unused_json
from nanochat_core.base.units import count as unused_count


UNUSED_NUMBER: int = 1
UNUSED_TABLE = {"a": (1, 2.0), "b": frozenset({"c"})}
unused_one, *unused_rest = 1, 2, 3


def unused_function(value: int = UNUSED_NUMBER) -> str:
    """Nobody calls it."""
    return f"{value} {UNUSED_TABLE} {unused_count(1)}"


class UnusedError(ValueError):
    """Nobody raises it."""

    size = 3

    def text(self) -> str:
        return unused_function()
'''


def with_comments(text: str) -> tuple[str, int]:
    """A comment at the end of every logical line, and how many that is."""
    lines, number = text.splitlines(keepends=True), 0
    for token in list(tokenize.generate_tokens(io.StringIO(text).readline)):
        if token.type == tokenize.NEWLINE and "#" not in lines[token.start[0] - 1]:
            row = token.start[0] - 1
            lines[row] = f"{lines[row].rstrip()}  # {number}: says nothing that runs\n"
            number += 1
    return "".join(lines), number


def with_other_docstrings(text: str) -> tuple[str, int]:
    """Every docstring and every text under a field says something else, and how many that is."""
    bare = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt) and _is_text(node)]
    for node in sorted(bare, key=lambda node: -node.lineno):  # from the end: earlier places stay right
        text = _spliced(text, node, '"""Something else."""')
    return text, len(bare)


def _spliced(text: str, node: ast.AST, replacement: str) -> str:
    """`text` with the node's place filled otherwise; columns count bytes."""
    lines = text.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    begin = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
    end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
    whole = b"".join(lines)
    return (whole[:begin] + replacement.encode() + whole[end:]).decode()
