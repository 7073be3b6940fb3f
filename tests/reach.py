"""What a function reaches at run time, read from its bytecode: another witness than the cache key's, which reads text.

A global name that the bytecode loads is looked up in the function's own module, as Python would: a function, a class
(all of it), a module of ours (and the attribute that is loaded next), or a value, whose statement is found in the file.
"""

import ast
import dis
import importlib
import inspect
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

OURS = "nanochat_core"
Place = tuple[str, str]  # module, name in it


def reached(functions: list[Any], *, not_through: tuple[str, ...] = ()) -> set[Place]:
    """The names of our modules that these functions reach; what modules `not_through` call is not looked at."""
    waiting = [(each.__module__, each.__name__) for each in functions]
    found: set[Place] = set()
    while waiting:
        place = waiting.pop()
        if place in found:
            continue
        found.add(place)
        module = _loaded_module(place[0])
        if module is None or place[0].startswith(not_through):
            continue
        for code in _codes(getattr(module, place[1], None), place[0]):
            waiting += [each for each in _loaded(code, module) if each not in found]
    return found


def _loaded_module(name: str) -> ModuleType | None:
    """None where it is not ours, or needs what this machine has not (triton)."""
    try:
        return importlib.import_module(name) if name.startswith(OURS) else None
    except ImportError:
        return None


def statement(text: str, name: str) -> int | None:
    """The number of the last statement of a module that is plainly `name`'s: def, class or a single assignment."""
    numbers = [number for number, node in enumerate(ast.parse(text).body) if name in _plain_names(node)]
    return numbers[-1] if numbers else None


def _plain_names(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return [name]
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
    return []


def _codes(value: Any, module: str) -> Iterator[CodeType]:
    value = inspect.unwrap(value) if callable(value) else value
    if isinstance(value, FunctionType):
        if value.__module__ == module:
            yield from _nested(value.__code__)
    elif inspect.isclass(value) and value.__module__ == module:
        for member in vars(value).values():
            member = getattr(member, "fget", None) or getattr(member, "__func__", member)
            if isinstance(member, FunctionType) and "<string>" not in member.__code__.co_filename:
                yield from _codes(member, module)


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield from _nested(each)


def _loaded(code: CodeType, module: ModuleType) -> Iterator[Place]:
    holder: ModuleType | None = None  # the module that the last instruction left
    for step in dis.get_instructions(code):
        if step.opname == "IMPORT_NAME":
            holder = _loaded_module(str(step.argval))
        elif step.opname in ("IMPORT_FROM", "LOAD_ATTR", "LOAD_METHOD") and holder is not None:
            value = getattr(holder, step.argval, None)
            yield from _places(holder, step.argval, value)
            if step.opname != "IMPORT_FROM":
                holder = value if isinstance(value, ModuleType) else None
        elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            value = vars(module).get(step.argval)
            holder = value if isinstance(value, ModuleType) and value.__name__.startswith(OURS) else None
            yield from _places(module, step.argval, value)
        elif step.opname not in ("PRECALL", "CACHE", "STORE_FAST", "STORE_DEREF", "POP_TOP"):
            holder = None


def _places(module: ModuleType, name: str, value: Any) -> Iterator[Place]:
    """Where a name was made: what is imported knows its own module, a value is of the module that has it."""
    if isinstance(value, ModuleType) or name not in vars(module):
        return
    home = getattr(value, "__module__", None) if callable(value) else module.__name__
    if isinstance(home, str) and home.startswith(OURS):
        yield home, getattr(value, "__name__", name) if home != module.__name__ else name
