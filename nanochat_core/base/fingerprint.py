"""The cache key of a step: what decides its result, and nothing else.

A step runs again when its identity config, the content of its inputs, the code it reaches, or the version of a deciding
package changed. Code means the source of every core module that the entry point imports, directly or not, parsed and
written out again, so that comments, docstrings and formatting do not count. Hashing only the task function's own text
(what orchestrators do by default) serves stale results after an edit in a helper; hashing the whole repository trains
again after an edit in the README. The idea of closing over imports is from Marin's fingerprint.py; going by the syntax
tree instead of by imported modules keeps torch out of it. A Python release that prints a syntax tree in another way
costs one needless run, never a stale result.
"""

import ast
import dataclasses
import hashlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import ConfigError
from nanochat_core.base.source_memo import SourceMemo

PACKAGE = "nanochat_core"
PACKAGE_ROOT = Path(__file__).resolve().parents[2]

EXCLUDED = frozenset(
    {
        f"{PACKAGE}.config",  # its values are in the fingerprint one by one
        f"{PACKAGE}.base.errors",  # wording of messages: it cannot change a result
        f"{PACKAGE}.base.units",  # how numbers are printed
    }
)


def canonical_json(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, ASCII, no NaN; the same in every process."""
    return json.dumps(_plain(value, "value"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any, where: str) -> Any:
    """`value` in JSON's own types; `where` is the path to it, for the error."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return _finite(float(value), where)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {_text_key(key, where): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    raise ConfigError(
        f"{where} is a {type(value).__name__}, which has no fixed JSON form", hint="pass numbers, text, lists or dicts"
    )


def _finite(value: float, where: str) -> float:
    if not math.isfinite(value):
        raise ConfigError(f"{where} is {value}, which JSON cannot hold", hint="leave the value out, or use None")
    return value


def _text_key(key: Any, where: str) -> str:
    # json.dumps would turn 1 and "1" into the same key without a word.
    if not isinstance(key, str):
        raise ConfigError(f"{where} has the key {key!r}, which is not text", hint="use str keys")
    return str(key)


def fingerprint(
    *, step: str, config: Any, inputs: Mapping[str, str], code: Mapping[str, str], packages: Mapping[str, str]
) -> str:
    """The cache key of one step, as 64 hex digits."""
    return identity_digest({"step": step, "config": config, "inputs": inputs, "code": code, "packages": packages})


def identity_digest(identity: Any) -> str:
    """sha256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Installed versions, read without importing; "+cpu" and the like are cut off: they name a build, not a release."""
    return {name: _public_version(name) for name in sorted(names)}


def _public_version(name: str) -> str:
    try:
        return metadata.version(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return "absent"


def code_closure(entries: Iterable[str], *, root: Path | None = None, memo: SourceMemo | None = None) -> dict[str, str]:
    """Digest of the normalised source of each core module that `entries` reach, and of the data files they declare.

    `root` is the folder that holds the package. Nothing is imported. A module reached only by name, such as the one
    given to `torchrun -m`, counts when the name stands as a text of its own in the source. A module that reads a data
    file declares it as `CLOSURE_FILES = ("table.json",)`; its key is then "module:table.json". `memo` saves the parsing
    of files that it has seen.
    """
    tree = _SourceTree(root or PACKAGE_ROOT)
    waiting, digests, seen = list(entries), {}, set()
    for entry in waiting:
        if not tree.has(entry):
            raise ConfigError(f"there is no module {entry} under {tree.root}", hint="check the step's entry module")
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        waiting.extend(tree.parents(module))
        path = tree.path(module)
        if module in EXCLUDED or path is None:  # no path: a folder without __init__.py, nothing to hash
            continue
        source = _source(module, path, path.stat().st_mtime_ns, path.stat().st_size, memo)
        digests[module] = source.digest
        digests |= {f"{module}:{name}": _file_digest(path, name) for name in source.files}
        waiting.extend(tree.reached(source))
    if memo is not None:
        memo.save()
    return dict(sorted(digests.items()))


def function_code(function: Callable[..., Any]) -> dict[str, str]:
    """Digest of one function's source and of what it names in its own module, as {"module.function": digest}.

    For modules that hold many steps' functions: an edit in one of them concerns that one only.
    """
    defined = _definitions(inspect.getsource(inspect.getmodule(function)))  # type: ignore[arg-type]
    waiting, parts = [function.__name__], {}
    while waiting:
        name = waiting.pop()
        if name in parts or name not in defined:
            continue
        parts[name], named = defined[name]
        waiting.extend(named)
    return {f"{function.__module__}.{function.__name__}": identity_digest(parts)}


@lru_cache(maxsize=64)
def _definitions(source: str) -> dict[str, tuple[str, frozenset[str]]]:
    """What a module defines: name -> (normalised source, names in it)."""
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for node in normalised(ast.parse(source)).body:
        named = frozenset(each.id for each in ast.walk(node) if isinstance(each, ast.Name))
        found |= dict.fromkeys(_defined_names(node), (ast.unparse(node), named))
    return found


def _defined_names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a closure needs to know of one module."""

    digest: str
    names: list[str]
    """Names and texts in it that may be modules of ours."""
    stars: list[str]
    """Packages that it imports everything from."""
    files: list[str]
    """Data files that it declares."""


@lru_cache(maxsize=1024)  # a run asks for two dozen closures that share most of their modules
def _source(module: str, path: Path, _mtime_ns: int, _num_bytes: int, memo: SourceMemo | None) -> _Source:
    """Read again when the file changed."""
    content = path.read_bytes()
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    if memo is None:
        return _Source(**_facts(content, path, module, package))
    key = identity_digest([_reader(), module, package, hashlib.sha256(content).hexdigest()])
    facts = memo.get(key)
    if facts is None:
        facts = _facts(content, path, module, package)
        memo.put(key, facts)
    return _Source(**facts)


@lru_cache(maxsize=1)
def _reader() -> str:
    """What decides the facts of a file besides the file: this module, and the Python that parses and prints."""
    return f"{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()} {sys.version}"


def _facts(content: bytes, path: Path, module: str, package: str) -> dict[str, Any]:
    """The fields of a `_Source`, as JSON values."""
    tree = normalised(_parse(content, path))
    nodes = (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom | ast.Constant))
    named = [pair for node in nodes for pair in _named(node, package)]
    ours = [(name, is_star) for name, is_star in named if name == PACKAGE or name.startswith(f"{PACKAGE}.")]
    return {
        "digest": hashlib.sha256(ast.unparse(tree).encode()).hexdigest(),
        "names": sorted({name for name, is_star in ours if not is_star}),
        "stars": sorted({name for name, is_star in ours if is_star}),
        "files": list(_declared_files(tree, module)),
    }


def normalised(tree: ast.Module) -> ast.Module:
    """`tree` without what cannot change a result."""
    return ast.fix_missing_locations(_Normaliser().visit(tree))


class _Normaliser(ast.NodeTransformer):
    """Drops bare strings (docstrings, also those under fields), type-checking-only code and the release number."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        if not _is_type_checking(node.test):
            return self.generic_visit(node)
        return [kept for child in node.orelse if (kept := self.visit(child)) is not None]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if node.module == "typing":
            node.names = [alias for alias in node.names if alias.name != "TYPE_CHECKING"]
        return node if node.names else None

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        return None if names == ["__version__"] else self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        visited = super().generic_visit(node)
        # A body may have held nothing but its docstring, and an empty one is no Python.
        if isinstance(visited, ast.stmt | ast.ExceptHandler) and getattr(visited, "body", None) == []:
            visited.body = [ast.Pass()]  # type: ignore[union-attr]
        return visited


def _is_type_checking(test: ast.expr) -> bool:
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)
    return name == "TYPE_CHECKING"


class _SourceTree:
    """Module names and their files below one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, module: str) -> Path | None:
        base = self.root.joinpath(*module.split("."))
        candidates = (base / "__init__.py", base.with_name(f"{base.name}.py"))
        return next((path for path in candidates if path.is_file()), None)

    def has(self, module: str) -> bool:
        is_ours = module == PACKAGE or module.startswith(f"{PACKAGE}.")
        if not is_ours or not all(part.isidentifier() for part in module.split(".")):
            return False
        return self.path(module) is not None or self.root.joinpath(*module.split(".")).is_dir()

    def parents(self, module: str) -> list[str]:
        parts = module.split(".")
        return [".".join(parts[:count]) for count in range(1, len(parts))]

    def submodules(self, package: str) -> list[str]:
        folder = self.root.joinpath(*package.split("."))
        return [f"{package}.{path.stem}" for path in folder.glob("*.py") if path.stem != "__init__"]

    def reached(self, source: _Source) -> set[str]:
        """Our modules that `source` names."""
        # What a star brings in depends on the package; taking all of it can only run a step too often.
        brought = {name for package in source.stars for name in self.submodules(package)}
        return {name for name in brought.union(source.names) if self.has(name)}


def _named(node: ast.AST, package: str) -> Iterator[tuple[str, bool]]:
    """What may be modules, each with whether everything in it is meant."""
    if isinstance(node, ast.Import):
        yield from ((alias.name, False) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        origin = _origin(node, package)
        yield origin, False
        for alias in node.names:
            yield (origin, True) if alias.name == "*" else (f"{origin}.{alias.name}", False)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value, False


def _origin(node: ast.ImportFrom, package: str) -> str:
    """The absolute name of what a `from ... import` reads from."""
    if node.level == 0:
        return node.module or ""
    parts = package.split(".")
    base = parts[: len(parts) - node.level + 1]
    return ".".join([*base, node.module] if node.module else base)


def _parse(content: bytes, path: Path) -> ast.Module:
    try:
        return ast.parse(content, filename=str(path))
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{path} is not valid Python: {error}", hint="fix the file, then run again") from error


def _declared_files(tree: ast.Module, module: str) -> tuple[str, ...]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "CLOSURE_FILES" for target in targets):
            return _literal_names(node, module)
    return ()


def _literal_names(node: ast.stmt, module: str) -> tuple[str, ...]:
    try:
        names = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    except ValueError:
        names = None
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(
            f"CLOSURE_FILES in {module} is not a plain tuple of file names",
            hint='write it out, for example CLOSURE_FILES = ("table.json",)',
        )
    return tuple(names)


def _file_digest(source: Path, name: str) -> str:
    path = source.parent / name
    if not path.is_file():
        raise ConfigError(
            f"{source} declares the data file {name}, and {path} is not there",
            hint="correct CLOSURE_FILES, or put the file back",
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()
