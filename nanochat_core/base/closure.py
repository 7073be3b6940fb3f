"""The code that a step can reach, as digests by module.

From a step's body the walk goes from name to name (names.py): a function of ours counts when something reached names
it, in whatever form, and what a module does when it is imported counts for whoever imports it. So an unused function
added beside a used one costs no run, and no edit of a helper's helper is missed. What cannot be followed by name is
listed by `unfollowed`, for a test to refuse. The idea of closing over imports is from Marin's fingerprint.py; going by
the syntax tree instead of by imported modules keeps torch out of it.
"""

import ast
import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from nanochat_core.base import names, syntax
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.source_memo import SourceMemo
from nanochat_core.base.source_tree import LOADED, WHOLE, File, SourceTree, scan

PACKAGE = "nanochat_core"
PACKAGE_ROOT = Path(__file__).resolve().parents[2]
PROGRAM = "__main__"  # of a module: what it does when it is started

# What is in no key although steps name it, and why that cannot make a hit stale: modules, packages, single names.
EXCLUDED = {
    f"{PACKAGE}.base.errors": "wording of messages, and what a command exits with",
    f"{PACKAGE}.base.fingerprint": "makes the keys: made in another way they find nothing",
    f"{PACKAGE}.base.names": "the same",
    f"{PACKAGE}.base.quiet": "the same",
    f"{PACKAGE}.base.scopes": "the same",
    f"{PACKAGE}.base.source_memo": "the same",
    f"{PACKAGE}.base.source_tree": "the same",
    f"{PACKAGE}.base.syntax": "the same",
    f"{PACKAGE}.base.redaction": "what logs, errors and records show of a text",
    f"{PACKAGE}.base.secret_shapes": "the same",
    f"{PACKAGE}.clean_config": "its values are in the key one by one",
    f"{PACKAGE}.config": "the same",
    f"{PACKAGE}.data.licences": "what is recorded of a source beside the result",
    f"{PACKAGE}.observe": "hears what a step tells, and answers nothing",
    f"{PACKAGE}.plan": "what it derives is in the key by value",
    f"{PACKAGE}.steps.pretrain:train_settings": "all that it says is in the key by value",
    f"{PACKAGE}.store": "all that it hands out has the digest that was asked for",
    f"{PACKAGE}.workspace": "where things are kept",
}
# Whoever uses these may reach any name of its own module.
ANY_NAME = {"eval", "exec", "globals", "locals", "sys.modules", "vars"}


def code_closure(entries: Iterable[str], *, root: Path | None = None, memo: SourceMemo | None = None) -> dict[str, str]:
    """Digest of what `entries` reach in each core module, and of the data files that these modules declare.

    An entry is "module" for all of it, as a program or by `importlib`, or "module:name". `root` is the folder that
    holds the package. Nothing is imported. A module reached only by name, such as the one given to `torchrun -m`,
    counts when the name stands as a text of its own in the source. A module that reads a data file declares it as
    `CLOSURE_FILES = ("table.json",)`; its key is then "module:table.json". `memo` saves the parsing of files that it
    has seen.
    """
    return _walk(entries, root, memo).digests()


def unfollowed(entries: Iterable[str], *, root: Path | None = None) -> dict[str, str]:
    """What among the reached cannot be followed by name, as {"module:name": how}: `importlib`, `exec`, `__file__`."""
    return _walk(entries, root, None).unfollowed()


def _walk(entries: Iterable[str], root: Path | None, memo: SourceMemo | None) -> "_Walk":
    """Walked once for each state of the files: a run asks for each step's key several times."""
    tree, chosen = _tree(root or PACKAGE_ROOT), tuple(entries)
    if chosen not in tree.walks:
        walk = _Walk(tree, memo)
        for entry in chosen:
            walk.enter(entry)
        tree.walks[chosen] = walk
        if memo is not None:
            memo.save()
    return tree.walks[chosen]


def function_entry(function: Callable[..., Any]) -> str:
    """The entry that stands for one function."""
    return f"{function.__module__}:{function.__name__}"


class _Walk:
    """Goes from name to name, and from module to module that is loaded on the way."""

    def __init__(self, tree: "SourceTree", memo: SourceMemo | None) -> None:
        self.tree, self.memo = tree, memo
        self._reached: dict[str, set[int]] = {}  # module -> its statements, by number
        self._seen: set[tuple[str, str]] = set()
        self._waiting: list[tuple[str, str]] = []

    def enter(self, entry: str) -> None:
        """Begin at a module, or at a name in one."""
        module, _, name = entry.partition(":")
        if not self.tree.has(module):
            raise ConfigError(f"there is no module {module} under {self.tree.root}", hint="check the step's entries")
        source = self._source(module)
        if name and (source is None or name not in source.defining):
            raise ConfigError(f"{module} defines no {name}", hint="check the step's entries")
        if name:
            self._go(module, name)
        else:
            self._text(module)
        self._drain()

    def digests(self) -> dict[str, str]:
        """One digest for each module of which something was reached; its statements keep their order."""
        found = {}
        for module, numbers in self._reached.items():
            source = self._source(module)
            if source is None:
                continue
            texts = [source.units[number]["digest"] for number in sorted(numbers)]
            found[module] = hashlib.sha256("".join(texts).encode()).hexdigest()
            data = [name for name in source.files if not _is_code(name)]
            found |= {f"{module}:{name}": _file_digest(source.path, name) for name in data}
        return dict(sorted(found.items()))

    def unfollowed(self) -> dict[str, str]:
        reached = [
            (module, source.units[number])
            for module, numbers in sorted(self._reached.items())
            if (source := self._source(module)) is not None
            for number in sorted(numbers)
        ]
        return {
            f"{module}:{unit['names'][0] if unit['names'] else 'statement'}": ", ".join(how)
            for module, unit in reached
            if (how := [*unit["dynamic"], *self._own_places(unit["paths"])])
        }

    def _own_places(self, paths: Iterable[str], *, is_behind: bool = False) -> Iterator[str]:
        """How a name of a module that is in no key stands for the folder of the source, where data may be read from."""
        for path in paths:
            module, name = self.tree.split(path)
            if (is_behind or _is_excluded(module)) and module in self.tree.files:
                source = _source(module, self.tree.files[module], self.memo)
                found = [each for number in source.defining.get(name, ()) for each in source.units[number]["dynamic"]]
                yield from names.OWN_PLACE.intersection(found)
                yield from self._own_places(source.bound.get(name, ()), is_behind=True)

    def _go(self, module: str, name: str) -> None:
        if (module, name) not in self._seen and f"{module}:{name}" not in EXCLUDED:
            self._seen.add((module, name))
            self._waiting.append((module, name))

    def _drain(self) -> None:
        while self._waiting:
            module, name = self._waiting.pop()
            if name == LOADED:
                self._load(module)
            elif (source := self._source(module)) is not None:
                self._go(module, LOADED)
                if name == WHOLE:
                    self._whole(module, source)
                elif name == PROGRAM:
                    self._program(module, source)
                else:
                    self._name(module, source, name)

    def _load(self, module: str) -> None:
        """What runs when a module is imported: whatever does more than to bind a name, in it and in its imports."""
        for parent in self.tree.parents(module):
            self._go(parent, LOADED)
        package, _, stem = module.rpartition(".")
        holder = self._source(package)
        if holder is not None and stem in holder.defining and module not in holder.bound.get(stem, ()):
            self._go(package, stem)  # the package has another thing of that name
        source = self._source(module)
        if source is None:
            return
        self._loads(source.loads)
        for number in source.numbers(guard=False):
            self._unit(module, source, number)

    def _loads(self, modules: Iterable[str]) -> None:
        for module in modules:
            if self.tree.has(module):
                self._go(module, LOADED)

    def _whole(self, module: str, source: "_Source") -> None:
        for number in range(len(source.units)):
            self._unit(module, source, number)
        for path in (each for paths in source.bound.values() for each in paths):
            found, name = self.tree.split(path)
            if name != WHOLE:
                self._go(found, name)

    def _program(self, module: str, source: "_Source") -> None:
        for number in source.numbers(guard=True):
            self._loads(source.units[number]["loads"])
            self._unit(module, source, number)

    def _name(self, module: str, source: "_Source", name: str) -> None:
        for number in source.defining.get(name, ()):
            self._unit(module, source, number)
        for path in source.bound.get(name, ()):
            self._go(*self.tree.split(path))
        if name not in source.defining and not any(unit["stars"] for unit in source.units):
            self._go(module, WHOLE)  # made in a way that is not seen here

    def _unit(self, module: str, source: "_Source", number: int) -> None:
        reached = self._reached.setdefault(module, set())
        if number in reached:
            return
        reached.add(number)
        for name in filter(_is_code, source.files):
            package = module if source.path.name == "__init__.py" else module.rpartition(".")[0]
            self._text(f"{package}.{name.removesuffix('.py')}")
        unit = source.units[number]
        for name in unit["own"]:
            for other in source.defining.get(name, ()):
                self._unit(module, source, other)
        for path in unit["paths"]:
            self._go(*self.tree.split(path))
            for found in self.tree.below(path):  # a package that is handed around: any of its modules
                self._go(found, WHOLE)
        for text in unit["texts"]:
            self._text(text)
        self._loads(unit["imports"])
        if ANY_NAME.intersection(unit["dynamic"]):
            self._go(module, WHOLE)
        for package in unit["stars"]:
            for found in [package, *self.tree.submodules(package)]:
                self._go(found, WHOLE)

    def _text(self, text: str) -> None:
        """A program to start, or "module:name" to load; a module that is no program is used in ways not seen here."""
        module, _, name = text.partition(":")
        if not self.tree.has(module):
            found, name = self.tree.split(module)
            self._go(found, name)
            return
        source = self._source(module)
        is_program = source is not None and source.numbers(guard=True)
        self._go(module, name or (PROGRAM if is_program else WHOLE))

    def _source(self, module: str) -> "_Source | None":
        file = self.tree.files.get(module)
        return None if file is None or _is_excluded(module) else _source(module, file, self.memo)


@lru_cache(maxsize=1024)
def _is_excluded(module: str) -> bool:
    """By itself or with the package that it is in."""
    return any(module == name or module.startswith(f"{name}.") for name in EXCLUDED)


@dataclass(frozen=True)
class _Source:
    """What a closure needs to know of one module."""

    path: Path
    units: list[names.Facts]
    """Its statements."""
    bound: dict[str, list[str]]
    """Its names that are imports of ours, each with all that it may mean."""
    files: list[str]
    """Data files that it declares."""
    defining: dict[str, list[int]] = field(default_factory=dict)
    """Its names, each with the numbers of the statements that bind it."""
    loads: set[str] = field(default_factory=set)
    """Modules that are loaded with it."""

    def __post_init__(self) -> None:
        for number, unit in enumerate(self.units):
            self.loads.update(() if unit["guard"] else unit["loads"])
            for name in unit["names"]:
                self.defining.setdefault(name, []).append(number)

    def numbers(self, *, guard: bool) -> list[int]:
        """Of the statements that do something: when it is imported, or when it is started."""
        return [number for number, unit in enumerate(self.units) if unit["guard"] == guard and not unit["quiet"]]


@lru_cache(maxsize=1024)  # closures share most of their modules
def _source(module: str, file: File, memo: SourceMemo | None) -> _Source:
    """Read again when the file changed."""
    content = file.path.read_bytes()
    package = module if file.path.name == "__init__.py" else module.rpartition(".")[0]
    key = hashlib.sha256(f"{_reader()} {module} {package} {hashlib.sha256(content).hexdigest()}".encode()).hexdigest()
    facts = memo.get(key) if memo is not None else None
    if facts is None:
        facts = _facts(content, file.path, module, package)
        if memo is not None:
            memo.put(key, facts)
    return _Source(path=file.path, **facts)


@lru_cache(maxsize=1)
def _reader() -> str:
    """What decides the facts of a file besides the file: the modules that read it."""
    readers = [
        Path(__file__).with_name(f"{name}.py")
        for name in ("closure", "names", "quiet", "scopes", "source_tree", "syntax")
    ]
    return hashlib.sha256(b"".join(path.read_bytes() for path in readers)).hexdigest()


def _facts(content: bytes, path: Path, module: str, package: str) -> dict[str, Any]:
    """The fields of a `_Source` that the text decides, as JSON values."""
    if path.suffix != ".py":  # a compiled module: one statement, of which nothing is known
        return {**names.facts(syntax.parse(f"{content!r}()".encode(), path), package, PACKAGE), "files": []}
    tree = syntax.parse(content, path)
    files = list(_declared_files(tree, module))
    found = names.facts(tree, package, PACKAGE)
    if files:  # it has said what it reads beside itself
        for unit in found["units"]:
            unit["dynamic"] = [each for each in unit["dynamic"] if each != "__file__"]
    return {**found, "files": files}


def _tree(root: Path) -> SourceTree:
    return _tree_of(root, tuple(scan(root / PACKAGE, PACKAGE)))


@lru_cache(maxsize=2)
def _tree_of(root: Path, files: tuple[tuple[str, File], ...]) -> SourceTree:
    return SourceTree(root, files)


def _declared_files(tree: ast.Module, module: str) -> tuple[str, ...]:
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == "CLOSURE_FILES" for target in targets):
            return _literal_names(node, module)
    return ()


def _literal_names(node: ast.stmt, module: str) -> tuple[str, ...]:
    try:
        given = ast.literal_eval(node.value)  # type: ignore[attr-defined]
    except ValueError:
        given = None
    if not isinstance(given, tuple | list) or not all(isinstance(name, str) for name in given):
        raise ConfigError(
            f"CLOSURE_FILES in {module} is not a plain tuple of file names",
            hint='write it out, for example CLOSURE_FILES = ("table.json",)',
        )
    return tuple(given)


def _is_code(file: str) -> bool:
    """Whether a declared file is a module of its own, which is read as one: its comments do not count."""
    return file.endswith(".py")


def _file_digest(source: Path, name: str) -> str:
    path = source.parent / name
    if not path.is_file():
        raise ConfigError(
            f"{source} declares the data file {name}, and {path} is not there",
            hint="correct CLOSURE_FILES, or put the file back",
        )
    return hashlib.sha256(path.read_bytes()).hexdigest()
