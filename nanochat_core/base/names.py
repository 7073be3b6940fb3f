"""What each statement of a module defines and what it names, so that a closure can go from name to name.

An edit of a function must count for whoever calls it, and for nobody else. A quiet statement (quiet.py) counts where
one of its names is reached, any other wherever its module is imported. A local variable of a function hides the
module's name, as in Python; in a class and wherever that is not certain, both count.
"""

import ast
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from nanochat_core.base import syntax
from nanochat_core.base.quiet import Quiet, origin
from nanochat_core.base.scopes import Scope, scope_of

Facts = dict[str, Any]
Bindings = dict[str, list[str]]

# Ways to reach something that this file cannot follow, by full name.
DYNAMIC = frozenset({
    "__import__", "compile", "eval", "exec", "globals", "importlib.__import__", "importlib.import_module",
    "importlib.machinery", "importlib.metadata.entry_points", "importlib.reload", "importlib.resources",
    "importlib.util", "inspect.get_annotations", "inspect.getdoc", "inspect.getfile", "inspect.getmodule",
    "inspect.getsource", "inspect.getsourcefile", "inspect.getsourcelines", "inspect.signature", "locals", "pkgutil",
    "pydoc.locate", "runpy", "sys.modules", "typing.get_type_hints", "vars",
})  # fmt: skip
DYNAMIC_ATTRIBUTES = frozenset({
    "__annotations__", "__builtins__", "__code__", "__doc__", "__file__", "__globals__", "__loader__", "__path__",
    "__spec__", "__subclasses__", "co_filename", "f_globals",
})  # fmt: skip
LOADERS = frozenset({"importlib.import_module", "__import__", "importlib.util"})
DOTTED = re.compile(r"(?<![\w.])[a-zA-Z_]\w*(?:\.[a-zA-Z_]\w*)+")
IMPORTED = re.compile(r"\bfrom ([\w.]+) import (\w+)\b(?! *[,(]| as\b)")
MODULE_AND_NAME = re.compile(r"[a-zA-Z_]\w*(\.[a-zA-Z_]\w*)+(:[a-zA-Z_]\w*)?")
OWN_PLACE = frozenset({"__file__", "__path__", "__doc__", "__spec__", "__loader__", "__builtins__"})


def facts(tree: ast.Module, package: str, ours: str) -> Facts:
    """The statements of a normalised module as JSON values; `ours` is the package whose names are followed."""
    statements = [part for node in tree.body for part in _parts(node)]
    bound: Bindings = {}
    for node in statements:
        for name, path in _imported(_of_module(node), package):
            bound[name] = list(dict.fromkeys([*bound.get(name, []), path]))
    defined = {name for node in statements for name in _defined(node)} | bound.keys()
    reader = _Reader(package, ours, bound, defined)
    return {"units": [reader.unit(node) for node in statements], "bound": reader.own(bound)}


def _parts(node: ast.stmt) -> Iterator[ast.stmt]:
    """A statement, or one for each name of an import: an import added to a line is another statement."""
    if isinstance(node, ast.Import):
        yield from (ast.Import([alias]) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (ast.ImportFrom(node.module, [alias], node.level) for alias in node.names)
    else:
        yield node


def _of_module(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run in the module's own scope when it is imported; a class is one of its own."""
    yield node
    for name, value in ast.iter_fields(node):
        is_inner = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef)
        if is_inner and name == "body":
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST):
                yield from _of_module(child)


def _imported(nodes: Iterable[ast.AST], package: str) -> Iterator[tuple[str, str]]:
    """(name, what it is) of each import: full dotted names."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield (alias.asname, alias.name) if alias.asname else (alias.name.split(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom):
            source = origin(node, package)
            yield from ((alias.asname or alias.name, f"{source}.{alias.name}") for alias in node.names)


def _defined(node: ast.stmt) -> set[str]:
    """Every name of the module that a statement may bind or take away, however it is written."""
    names: set[str] = set()
    for each in _of_module(node):
        match each:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                names.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                names.add(name)
            case ast.MatchMapping(rest=str(name)):
                names.add(name)
            case ast.alias():
                names.add(each.asname or each.name.split(".")[0])
    for each in ast.walk(node):  # in a function or a class
        names.update(each.names if isinstance(each, ast.Global) else ())
    return names


class _Reader:
    """Reads the statements of one module."""

    def __init__(self, package: str, ours: str, bound: Bindings, defined: set[str]) -> None:
        self.package, self.ours, self.bound, self.defined = package, ours, bound, defined
        self.quiet = Quiet(package, ours, bound, defined)

    def own(self, bound: Bindings) -> Bindings:
        ours = {name: [path for path in paths if self.quiet.is_ours(path)] for name, paths in bound.items()}
        return {name: paths for name, paths in ours.items() if paths}

    def unit(self, node: ast.stmt) -> Facts:
        """digest; names: what it binds; own: names of this module that it uses; paths: dotted names of ours;
        texts: those that stand there as a text; imports: modules that it loads (of a function: when it is called);
        loads: with its own module; guard: it runs in a program only."""
        used = _Uses(self)
        used.read(node)
        is_guard = isinstance(node, ast.If) and _is_main(node.test)
        return {
            "digest": syntax.digest(node)[:32],
            "names": sorted(_defined(node)),
            "own": sorted(used.own & self.defined),
            "paths": sorted(used.paths),
            "texts": sorted(used.texts),
            "imports": sorted(used.imports),
            "loads": sorted(self._loads(node)),
            "stars": sorted(used.stars),
            "dynamic": sorted(used.dynamic),
            "quiet": not is_guard and self.quiet.is_quiet(node),
            "guard": is_guard,
        }

    def _loads(self, node: ast.stmt) -> Iterator[str]:
        """Modules of ours that are loaded with this one."""
        for each in [*_of_module(node), *(_class_scope(node))]:
            yield from self._imports(each)

    def _imports(self, node: ast.AST) -> Iterator[str]:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom):
            source = origin(node, self.package)
            names = [source, *(f"{source}.{name}" for name in names if name != "*")]
        yield from (name for name in names if self.quiet.is_ours(name))


class _Uses(ast.NodeVisitor):
    """What one statement names."""

    def __init__(self, reader: _Reader) -> None:
        self.reader = reader
        self.scopes: list[Scope] = []
        self.loaded: set[str] = set()
        self.own: set[str] = set()
        self.paths: set[str] = set()
        self.texts: set[str] = set()
        self.imports: set[str] = set()
        self.stars: set[str] = set()
        self.dynamic: set[str] = set()

    def read(self, node: ast.stmt) -> None:
        # imports inside of functions: one name may stand for several things, each counts
        self.local = list(_imported(ast.walk(node), self.reader.package))
        self.visit(node)
        # imported in a class or into a global: whoever has these uses it
        inner = [each for each in ast.walk(node) if isinstance(each, ast.FunctionDef | ast.ClassDef)]
        kept = {pair for each in inner for pair in _imported(ast.walk(each), self.reader.package)}
        self.paths |= {path for name, path in kept if name not in self.loaded and self.reader.quiet.is_ours(path)}

    def _means(self, name: str) -> list[str]:
        found = [path for each, path in self.local if each == name] + self.reader.bound.get(name, [])
        return found or ([] if name in self.reader.defined else [name])

    def _is_local(self, name: str) -> bool:
        for scope in reversed(self.scopes):
            if name in scope.outer:
                return False
            if name in scope.local:
                return True
        return False

    def _name(self, name: str, attributes: list[str]) -> None:
        self.loaded.add(name)
        if self._is_local(name):
            return
        self.own.add(name)
        for base in self._means(name):
            path = ".".join([base, *attributes])
            if self.reader.quiet.is_ours(base):
                self.paths.add(path)
            else:
                self._external(path)
        if name in OWN_PLACE:
            self.dynamic.add(name)

    def _external(self, path: str) -> None:
        parts = path.removeprefix("builtins.").split(".")
        found = {".".join(parts[:count]) for count in range(1, len(parts) + 1)} & DYNAMIC
        self.dynamic |= found

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Load):
            self._name(node.id, [])
        elif not self._is_local(node.id):
            self.own.add(node.id)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        parts, base = [node.attr], node.value
        while isinstance(base, ast.Attribute):
            parts.append(base.attr)
            base = base.value
        self.dynamic |= DYNAMIC_ATTRIBUTES & set(parts)
        if isinstance(base, ast.Name):
            self._name(base.id, parts[::-1])
        else:
            self.visit(base)

    def visit_Call(self, node: ast.Call) -> None:
        """A module named by a plain text is followed by that text, all of it."""
        before = set(self.dynamic)
        if not (isinstance(node.func, ast.Name) and node.func.id == "vars" and node.args):
            self.visit(node.func)
        text = node.args[0].value if node.args and isinstance(node.args[0], ast.Constant) else None
        is_loaded = bool(self.dynamic - before) and self.dynamic - before <= LOADERS
        if is_loaded and isinstance(text, str) and not text.startswith("."):
            self.dynamic = before
            self.paths |= {text} if self.reader.quiet.is_ours(text) else set()
        self._programs(node.args)
        for given in [*node.args, *node.keywords]:
            self.visit(given)

    def visit_List(self, node: ast.List | ast.Tuple) -> None:
        self._programs(node.elts)
        self.generic_visit(node)

    visit_Tuple = visit_List

    def _programs(self, words: Sequence[ast.expr]) -> None:
        """A module that Python is told to start."""
        for word, named in itertools.pairwise([*words, ast.Constant(None)]):
            is_text = isinstance(named, ast.Constant) and isinstance(named.value, str)
            if isinstance(word, ast.Constant) and word.value == "-m" and not is_text:
                self.dynamic.add("a program's name put together")

    def visit_Import(self, node: ast.Import) -> None:
        self._import(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        self._import(node)
        source = origin(node, self.reader.package)
        if any(alias.name == "*" for alias in node.names):
            self.stars |= {source} if self.reader.quiet.is_ours(source) else set()

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        self.imports.update(self.reader._imports(node))
        for _, path in _imported([node], self.reader.package):
            if not self.reader.quiet.is_ours(path):
                self._external(path if path not in ("importlib", "sys", "inspect", "pkgutil", "runpy") else "")

    def visit_Constant(self, node: ast.Constant) -> None:
        text = node.value
        if not isinstance(text, str):
            return
        if re.search(rf"\b{self.reader.ours}\.([\w.]*\.)?$", text):
            self.dynamic.add("a module's name put together")
        elif MODULE_AND_NAME.fullmatch(text):
            self.texts.add(text)
        else:  # a program in a text: `from nanochat_core.x import main; main()`
            imported = dict(IMPORTED.findall(text))
            named = (module for module in DOTTED.findall(text) if self.reader.quiet.is_ours(module))
            self.texts.update(f"{module}:{imported.get(module, '*')}" for module in named)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        """Hints decide nothing in a function that nobody looks into; a decorator may be one who does."""
        args = node.args
        for each in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
            if each is not None and each.annotation is not None and node.decorator_list:
                self._hint(each.annotation)
        if node.returns is not None and node.decorator_list:
            self._hint(node.returns)
        self._visit_all([*node.decorator_list, *args.defaults, *args.kw_defaults, *getattr(node, "type_params", [])])
        self._visit_all(node.body, scope_of(node))

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._visit_all([*node.args.defaults, *node.args.kw_defaults])
        self._visit_all([node.body], scope_of(node))

    def visit_ListComp(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> None:
        """What the first loop goes over is worked out outside, where the targets do not hide anything."""
        self.visit(node.generators[0].iter)
        targets = {each.id for part in node.generators for each in ast.walk(part.target) if isinstance(each, ast.Name)}
        inner = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.comprehension)]
        for number, part in enumerate(node.generators):
            inner += [part.target, *part.ifs, *([part.iter] if number else [])]
        self._visit_all(inner, Scope(targets, set()))

    visit_SetComp = visit_DictComp = visit_GeneratorExp = visit_ListComp

    def _visit_all(self, nodes: Sequence[ast.AST | None], scope: Scope | None = None) -> None:
        self.scopes += [scope] if scope else []
        for node in nodes:
            if node is not None:
                self.visit(node)
        self.scopes = self.scopes[:-1] if scope else self.scopes

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.visit(node.target)
        self._hint(node.annotation)
        if node.value is not None:
            self.visit(node.value)

    def _hint(self, node: ast.expr) -> None:
        """Texts in it are names as well."""
        self.visit(node)
        for each in ast.walk(node):
            if isinstance(each, ast.Constant) and isinstance(each.value, str):
                try:
                    self.visit(ast.parse(each.value, mode="eval").body)
                except SyntaxError:
                    continue


def _class_scope(node: ast.AST) -> Iterator[ast.AST]:
    """What runs in the bodies of the classes of a statement."""
    for each in _of_module(node):
        for child in each.body if isinstance(each, ast.ClassDef) else []:
            yield from _of_module(child)
            yield from _class_scope(child)


def _is_main(test: ast.expr) -> bool:
    """`__name__ == "__main__"`."""
    return isinstance(test, ast.Compare) and isinstance(test.left, ast.Name) and test.left.id == "__name__"
