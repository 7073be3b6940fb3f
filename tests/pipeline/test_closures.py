"""Nothing that a step's body reaches is left out of its key: else an edit there would be answered from the cache.

A key follows names. What goes another way (a module loaded by a name put together, a file read from beside the source)
is refused here, until somebody has looked at it and said why it hides nothing, or the step declares what it reaches.
"""

import ast
import shutil
from pathlib import Path

import pytest

from nanochat_core.base import closure
from nanochat_core.base.closure import EXCLUDED, PACKAGE, code_closure, function_entry, unfollowed
from nanochat_core.pipeline.step import Step
from nanochat_core.pipeline.table import STEPS
from nanochat_core.steps import tokens as tokens_step

LOOKED_AT = {
    "nanochat_core.base.torchrun:command_of_ranks": "what it starts is a text of its callers",
    "nanochat_core.base.torchrun:torchrun": "what it starts is a text of its callers",
    "nanochat_core.base.environment:ROOT": "__file__ for PYTHONPATH: where the same modules are",
    "nanochat_core.model.flash_attention:_is_there": "asks whether a package is there",
    "nanochat_core.model.flash_attention:from_package": "loads packages that are not ours",
    "nanochat_core.sandbox.worker:ROOT": "__file__ for sys.path: where the same modules are",
    "nanochat_core.sandbox.zygote:described": "names the file of the answer that failed",
    "nanochat_core.sandbox.zygote:run_program": "runs the answer of a model, which is an input",
    "nanochat_core.sandbox.zygote:serve": "loads modules of Python ahead of time",
    "nanochat_core.sandbox.zygote:ExtensionFileLoader": "a name of Python's, to load its own modules ahead of time",
    "nanochat_core.sandbox.zygote:ModuleSpec": "a name of Python's, to load its own modules ahead of time",
    "nanochat_core.sandbox.zygote:map_compiled": "loads Python's own compiled modules ahead of time",
    "nanochat_core.train.worker:_train": "what it loads is named by the job, in the step's own body",
}
ALL_STEPS = {**STEPS, "token_part": tokens_step.part_step("train/00000.parquet")}


def entries(step: Step) -> list[str]:
    return [*(function_entry(each) for each in (step.body, step.checks) if each), *step.entries]


@pytest.mark.parametrize("step", ALL_STEPS.values(), ids=ALL_STEPS)
def test_what_a_step_reaches_can_be_followed_or_somebody_has_looked(step: Step) -> None:
    found = unfollowed(entries(step))
    new = {name: how for name, how in found.items() if name not in LOOKED_AT}
    assert not new, f"add what these reach to the entries of {step.name}, or say above why it is in the key"


def test_the_list_of_what_was_looked_at_holds_nothing_else() -> None:
    found = set().union(*(unfollowed(entries(step)) for step in ALL_STEPS.values()))
    assert found == LOOKED_AT.keys()


def test_what_is_in_no_key_is_there_and_has_its_reason() -> None:
    for name, reason in EXCLUDED.items():
        assert reason
        assert code_closure(["nanochat_core.base.units"])  # the tree is this one
        module, _, function = name.partition(":")
        found = pytest.importorskip(module)
        assert not function or hasattr(found, function)


# What bodies name in modules that are in no key, apart from errors. A new name here: is what it decides in the key?
NAMED = {
    "nanochat_core.base.fingerprint": {"identity_digest", "package_versions", "step_code"},  # of keys and their values
    "nanochat_core.base.redaction": {"install", "redact", "redacted_error"},  # of logs and errors, of no result
    "nanochat_core.config": {"GPTConfig"},  # a model's shape, which is in the key by value
    "nanochat_core.data.licences": {"UNKNOWN", "corpus_terms", "licence_of_folder", "talk_terms"},  # in metrics alone
    "nanochat_core.observe": {"current"},
    "nanochat_core.plan": {"GPUS", "RunPlan", "optim_values"},  # peaks for the log; a hint; in the key by value
    "nanochat_core.store.lease": {"Lease"},
    "nanochat_core.store.manifest": {"Artifact", "LOG_FOLDER"},  # what holds a model to start from, known by content
    "nanochat_core.store.partial": {"Partial"},
    "nanochat_core.workspace": {"current"},
}


def test_every_name_in_a_module_that_is_in_no_key_was_looked_at() -> None:
    found: dict[str, set[str]] = {}
    for step in ALL_STEPS.values():
        for module, name in closure._walk(entries(step), None, None)._seen:
            if closure._is_excluded(module) and name not in (closure.LOADED, closure.WHOLE):
                found.setdefault(module, set()).add(name)
    errors = found.pop("nanochat_core.base.errors")
    assert all(name.endswith("Error") for name in errors)
    assert found == NAMED


def test_no_module_changes_another_when_it_is_imported() -> None:
    """A step runs where other modules were loaded as well, which its key does not know: they must not reach into it."""
    does_something = []
    for module, file in closure._tree(closure.PACKAGE_ROOT).files.items():
        for node in ast.parse(file.path.read_text(encoding="utf-8")).body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            sets = any(isinstance(target, ast.Attribute | ast.Subscript) for target in targets)
            calls = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
            if sets or calls or isinstance(node, ast.For | ast.While | ast.With):
                does_something.append(f"{module}: {ast.unparse(node)}")
    assert does_something == ["nanochat_core.cli.app: _add_verbs()"], (
        "a table that fills itself, or a function replaced"
    )


def test_every_file_beside_the_source_is_declared_or_no_steps_matter() -> None:
    root = closure.PACKAGE_ROOT / PACKAGE
    files = {str(path.relative_to(root)) for path in root.rglob("*.*") if path.suffix not in (".py", ".pyc", ".so")}
    declared = {
        str((file.path.parent / name).relative_to(root))
        for file in closure._tree(closure.PACKAGE_ROOT).files.values()
        for name in closure._declared_files(ast.parse(file.path.read_text(encoding="utf-8")), "")
    }
    others = {name for name in files - declared if not name.startswith(("serve/static/", "report/page", "presets/"))}
    # pages and presets are made of what is in keys, or by value; an export is no step
    assert others == {"sweep/sweep.html", "cli/tried.json", "export/card.md.jinja", "export/chat_template.jinja"}


@pytest.mark.parametrize(
    ("step", "module"),
    [
        ("pretrain", "train.launch"), ("pretrain", "pipeline.checkpoints"), ("pretrain", "base.torchrun"),
        ("pretrain", "train.pretrain"), ("sft", "train.sft"), ("rl", "train.rl"), ("rl", "base.units"),
        ("corpus", "base.units"),
        ("conversations", "evals.benchmarks.contamination"), ("conversations", "steps.conversations"),
        ("sft", "steps.conversations"), ("benchmark_chat", "sandbox.launcher"), ("benchmark_chat", "sandbox.zygote"),
        ("benchmark_chat", "sandbox.linux"), ("evaluate_base", "evals.worker"), ("evaluate_core", "evals.core.worker"),
        ("report", "report.figures"),
    ],
)  # fmt: skip
def test_modules_that_were_once_forgotten_are_in_the_key(step: str, module: str) -> None:
    assert f"{PACKAGE}.{module}" in code_closure(entries(STEPS[step]))


def test_only_the_steps_that_fetch_depend_on_the_downloader() -> None:
    """An edit of the downloader must not cost an evaluation; a model to start from is fetched, and kept by content."""
    fetching = {"nanochat_core.data.download", "nanochat_core.data.hub", "nanochat_core.data.part"}
    depending = {name for name, step in STEPS.items() if fetching & code_closure(entries(step)).keys()}
    assert depending == {"base", "corpus", "core_bundle"}


def test_trainings_do_not_depend_on_each_other() -> None:
    stages = {"pretrain": "train.pretrain", "sft": "train.sft", "rl": "train.rl"}
    for step in ("pretrain", "sft"):
        reached = code_closure(entries(STEPS[step]))
        others = {f"{PACKAGE}.{module}" for name, module in stages.items() if name not in (step, "pretrain")}
        assert not others & reached.keys()


def test_the_wording_of_a_step_is_in_no_key_and_its_body_is(tmp_path: Path) -> None:
    shutil.copytree(closure.PACKAGE_ROOT / PACKAGE, tmp_path / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    before = {name: code_closure(entries(step), root=tmp_path) for name, step in STEPS.items()}
    num_words = 0
    for path in (tmp_path / PACKAGE / "steps").glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        steps = [node.value for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)]
        for word in (word for step in steps for word in step.keywords):
            if word.arg in ("description", "title", "headline", "notes"):
                word.value, num_words = ast.parse("[print]", mode="eval").body, num_words + 1
        path.write_text(ast.unparse(tree), encoding="utf-8")
    assert num_words >= 3 * len(STEPS)
    assert {name: code_closure(entries(step), root=tmp_path) for name, step in STEPS.items()} == before
    path = tmp_path / PACKAGE / "steps/report.py"
    path.write_text(path.read_text(encoding="utf-8").replace("(run.inputs, run.out)", "(run.inputs, run.work)"))
    after = {name: code_closure(entries(STEPS[name]), root=tmp_path) for name in ("report", "evaluate_base")}
    assert {name for name in after if after[name] != before[name]} == {"report"}
