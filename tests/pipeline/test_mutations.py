"""The cache key under hundreds of edits: no stale hit, no needless run.

What matters to which step is told by two witnesses that know nothing of the fingerprint: the bytecode of the imported
modules (reach.py), for every name that a step's functions reach, and grimp, for the modules that they import at all.
Edits are made from Python's grammar (mutants.py) in a copy of the package, one at a time, each in a statement that a
step reaches; edits that change nothing, and names that nobody uses, are added everywhere at once. The counts are
printed (pytest -s).
"""

import ast
import importlib
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import first_home
import grimp
import pytest
from conftest import ROOT
from mutants import Mutant, mutants, with_comments, with_other_docstrings, with_unused
from reach import Place, reached, statement

from nanochat_core.base import closure
from nanochat_core.base import fingerprint as fp
from nanochat_core.base.closure import EXCLUDED, function_entry
from nanochat_core.base.source_memo import SourceMemo
from nanochat_core.pipeline.step import step_key
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.store.manifest import Artifact, FileEntry

# What a step reaches, imports, and does not have in its key; else a new release would be answered from the cache.
DECIDES_NOTHING = {
    "fsspec": "moves bytes that are verified",
    "huggingface_hub": "moves bytes that are verified",
    "requests": "moves bytes that are verified",
    "urllib3": "moves bytes that are verified",
    "safetensors": "a file format of plain numbers",
    "tensorboard": "draws the log",
    "triton": "comes with torch, whose version is in the key",
    "yaml": "reads plain tables",
}
DECIDES_NOTHING_FOR = {
    ("corpus", "numpy"): "counts documents that are there again",
    ("filter_language", "numpy"): "in modules that hash words, which the language does not ask for",
    ("tokenizer", "numpy"): "encodes to an array, to count",
    ("benchmarks", "numpy"): "in modules that read conversations",
    ("benchmarks", "pyarrow"): "reads what datasets wrote",
    ("benchmark_base", "pyarrow"): "in modules that fetch, which an evaluation does not call",
    ("benchmark_base", "datasets"): "in modules that fetch, which an evaluation does not call",
    ("benchmark_chat", "pyarrow"): "in modules that fetch, which an evaluation does not call",
    ("benchmark_chat", "datasets"): "in modules that fetch, which an evaluation does not call",
    ("benchmark_rl", "pyarrow"): "in modules that fetch, which an evaluation does not call",
    ("benchmark_rl", "datasets"): "in modules that fetch, which an evaluation does not call",
    ("base", "numpy"): "in modules that read tokens, which a copy does not call",
    ("base", "tiktoken"): "the tokenizer that comes along is copied",
    ("pretrain", "tiktoken"): "rows are tokens already",
    ("sft", "tiktoken"): "rows are tokens already",
    ("rl_questions", "numpy"): "in modules that read conversations",
    ("rl_questions", "pyarrow"): "reads what datasets wrote",
    ("rl", "pyarrow"): "in modules that fetch, which a training does not call",
    ("rl", "datasets"): "in modules that fetch, which a training does not call",
}
# They make keys, and hand out what has the digest that was asked for, whatever else of ours they use for it.
KEEPING = ("nanochat_core.workspace", "nanochat_core.store.", "nanochat_core.base.fingerprint")
READS_ITSELF = "nanochat_core.sandbox.zygote"  # it uses `exec`, so all of it counts
PROGRAMS = {  # what a body starts as a program of its own, or loads by a text
    "pretrain": ("train.worker:main", "train.pretrain:build"),
    "sft": ("train.worker:main", "train.sft:build"),
    "rl": ("train.worker:main", "train.rl:build"),
    **dict.fromkeys(("evaluate_base", "evaluate_chat", "evaluate_rl"), ("evals.worker:evaluate",)),
    **dict.fromkeys(
        ("benchmark_base", "benchmark_chat", "benchmark_rl"),
        ("evals.benchmarks.worker:evaluate", "sandbox.launcher:main", "sandbox.zygote:serve"),
    ),
    "evaluate_core": ("evals.core.worker:evaluate",),
}


class Remembered(SourceMemo):
    """What the product remembers of parsed files, by their content; nothing is written."""

    def save(self) -> None:
        """Not a thousand times a test."""


REMEMBERED = Remembered(first_home.digests())


def code_closure(entries: Iterable[str], *, root: Path | None = None) -> dict[str, str]:
    return closure.code_closure(entries, root=root, memo=REMEMBERED)


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(
        fp.PACKAGE, include_external_packages=True, exclude_type_checking_imports=True, cache_dir=None
    )


def entries(step: str) -> tuple[str, ...]:
    chosen = STEPS[step]
    return (*(function_entry(each) for each in (chosen.body, chosen.checks) if each), *chosen.entries)


@cache
def places(step: str) -> tuple[Place, ...]:
    """Names that a step's functions reach by their bytecode, where an edit must count."""
    functions = [each for each in (STEPS[step].body, STEPS[step].checks) if each]
    for each in PROGRAMS.get(step, ()):
        module, _, name = each.partition(":")
        functions.append(getattr(importlib.import_module(f"{fp.PACKAGE}.{module}"), name))
    return tuple(sorted(place for place in reached(functions, not_through=KEEPING) if not is_by_value(*place)))


@cache
def upstream(step: str) -> frozenset[str]:
    """What is imported by the modules with the names that a step reaches, by grimp; importing a.b runs a as well.

    Not by those that hold the bodies of many steps: what one of them imports inside is another step's matter.
    """
    shared = {each.body.__module__ for each in STEPS.values()} | {f"{fp.PACKAGE}.pipeline.training"}
    begins = {module for module, _ in places(step)} - shared
    begins |= {"nanochat_core.base.records"}  # imported by the checks
    shared |= {f"{fp.PACKAGE}.pipeline.step"}
    found = begins.union(shared, *(graph().find_upstream_modules(each) for each in begins))
    ours = {module for module in found if module.split(".")[0] == fp.PACKAGE}
    return frozenset(found | {each.rsplit(".", depth)[0] for each in ours for depth in range(1, each.count(".") + 1)})


def is_by_value(module: str, name: str) -> bool:
    return any(each in (module, f"{module}:{name}") or module.startswith(f"{each}.") for each in EXCLUDED)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package's source."""
    folder = tmp_path_factory.mktemp("mutations")
    shutil.copytree(ROOT / fp.PACKAGE, folder / fp.PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def file_of(root: Path, module: str) -> Path:
    base = root.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


def modules_of(root: Path) -> list[str]:
    found = (".".join(path.relative_to(root).with_suffix("").parts) for path in root.rglob("*.py"))
    return sorted(module.removesuffix(".__init__") for module in found)


def codes(root: Path) -> dict[str, dict[str, str]]:
    return {step: code_closure(entries(step), root=root) for step in STEPS}


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


def stale_hits(copy: Path, edit: Callable[[str, str], None], *, number: int, seed: int) -> tuple[Counter, list[str]]:
    """Edit statements that a step reaches, one edit at a time: how many of each kind, and those that went unnoticed."""
    draw, kinds, stale = random.Random(seed), Counter(), []
    before = codes(copy)
    pairs = [(step, place) for step in STEPS for place in places(step)]
    draw.shuffle(pairs)
    for step, (module, name) in pairs:
        if kinds.total() >= number:
            break
        text = file_of(copy, module).read_text()
        where = statement(text, name)
        for mutant in mutants(text, number=2, draw=draw, statement=where) if where is not None else ():
            if mutant.kind == "FunctionDef.name" and f"{module}:{name}" in entries(step):
                continue  # then there is no such body
            edit(module, mutant.text)
            kinds[mutant.kind] += 1
            if code_closure(entries(step), root=copy) == before[step]:
                stale.append(f"{step}: {mutant.kind} in {module}:{mutant.line}, {name}")
        edit(module, text)
    return kinds, stale


def test_no_edit_in_what_a_step_reaches_is_answered_from_the_cache(copy: Path, edit) -> None:
    kinds, stale = stale_hits(copy, edit, number=60, seed=1)
    print(f"\n{kinds.total()} edits of {len(kinds)} kinds, {len(stale)} stale hits")
    assert kinds.total() >= 60
    assert stale == []


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_thousands_of_edits_are_noticed(copy: Path, edit) -> None:
    kinds, stale = stale_hits(copy, edit, number=3_000, seed=2)
    print(f"\n{kinds.total()} edits of {len(kinds)} kinds, {len(stale)} stale hits: {dict(kinds.most_common())}")
    assert kinds.total() >= 3_000
    assert len(kinds) > 60
    assert stale == []


def is_doubtful(mutant: Mutant, text: str) -> bool:
    """Whether a module imports from a package that nobody knows, or decorates with what nobody knows.

    That may do anything when it is imported, to everybody: in doubt they run again.
    """
    line = text.splitlines()[mutant.line - 1]
    names = line.partition(" import ")[2].split(", ") if line.startswith("from ") else []
    is_decorator = mutant.kind == "alias.name" and any(f"\n@{name}" in text for name in names)
    return mutant.kind == "ImportFrom.module" or line.startswith("import ") or is_decorator


@pytest.mark.torture
@pytest.mark.timeout(3600)
def test_edits_anywhere_in_the_product_are_noticed_by_who_reaches_them_and_by_nobody_far_away(copy: Path, edit) -> None:
    """Statements of modules that nobody had in mind; between the two witnesses nobody knows, and both answers pass."""
    draw, before = random.Random(5), codes(copy)
    reach, bodies = {step: set(places(step)) for step in STEPS}, {each for step in STEPS for each in entries(step)}
    near = {step: upstream(step) | {name.partition(":")[0] for name in before[step]} for step in STEPS}
    statements = [(module, number) for module in modules_of(copy)
                  for number in range(len(ast.parse(file_of(copy, module).read_text()).body))]  # fmt: skip
    draw.shuffle(statements)
    kinds, modules, wrong = Counter[str](), set[str](), []
    for module, number in statements:
        text = file_of(copy, module).read_text()
        names = {name for step in STEPS for at, name in reach[step] if at == module and statement(text, name) == number}
        for mutant in mutants(text, number=1, draw=draw, statement=number) if kinds.total() < 600 else ():
            if mutant.kind == "FunctionDef.name" and any(each.startswith(f"{module}:") for each in bodies):
                continue  # then there may be no such body
            edit(module, mutant.text)
            noticed = {step for step, code in codes(copy).items() if code != before[step]}
            edit(module, text)
            owed = {step for step in STEPS if any((module, name) in reach[step] for name in names)}
            kinds[mutant.kind] += 1
            modules.add(module)
            if owed - noticed:
                wrong.append(f"stale for {owed - noticed}: {mutant.kind} in {module}:{mutant.line}")
            if not is_doubtful(mutant, text) and (far := {step for step in noticed if module not in near[step]}):
                wrong.append(f"needless for {far}: {mutant.kind} in {module}:{mutant.line}")
    print(f"\n{kinds.total()} edits in {len(modules)} modules, {len(wrong)} wrong: {dict(kinds.most_common())}")
    assert kinds.total() >= 600
    assert wrong == []


def test_every_module_that_a_step_reaches_by_its_bytecode_is_in_its_key() -> None:
    for step in STEPS:
        assert {module for module, _ in places(step)} <= code_closure(entries(step)).keys(), step


def test_an_edit_in_a_body_is_noticed_by_its_own_step_alone(copy: Path, edit) -> None:
    draw, number, wrong = random.Random(3), 0, []
    before = codes(copy)
    for step in STEPS:
        body = STEPS[step].body
        text = file_of(copy, body.__module__).read_text()
        for mutant in mutants(text, number=1, draw=draw, statement=statement(text, body.__name__)):
            if mutant.kind == "FunctionDef.name":
                continue  # then there is no such body
            edit(body.__module__, mutant.text)
            number += 1
            after = codes(copy)
            noticed = {other for other in STEPS if after[other] != before[other]}
            if noticed != {other for other in STEPS if STEPS[other].body is body}:
                wrong.append(f"{mutant.kind} in {body.__module__}:{mutant.line} was noticed by {noticed or 'nobody'}")
        edit(body.__module__, text)
    print(f"\n{number} edits of bodies, {len(wrong)} noticed by others than their step")
    assert number > 15
    assert wrong == []


def test_comments_docstrings_and_formatting_cost_no_run(copy: Path, edit) -> None:
    before = codes(copy)
    texts = {module: file_of(copy, module).read_text() for module in modules_of(copy)}
    counts = Counter[str]()
    for module, text in texts.items():  # all at once: parsing every file anew is what takes time
        for name, change in (("docstrings", with_other_docstrings), ("comments", with_comments)):
            text, number = change(text)
            counts[name] += number
        edit(module, text)
    changed = {module: file_of(copy, module).read_text() for module in texts}
    ruff = [sys.executable, "-m", "ruff", "format", "--isolated", "--quiet", "--line-length", "60"]
    subprocess.run([*ruff, "--config", "format.quote-style='single'", str(copy)], check=True)
    counts["reformatted files"] = sum(file_of(copy, module).read_text() != text for module, text in changed.items())
    assert codes(copy) == before
    print(f"\n{dict(counts)}: 0 needless runs of {len(STEPS)} steps")
    assert min(counts.values()) > 100


def test_names_that_nobody_uses_cost_no_run(copy: Path, edit) -> None:
    """A function, a class, constants and imports added to every module of the package at once."""
    before = codes(copy)
    modules = [module for module in modules_of(copy) if module != READS_ITSELF]
    for module in modules:
        edit(module, with_unused(file_of(copy, module).read_text()))
    after = codes(copy)
    wrong = {step: [each for each in after[step] if after[step][each] != before[step].get(each)] for step in STEPS}
    print(
        f"\n{len(modules)} modules with names that nobody uses: needless runs of {sum(map(bool, wrong.values()))} steps"
    )
    assert {step: each for step, each in wrong.items() if each} == {}


def test_edits_of_modules_that_a_step_does_not_reach_cost_no_run(copy: Path, edit) -> None:
    """All of them at once, an edit in each."""
    draw, number, needless = random.Random(4), 0, []
    texts = {module: file_of(copy, module).read_text() for module in modules_of(copy)}
    edited = {module: mutants(text, number=1, draw=draw) for module, text in texts.items() if draw.random() < 0.5}
    before = codes(copy)
    for step in [*STEPS][::5]:  # every fifth, as each has two hundred modules out of its reach
        seen = upstream(step) | {name.partition(":")[0] for name in before[step]}
        away = [module for module in texts if module not in seen and edited.get(module)]
        for module in away:
            edit(module, edited[module][0].text)
        number += len(away)
        if code_closure(entries(step), root=copy) != before[step]:
            needless.append(step)
        for module in away:
            edit(module, texts[module])
    print(f"\n{number} edits of modules out of reach, {len(needless)} needless runs")
    assert number > 300
    assert needless == []


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
        for source in step.sources:
            others = {one.name for one in step.last_of} - {source}  # of several texts one counts
            same = {each: digest(name) for each in step.sources if each not in others}
            before = step_key(step, micro_plan, same).fingerprint
            data = {**same, source: digest(name, content="b" * 64)}
            logs = {**same, source: digest(name, name="log/metrics.jsonl", content="b" * 64)}
            assert step_key(step, micro_plan, data).fingerprint != before, (name, source)
            assert (logs != same) == step.reads_logs, (name, source)
            number += 2
    print(f"\n{number} bytes of inputs: 0 stale hits, 0 needless runs")


def test_the_file_of_a_users_text_is_in_the_key(small_corpus: Path, tmp_path: Path) -> None:
    shutil.copytree(small_corpus, tmp_path / "text")
    plan = plan_run(load_config("tiny", ["corpus.source=path", f"corpus.path={tmp_path / 'text'}"]))
    before = STEPS["corpus"].settings(plan)
    assert STEPS["corpus"].settings(plan) == before
    file = tmp_path / "text/0.parquet"
    content = bytearray(file.read_bytes())
    content[1000] ^= 1
    file.write_bytes(content)
    assert STEPS["corpus"].settings(plan) != before


def packages_of(step: str) -> set[str]:
    """Packages that are imported by modules of which something is in a step's key."""
    shared = {each.body.__module__ for each in STEPS.values()} | {f"{fp.PACKAGE}.pipeline.training"}
    modules = {module for module in code_closure(entries(step)) if ":" not in module} - shared  # and no files of data
    found = set().union(*(graph().find_modules_directly_imported_by(module) for module in modules))
    return {module for module in found if module.split(".")[0] not in {fp.PACKAGE, *sys.stdlib_module_names}}


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
