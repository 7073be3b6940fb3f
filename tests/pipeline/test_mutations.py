"""The cache key under hundreds of edits: no stale hit, no needless run.

Which module matters to which step is asked from grimp, which follows imports in its own way and knows nothing of the
fingerprint. Edits that change a program are made in a copy of the package, one at a time, each in a module that a step
reaches; edits that change none are made everywhere at once. The counts are printed (pytest -s).
"""

import importlib.util
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import grimp
import pytest
from conftest import ROOT
from mutants import mutants, with_comments, with_other_docstrings

from nanochat_core.base import fingerprint as fp
from nanochat_core.pipeline.step import step_key
from nanochat_core.pipeline.steps import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.store.manifest import Artifact, FileEntry

ALIAS = "mutated_bodies"
# What a step reaches, imports, and does not have in its key; else a new release would be answered from the cache.
DECIDES_NOTHING = {
    "fsspec": "moves bytes that are verified",
    "huggingface_hub": "moves bytes that are verified",
    "requests": "moves bytes that are verified",
    "urllib3": "moves bytes that are verified",
    "safetensors": "a file format of plain numbers",
    "triton": "comes with torch, whose version is in the key",
    "yaml": "reads plain tables",
}
DECIDES_NOTHING_FOR = {
    ("tokenizer", "numpy"): "encodes to an array, to count",
    ("benchmarks", "numpy"): "in modules that read conversations",
    ("benchmarks", "pyarrow"): "reads what datasets wrote",
    ("benchmark_base", "pyarrow"): "in modules that fetch, which an evaluation does not call",
    ("benchmark_base", "datasets"): "in modules that fetch, which an evaluation does not call",
    ("benchmark_chat", "pyarrow"): "in modules that fetch, which an evaluation does not call",
    ("benchmark_chat", "datasets"): "in modules that fetch, which an evaluation does not call",
    ("benchmark_rl", "pyarrow"): "in modules that fetch, which an evaluation does not call",
    ("benchmark_rl", "datasets"): "in modules that fetch, which an evaluation does not call",
    ("evaluate_base", "pyarrow"): "reads text shards, which are inputs",
    ("evaluate_chat", "pyarrow"): "reads text shards, which are inputs",
    ("evaluate_rl", "pyarrow"): "reads text shards, which are inputs",
    ("evaluate_core", "tiktoken"): "the prompts are tokens already",
    ("pretrain", "pyarrow"): "rows are tokens already",
    ("pretrain", "tiktoken"): "rows are tokens already",
    ("sft", "pyarrow"): "rows are tokens already",
    ("sft", "tiktoken"): "rows are tokens already",
    ("rl_questions", "numpy"): "in modules that read conversations",
    ("rl_questions", "pyarrow"): "reads what datasets wrote",
    ("rl", "pyarrow"): "in modules that fetch, which a training does not call",
    ("rl", "datasets"): "in modules that fetch, which a training does not call",
}


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        fp.PACKAGE, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def upstream(step: str) -> set[str]:
    """What a step's entries import, by grimp; importing a.b runs a as well."""
    found = set(STEPS[step].entries).union(*(graph().find_upstream_modules(entry) for entry in STEPS[step].entries))
    ours = {module for module in found if module.split(".")[0] == fp.PACKAGE}
    parents = {module.rsplit(".", depth)[0] for module in ours for depth in range(1, module.count(".") + 1)}
    return (found | parents) - fp.EXCLUDED


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package's source."""
    folder = tmp_path_factory.mktemp("mutations")
    shutil.copytree(ROOT / fp.PACKAGE, folder / fp.PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def file_of(root: Path, module: str) -> Path:
    base = root.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def code_of(step: str, root: Path) -> dict[str, str]:
    """The code part of a step's key, for the package below `root`."""
    return fp.code_closure(STEPS[step].entries, root=root) | body_code(step, root)


def body_code(step: str, root: Path) -> dict[str, str]:
    body = STEPS[step].body
    spec = importlib.util.spec_from_file_location(ALIAS, file_of(root, body.__module__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[ALIAS] = module  # where inspect looks for the source of a function
    try:
        spec.loader.exec_module(module)
        return fp.function_code(getattr(module, body.__name__))
    finally:
        del sys.modules[ALIAS]


@pytest.fixture
def edit(copy: Path) -> Iterator[Callable[[str, str], None]]:
    """Write another text for a module of the copy; everything is as before afterwards."""
    kept: dict[Path, str] = {}

    def write(module: str, text: str) -> None:
        path = file_of(copy, module)
        kept.setdefault(path, path.read_text())
        path.write_text(text)

    yield write
    for path, text in kept.items():
        path.write_text(text)


def stale_hits(copy: Path, edit: Callable[[str, str], None], *, per_step: int, seed: int) -> tuple[int, list[str]]:
    """Edit modules that a step reaches, one edit at a time; how many edits, and those that its key did not notice."""
    draw, number, stale = random.Random(seed), 0, []
    for step in STEPS:
        before = fp.code_closure(STEPS[step].entries, root=copy)
        modules = sorted(module for module in upstream(step) if module.split(".")[0] == fp.PACKAGE)
        chosen = draw.choices(modules, k=per_step) if per_step < len(modules) else modules
        for module in chosen:
            text = file_of(copy, module).read_text()
            for mutant in mutants(text, number=max(1, per_step // len(modules)), draw=draw):
                edit(module, mutant.text)
                number += 1
                if fp.code_closure(STEPS[step].entries, root=copy) == before:
                    stale.append(f"{step}: {mutant.kind} in {module}:{mutant.line}")
            edit(module, text)
    return number, stale


def test_no_edit_in_what_a_step_reaches_is_answered_from_the_cache(copy: Path, edit) -> None:
    number, stale = stale_hits(copy, edit, per_step=8, seed=1)
    print(f"\n{number} edits of reached modules, {len(stale)} stale hits")
    assert number > 90
    assert stale == []


@pytest.mark.torture
def test_thousands_of_edits_are_noticed(copy: Path, edit) -> None:
    number, stale = stale_hits(copy, edit, per_step=300, seed=2)
    print(f"\n{number} edits of reached modules, {len(stale)} stale hits")
    assert number > 3000
    assert stale == []


def test_an_edit_in_a_body_is_noticed_by_its_own_step_alone(copy: Path, edit) -> None:
    draw, number, wrong = random.Random(3), 0, []
    before = {step: body_code(step, copy) for step in STEPS}
    for step in STEPS:
        body = STEPS[step].body
        text = file_of(copy, body.__module__).read_text()
        same = [other for other in STEPS if STEPS[other].body.__module__ == body.__module__]
        for mutant in mutants(text, number=4, draw=draw, within=body.__name__):
            edit(body.__module__, mutant.text)
            number += 1
            noticed = {other for other in same if body_code(other, copy) != before[other]}
            if noticed != {other for other in same if STEPS[other].body is body}:
                wrong.append(f"{mutant.kind} in {body.__module__}:{mutant.line} was noticed by {noticed or 'nobody'}")
        edit(body.__module__, text)
    print(f"\n{number} edits of bodies, {len(wrong)} noticed by others than their step")
    assert number > 60
    assert wrong == []


def test_comments_docstrings_and_formatting_cost_no_run(copy: Path, edit) -> None:
    before = {step: code_of(step, copy) for step in STEPS}
    modules = sorted(".".join(path.relative_to(copy).with_suffix("").parts) for path in copy.rglob("*.py"))
    modules = [module.removesuffix(".__init__") for module in modules]
    texts = {module: file_of(copy, module).read_text() for module in modules}
    counts = {}
    for name, change in (("comments", with_comments), ("docstrings", with_other_docstrings)):
        counts[name] = 0
        for module, text in texts.items():
            changed, number = change(text)
            edit(module, changed)
            counts[name] += number
        assert {step: code_of(step, copy) for step in STEPS} == before, name
    for module, text in texts.items():
        edit(module, text)
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--quiet", "--line-length", "60"]
    subprocess.run([*ruff, "--config", "format.quote-style='single'", str(copy)], check=True)
    counts["reformatted files"] = sum(file_of(copy, module).read_text() != text for module, text in texts.items())
    assert {step: code_of(step, copy) for step in STEPS} == before, "formatting"
    print(f"\n{counts}: 0 needless runs of {len(STEPS)} steps")
    assert min(counts.values()) > 100


def test_edits_of_modules_that_a_step_does_not_reach_cost_no_run(copy: Path, edit) -> None:
    """All of them at once, an edit in each; a module that is named for a launcher counts as reached."""
    draw, number, needless = random.Random(4), 0, []
    modules = sorted(module for module in graph().modules if module.split(".")[0] == fp.PACKAGE)
    texts = {module: file_of(copy, module).read_text() for module in modules}
    edited = {module: mutants(text, number=1, draw=draw) for module, text in texts.items()}
    for step in [*STEPS][::3]:  # every third, as each has two hundred modules out of its reach
        before = fp.code_closure(STEPS[step].entries, root=copy)
        reached = upstream(step) | {name.partition(":")[0] for name in before}
        away = [module for module in modules if module not in reached and edited[module]]
        for module in away:
            edit(module, edited[module][0].text)
        number += len(away)
        if fp.code_closure(STEPS[step].entries, root=copy) != before:
            needless.append(step)
        for module in away:
            edit(module, texts[module])
    print(f"\n{number} edits of modules out of reach, {len(needless)} needless runs")
    assert number > 1000
    assert needless == []


def test_a_key_takes_in_nothing_that_a_step_cannot_reach() -> None:
    """What the key has beyond the imports is there by name: a module that is started as a program of its own."""
    for step in STEPS:
        extra = {name.partition(":")[0] for name in fp.code_closure(STEPS[step].entries)} - upstream(step)
        for module in extra:
            named = [m for m in upstream(step) if m.split(".")[0] == fp.PACKAGE and m in fp.code_closure([m])]
            assert any(f'"{module}"' in file_of(ROOT, m).read_text() for m in named), f"{step} has {module}"


# --- what is not code ---


def test_a_byte_of_an_input_is_in_the_key_and_a_byte_of_its_log_is_in_the_reports_only(micro_plan: RunPlan) -> None:
    def digest(step: str, *, name: str = "model.bin", content: str = "0" * 64) -> str:
        files = {"model.bin": "0" * 64, "log/metrics.jsonl": "1" * 64, name: content}
        entries = {file: FileEntry(sha256=sha256, num_bytes=1) for file, sha256 in files.items()}
        none: dict[str, str] = {}
        made = Artifact(
            step="x", fingerprint="f", files=entries, inputs=none, config=none, code=none, packages=none,
            metrics=none, provenance=none,
        )  # fmt: skip
        return made.digest if STEPS[step].reads_logs else made.result_digest

    number = 0
    for name, step in STEPS.items():
        same = {source: digest(name) for source in step.inputs}
        before = step_key(step, micro_plan, same).fingerprint
        for source in step.inputs:
            data = {**same, source: digest(name, content="b" * 64)}
            logs = {**same, source: digest(name, name="log/metrics.jsonl", content="b" * 64)}
            assert step_key(step, micro_plan, data).fingerprint != before, (name, source)
            assert (logs != same) == step.reads_logs, (name, source)
            number += 2
    print(f"\n{number} bytes of inputs: 0 stale hits, 0 needless runs")


def test_the_file_of_a_users_text_is_in_the_key(small_corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(small_corpus, tmp_path / "text")
    plan = plan_run(load_config("tiny", ["corpus.source=path", f"corpus.path={tmp_path / 'text'}"]))
    before = STEPS["corpus"].identity(plan)
    assert STEPS["corpus"].identity(plan) == before
    file = tmp_path / "text/0.parquet"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    assert STEPS["corpus"].identity(plan) != before


def packages_of(step: str) -> set[str]:
    return {module for module in upstream(step) if module.split(".")[0] not in {fp.PACKAGE, *sys.stdlib_module_names}}


def test_another_release_of_a_package_is_in_the_keys_that_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_plan: RunPlan
) -> None:
    before = {name: fp.package_versions(step.packages) for name, step in STEPS.items()}
    key = step_key(STEPS["tokenizer"], micro_plan, {}).fingerprint
    monkeypatch.syspath_prepend(str(tmp_path))
    pinned = set().union(*(step.packages for step in STEPS.values()))
    for package in sorted(pinned):
        release = tmp_path / f"{package}-999.0.dist-info"
        release.mkdir()
        (release / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 999.0\n")
        importlib.invalidate_caches()
        changed = {name for name, step in STEPS.items() if fp.package_versions(step.packages) != before[name]}
        assert changed == {name for name, step in STEPS.items() if package in step.packages}, package
        if package == "tiktoken":
            assert step_key(STEPS["tokenizer"], micro_plan, {}).fingerprint != key
        shutil.rmtree(release)
    importlib.invalidate_caches()


def test_a_package_that_a_step_imports_is_in_its_key_or_decides_nothing() -> None:
    for name, step in STEPS.items():
        unexplained = packages_of(name) - {*step.packages, *DECIDES_NOTHING}
        assert unexplained == {package for other, package in DECIDES_NOTHING_FOR if other == name}, name
