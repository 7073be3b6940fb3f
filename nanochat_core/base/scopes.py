"""Which names of a function are its own, so that a variable does not count as the module's name that it hides."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


@dataclass(frozen=True)
class Scope:
    """The names of one function."""

    local: set[str]
    """Bound in it: never the module's. Imports are not among them, since what they mean is followed."""
    outer: set[str]
    """Declared `global`, or imported as well as bound: maybe the module's."""


def scope_of(function: Function) -> Scope:
    """The names that a function binds, as Python's compiler tells them."""
    args = function.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]
    local = {each.arg for each in named if each is not None}
    outer: set[str] = set()
    body = [function.body] if isinstance(function, ast.Lambda) else function.body
    for node in (inner for each in body for inner in _in_scope(each)):
        local.update(_bound(node))
        if isinstance(node, ast.Global):
            outer.update(node.names)
        if isinstance(node, ast.Import | ast.ImportFrom):
            outer.update(alias.asname or alias.name.split(".")[0] for alias in node.names)
    return Scope(local - outer - _nonlocal(body), outer)


def _nonlocal(body: list[ast.expr] | list[ast.stmt]) -> set[str]:
    nodes = (inner for each in body for inner in _in_scope(each))
    return {name for node in nodes if isinstance(node, ast.Nonlocal) for name in node.names}


def _bound(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name


def _in_scope(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function's own scope: not the bodies of inner ones, nor the targets of comprehensions."""
    if isinstance(node, COMPREHENSIONS):
        for inner in ast.walk(node):  # only `:=` binds outside of a comprehension
            if isinstance(inner, ast.NamedExpr):
                yield inner.target
        return
    yield node
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
        return  # a `:=` in a default is left out: its name then counts as the module's as well
    for child in ast.iter_child_nodes(node):
        yield from _in_scope(child)
