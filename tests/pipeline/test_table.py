"""The flow's lines, the table of steps and each step's own file say the same."""

import ast
from pathlib import Path

import pytest

from flows.speedrun import pipeline
from nanochat_core.base.errors import NanochatError
from nanochat_core.pipeline import step as step_module
from nanochat_core.pipeline.step import Ref, Step
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan


def ref_of(step: str) -> Ref:
    return Ref(step, "0", "0", "0", {}, 0.0, False)


def test_the_flow_calls_each_step_of_the_table_in_its_order_with_what_it_reads(micro_plan: RunPlan) -> None:
    called = []

    def make(step: Step, plan: RunPlan, *refs: Ref | None) -> Ref:
        latest = [each.name for each in step.last_of]
        assert list(step.named(refs)) == [name for name in step.sources if name not in latest[:-1]]
        called.append(step.name)
        return ref_of(step.name)

    list(pipeline(make, micro_plan))
    assert called == list(STEPS), "put the line of flows/speedrun.py where the table has the step"


def test_a_line_that_hands_over_something_else_is_refused_with_what_belongs_there() -> None:
    step = STEPS["tokens"]
    for wrong in (["tokenizer", "corpus"], ["corpus"], ["corpus", "tokenizer", "tokens"]):
        with pytest.raises(NanochatError, match="tokens was handed") as caught:
            step.named([ref_of(name) for name in wrong])
        assert "(corpus, tokenizer)" in str(caught.value.hint)
    assert list(step.named([ref_of("corpus"), None])) == ["corpus"]


def test_of_texts_that_hand_each_other_on_the_last_is_read_whether_one_or_all_are_handed_over() -> None:
    step = STEPS["tokens"]
    texts = [None if name == "filter_quality" else ref_of(name) for name in step.sources]
    assert list(step.named(texts)) == ["decontaminate", "tokenizer"]
    assert list(step.named([*texts[:4], None, texts[5]])) == ["deduplicate", "tokenizer"]
    assert list(step.named([texts[1], texts[5]])) == ["filter_language", "tokenizer"]


def test_making_a_step_does_nothing_but_hold_what_it_is_given() -> None:
    """base/quiet.py takes it for granted: else a step's wording would not be in its key, and what it does neither."""
    [written] = [
        node
        for node in ast.parse(Path(step_module.__file__).read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "Step"
    ]
    assert not written.bases
    assert not written.keywords
    assert [ast.unparse(each) for each in written.decorator_list] == ["dataclass(frozen=True, kw_only=True)"]
    names = {node.name for node in ast.walk(written) if isinstance(node, ast.FunctionDef)}
    assert not {name for name in names if name.startswith("__")}


def test_each_step_has_the_name_that_it_is_imported_by() -> None:
    import importlib
    import pkgutil

    from nanochat_core import steps

    named = {}
    for module in pkgutil.iter_modules(steps.__path__, f"{steps.__name__}."):
        named |= {n: each for n, each in vars(importlib.import_module(module.name)).items() if isinstance(each, Step)}
    assert {name: step.name for name, step in named.items()} == {name: name for name in STEPS}
