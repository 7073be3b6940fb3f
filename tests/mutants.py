"""Edits of Python source for the tests of the cache key: those that mean something else, and those that do not.

An edit is made in the text at one node of the syntax tree, so everything around it stays as it was written. What makes
an edit a mutant is that the program's tree without docstrings differs; whether a key notices is for the tests to say.
"""

import ast
import io
import random
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

SWAPPED: dict[type[ast.AST], type[ast.AST]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.MatMult: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitXor: ast.BitAnd,
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """Another program."""

    kind: str
    line: int
    text: str


def mutants(text: str, *, number: int, draw: random.Random, within: str | None = None) -> list[Mutant]:
    """At most so many edits that change what `text` does; `within` names the function to stay in."""
    tree, dumped = _parsed(text)
    nodes = list(_running(_function(tree, within) if within else tree))
    draw.shuffle(nodes)
    found: list[Mutant] = []
    for node in nodes:
        if len(found) == number:
            break
        if (edit := _edit(node)) is not None:
            changed = _spliced(text, node, edit[1])
            if ast.dump(ast.parse(changed)) != dumped:
                found.append(Mutant(edit[0], node.lineno, changed))  # type: ignore[attr-defined]
    return found


@lru_cache(maxsize=512)
def _parsed(text: str) -> tuple[ast.Module, str]:
    tree = ast.parse(text)
    return tree, ast.dump(tree)


def _function(tree: ast.Module, name: str) -> ast.FunctionDef:
    [found] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    return found


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Nodes that are part of what runs, and whose place in the text is known: not docstrings, not f-strings' parts."""
    for child in ast.iter_child_nodes(node):
        is_text = isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
        is_release = isinstance(child, ast.Assign) and ast.unparse(child.targets[0]) == "__version__"
        is_typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not (is_text or is_release or is_typing or isinstance(child, ast.JoinedStr | ast.match_case)):
            yield child
            yield from _running(child)


def _edit(node: ast.AST) -> tuple[str, str] | None:
    match node:
        case ast.Constant(value=bool() as value):
            return "bool", str(not value)
        case ast.Constant(value=int() | float() as value):
            return "number", repr(value + 1)
        case ast.Constant(value=str() as value):
            return "text", repr(value + "x")
        case ast.Compare(ops=[op, *rest]):
            return "comparison", _with(ast.Compare(node.left, [SWAPPED[type(op)](), *rest], node.comparators))
        case ast.BinOp(op=op):
            return "operator", _with(ast.BinOp(node.left, SWAPPED[type(op)](), node.right))
        case ast.BoolOp(op=op):
            return "and/or", _with(ast.BoolOp(SWAPPED[type(op)](), node.values))
        case ast.UnaryOp(op=ast.Not()):
            return "not", _with(node.operand)
        case ast.Call(args=[first, second, *rest]) if not isinstance(second, ast.Starred):
            return "arguments", _with(ast.Call(node.func, [second, first, *rest], node.keywords))
        case ast.Call(keywords=[_, *rest]):
            return "left out argument", _with(ast.Call(node.func, node.args, rest))
        case ast.Return(value=ast.AST()):
            return "result", "return None"
        case ast.Assign() | ast.AugAssign() | ast.Raise():
            return "left out statement", "pass"
    return None


def _with(node: ast.expr) -> str:
    return f"({ast.unparse(ast.fix_missing_locations(node))})"


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
    bare = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    ]
    for node in sorted(bare, key=lambda node: -node.lineno):  # from the end: earlier places stay right
        text = _spliced(text, node, '"""Something else."""')
    return text, len(bare)
