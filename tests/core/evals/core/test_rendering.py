"""Prompts against whole texts: nothing that is cut, shared or stored once may change a token."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks import reference_core
from nanochat_core.base.errors import ConfigError
from nanochat_core.evals.core.bundle import Benchmark, read_bundle
from nanochat_core.evals.core.prompts import Prompts, write_prompts
from nanochat_core.evals.core.rendering import Renderer, common_length, fewshot_indices, is_cut_rule_known, shuffled

ITEMS_EACH = 5
TEXT = st.text(st.sampled_from("ab1.,'\"?:(é中 \n\t\r\u00a0\u2009\u0301\x1c"), max_size=8)


class WholeOnly:
    """The same vocabulary behind a face that promises nothing about where text may be cut."""

    def __init__(self, tokenizer):
        self.bos, self.vocab_size, self.encode = tokenizer.bos, tokenizer.vocab_size, tokenizer.encode


def _benchmark(kind, num_fewshot=2, delimiter=" "):
    return Benchmark(
        label="x", kind=kind, data="x", num_fewshot=num_fewshot, delimiter=delimiter, baseline_percent=0, category=""
    )


def _sequences(renderer, index):
    """Every choice's tokens, and how many of its end are scored."""
    rendered = renderer.render(index)
    before = [token for number in rendered.examples for token in renderer.example_ids(number)] + rendered.prefix
    return [before + suffix for suffix in rendered.suffixes], rendered.num_scored


def _write(bundle, tokenizer, out, limit=None):
    write_prompts(bundle, tokenizer, out, max_per_benchmark=limit, progress=lambda done, total: None)
    return Prompts(out)


def test_every_prompt_of_the_real_bundle_is_the_whole_text_encoded(real_bundle, bpe, tmp_path):
    prompts = _write(read_bundle(real_bundle), bpe, tmp_path, ITEMS_EACH)
    tasks = reference_core.read_tasks(real_bundle)
    for task, entry in zip(tasks, prompts.benchmarks, strict=True):
        items = reference_core.read_task(real_bundle, task, ITEMS_EACH)
        for index in range(entry.num_items):
            prompt = prompts.prompt(entry.first + index)
            texts = reference_core.prompts_of(task, items, index)
            whole = [[bpe.bos, *bpe.encode(text)] for text in texts]
            rows, starts = reference_core.spans_of(task["icl_task_type"], whole)
            assert [[*prompt.prefix, *suffix] for suffix in prompt.suffixes] == rows
            assert prompt.num_scored == [len(row) - start for row, start in zip(rows, starts, strict=True)]
            assert prompt.gold == items[index].get("gold")


def test_real_items_of_all_but_the_schemas_are_cut(real_bundle, bpe):
    bundle = read_bundle(real_bundle)
    assert is_cut_rule_known(bpe)
    for benchmark in bundle.benchmarks:
        renderer = Renderer(benchmark, shuffled(bundle.items(benchmark), 200), bpe)
        separable = sum(text.is_separable for text in renderer.texts)
        assert separable == (0 if benchmark.kind == "schema" else len(renderer.texts)), benchmark.label


@given(
    texts=st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=3, max_size=4),
    delimiter=st.sampled_from([" ", "\nAnswer: ", "", "\n"]),
    kind=st.sampled_from(["multiple_choice", "schema", "language_modeling"]),
)
def test_cutting_changes_no_token_of_any_text(bpe, texts, delimiter, kind):
    forms = {
        "multiple_choice": [{"query": a, "choices": [b, c], "gold": 1} for a, b, c in texts],
        "schema": [{"context_options": [a, b], "continuation": c, "gold": 0} for a, b, c in texts],
        "language_modeling": [{"context": a + b, "continuation": c + "a"} for a, b, c in texts],
    }
    benchmark = _benchmark(kind, delimiter=delimiter)
    cut, whole = (Renderer(benchmark, forms[kind], encoder) for encoder in (bpe, WholeOnly(bpe)))
    for index in range(len(texts)):
        assert _sequences(cut, index) == _sequences(whole, index)


def test_examples_are_drawn_from_all_other_items_as_random_draws_them():
    # by hand: with five items the others of item 2 are 0, 1, 3, 4
    assert fewshot_indices(2, num_items=5, num_fewshot=3) == random.Random(1236).sample([0, 1, 3, 4], 3) == [4, 3, 1]
    for index in (0, 7, 499):
        others = [number for number in range(500) if number != index]
        expected = random.Random(1234 + index).sample(others, 10)
        assert fewshot_indices(index, num_items=500, num_fewshot=10) == expected
    assert fewshot_indices(0, num_items=1, num_fewshot=10) == []
    assert sorted(fewshot_indices(1, num_items=3, num_fewshot=10)) == [0, 2]


def test_a_hand_worked_prompt(tokenizer):
    """One byte is one token here, so spans can be read off the text."""
    items = [{"query": "Q0", "choices": ["aa", "ab"], "gold": 1}, {"query": "Q1", "choices": ["c", "cd"], "gold": 0}]
    rendered, scored = _sequences(Renderer(_benchmark("multiple_choice"), items, tokenizer), 0)
    assert [bytes(row) for row in rendered] == [b"Q1 c\n\nQ0 aa", b"Q1 c\n\nQ0 ab"]
    assert scored == [1, 1]
    rendered, scored = _sequences(Renderer(_benchmark("multiple_choice"), items, tokenizer), 1)
    assert [bytes(row) for row in rendered] == [b"Q0 ab\n\nQ1 c", b"Q0 ab\n\nQ1 cd"]
    assert scored == [0, 1]
    schema = [{"context_options": ["A big dog", "A cat"], "continuation": "ran", "gold": 0}]
    rendered, scored = _sequences(Renderer(_benchmark("schema", 0), schema, tokenizer), 0)
    assert [bytes(row) for row in rendered] == [b"A big dog ran", b"A cat ran"]
    assert scored == [4, 4]
    text = [{"context": " Say it: \n", "continuation": "so"}]
    rendered, scored = _sequences(Renderer(_benchmark("language_modeling", 0), text, tokenizer), 0)
    assert ([bytes(row) for row in rendered], scored) == ([b"Say it: so"], [3])


def test_schemas_of_one_text_are_scored_without_bos(tokenizer):
    same = [{"context_options": ["A", "A"], "continuation": "b", "gold": 0}]
    rendered = Renderer(_benchmark("schema", 0), same, tokenizer).render(0)
    assert (rendered.prefix, rendered.num_scored) == ([], [3, 3])


def test_a_limited_run_asks_the_first_items_of_the_whole_one(bundle_folder, bpe, tmp_path):
    bundle = read_bundle(bundle_folder)
    whole, part = _write(bundle, bpe, tmp_path / "whole"), _write(bundle, bpe, tmp_path / "part", 2)
    copa, few = whole.benchmarks[0], part.benchmarks[0]  # without examples, so the prompts are the same too
    assert few.num_items == 2
    for index in range(2):
        assert whole.prompt(copa.first + index).prefix.tolist() == part.prompt(few.first + index).prefix.tolist()
    assert part.max_per_benchmark == 2
    assert shuffled(list(range(5)), None)[:2] == shuffled(list(range(5)), 2)
    with pytest.raises(ConfigError, match="max_per_benchmark"):
        _write(bundle, bpe, tmp_path / "none", 0)


def test_equal_prompts_make_equal_files(bundle_folder, bpe, tmp_path):
    for name in ("a", "b"):
        _write(read_bundle(bundle_folder), bpe, tmp_path / name)
    for name in ("tokens.npy", "items.npz", "index.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_what_is_missing_is_named(bundle_folder, bpe, tmp_path):
    (bundle_folder / "eval_data/a/copa.jsonl").unlink()
    missing = _write(read_bundle(bundle_folder), bpe, tmp_path).missing
    assert len(missing) == 22 - 3
    assert {"copa", "coqa"} <= set(missing)


def test_common_length():
    assert common_length([[1, 2, 3], [1, 2], [1, 2, 4]]) == 2
    assert common_length([[1], [2]]) == common_length([[], [1]]) == 0
    assert common_length([[5, 6]]) == 2
