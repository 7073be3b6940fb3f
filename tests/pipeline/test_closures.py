"""Nothing that a step's body reaches is left out of its key: else an edit there would be answered from the cache.

The key takes in the modules that a step's entries import, and the body's own function. What the body imports besides,
inside of the function or by name for a child process, must be among those modules, or be listed here with the reason
why it cannot change a result.
"""

import ast
import importlib.util
import inspect
from collections.abc import Callable, Iterator

import pytest

from nanochat_core.base.fingerprint import EXCLUDED, PACKAGE, code_closure, normalised
from nanochat_core.pipeline import token_parts
from nanochat_core.pipeline.step import Step
from nanochat_core.pipeline.steps import STEPS

CHANGES_NO_RESULT = {
    "nanochat_core.base.child": "runs the child and hears it; what the child does is in its own modules",
    "nanochat_core.base.records": "the name of the log",
    "nanochat_core.base.torchrun": "how ranks are started; a result does not depend on their number",
    "nanochat_core.pipeline.checkpoints": "keeps what a training wrote; a resumed one ends with the same weights",
    "nanochat_core.pipeline.checks_verdict": "how a check is worded; what it looks at is in its own function",
    "nanochat_core.pipeline.identity": "what it says is in the key by value",
    "nanochat_core.pipeline.step": "runs the body; the name of the folder of logs",
    "nanochat_core.pipeline.token_parts": "finds what the same code encoded elsewhere, to the same bytes",
    "nanochat_core.plan": "what it derives is in the key by value",
    "nanochat_core.train.launch": "starts the ranks and tells why they ended",
    "nanochat_core.train.tensorboard": "draws the log",
}
ALL_STEPS = {**STEPS, "token_part": token_parts._step("train/00000.parquet")}


def is_module(name: str) -> bool:
    try:
        return name.split(".")[0] == PACKAGE and importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the name of something in a module, not of a module in a package
        return False


def modules_of(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(name that it is known by, module of the core) of an import, or of a text that names a module."""
    if isinstance(node, ast.Import):
        yield from ((alias.asname or alias.name, alias.name) for alias in node.names if is_module(alias.name))
    elif isinstance(node, ast.ImportFrom):
        for alias in node.names:
            whole = f"{node.module}.{alias.name}"
            found = whole if is_module(whole) else str(node.module)
            if is_module(found):
                yield alias.asname or alias.name, found
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and is_module(node.value):
        yield node.value, node.value


def reached_by(function: Callable[..., object]) -> set[str]:
    """Modules that a body names: in itself, in the functions of its file that it names, and at the top of the file."""
    tree = normalised(ast.parse(inspect.getsource(inspect.getmodule(function))))
    imported = dict(pair for node in tree.body for pair in modules_of(node))
    defined = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    waiting, seen, found = [function.__name__], set(), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in imported:
            found.add(imported[name])
        for node in ast.walk(defined[name]) if name in defined else ():
            found.update(module for _, module in modules_of(node))
            if isinstance(node, ast.Name):
                waiting.append(node.id)
    return found


@pytest.mark.parametrize("step", ALL_STEPS.values(), ids=ALL_STEPS)
def test_what_a_body_reaches_is_in_the_key_of_its_step(step: Step) -> None:
    reached = reached_by(step.body) | (reached_by(step.checks) if step.checks else set())
    assert reached, "a body that reaches nothing: this test has lost sight of it"
    forgotten = reached - code_closure(step.entries).keys() - EXCLUDED - CHANGES_NO_RESULT.keys()
    assert not forgotten, f"add these to the entries of {step.name}, or say here why they cannot change its result"


def test_the_list_of_exceptions_holds_nothing_that_no_body_reaches() -> None:
    functions = [each for step in ALL_STEPS.values() for each in (step.body, step.checks) if each]
    reached = set().union(*map(reached_by, functions))
    assert CHANGES_NO_RESULT.keys() <= reached


def test_an_import_inside_of_a_helper_is_seen() -> None:
    """The hole that this file is about: the conversations' body imports the search for benchmark items in a helper."""
    contamination = "nanochat_core.evals.benchmarks.contamination"
    assert contamination in reached_by(STEPS["conversations"].body)
    without = [entry for entry in STEPS["conversations"].entries if entry != contamination]
    assert contamination not in code_closure(without)


def test_only_the_steps_that_fetch_depend_on_the_downloader() -> None:
    """An edit of the downloader must not cost an evaluation."""
    fetching = {"nanochat_core.data.download", "nanochat_core.data.hub", "nanochat_core.data.part"}
    depending = {name for name, step in STEPS.items() if fetching & code_closure(step.entries).keys()}
    assert depending == {"corpus", "core_bundle"}
