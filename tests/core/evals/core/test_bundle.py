"""What is read of a bundle, and what is said of one that is damaged."""

import json

import pytest

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.evals.core.bundle import read_bundle
from nanochat_core.evals.core.published import BY_LABEL, PUBLISHED


def _replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_digest_changes_with_any_content(bundle_folder):
    before = read_bundle(bundle_folder).digest
    _replace(bundle_folder / "eval_data/b/jeopardy.jsonl", "It is 3", "It is 4")
    assert read_bundle(bundle_folder).digest != before


def test_an_absent_data_file_is_missing_and_not_fatal(bundle_folder):
    (bundle_folder / "eval_data/a/copa.jsonl").unlink()
    bundle = read_bundle(bundle_folder)
    assert bundle.missing == ("copa",)
    assert [benchmark.label for benchmark in bundle.benchmarks] == ["piqa", "winograd", "jeopardy"]


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("eval_meta_data.csv", "Random baseline", "Baseline", "'Random baseline'"),
        ("eval_meta_data.csv", "copa,", "capo,", "copa"),
        ("core.yaml", "icl_task_type: schema", "icl_task_type: essay", "essay"),
        ("core.yaml", "icl_tasks:", "tasks:", "icl_tasks"),
        ("core.yaml", "a/copa.jsonl", "../copa.jsonl", "copa.jsonl"),
        ("core.yaml", "num_fewshot: [0]", "num_fewshot: []", "task 1"),
    ],
)
def test_a_damaged_table_is_named_with_what_is_wrong(bundle_folder, name, old, new, message):
    _replace(bundle_folder / name, old, new)
    with pytest.raises(CorruptError, match=message):
        read_bundle(bundle_folder)


@pytest.mark.parametrize("name", ["core.yaml", "eval_meta_data.csv"])
def test_a_table_that_is_not_there_is_named(bundle_folder, name):
    (bundle_folder / name).unlink()
    with pytest.raises(MissingError, match=name):
        read_bundle(bundle_folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "x", "choices"', "line 6 is not JSON"),
        (json.dumps({"query": "x", "choices": ["a", "b"], "gold": 2}), "line 6: gold 2 of 2"),
        (json.dumps({"query": "x", "choices": "ab", "gold": 0}), "line 6: 'choices'"),
        (json.dumps({"choices": ["a"], "gold": 0}), "line 6: 'query'"),
    ],
)
def test_a_damaged_item_is_named_by_its_line(bundle_folder, line, message):
    with (bundle_folder / "eval_data/a/copa.jsonl").open("a") as file:
        file.write(line + "\n")
    bundle = read_bundle(bundle_folder)
    with pytest.raises(CorruptError, match=message):
        bundle.items(bundle.benchmarks[0])


def test_what_is_published_is_what_the_real_bundle_says(real_bundle):
    bundle = read_bundle(real_bundle)
    fields = ("kind", "num_fewshot", "delimiter", "baseline_percent", "category")
    for benchmark in bundle.benchmarks:
        published = BY_LABEL[benchmark.label]
        assert [getattr(benchmark, name) for name in fields] == [getattr(published, name) for name in fields]
        if benchmark.label != "squad":  # a part of it only, see the data's README
            assert len(bundle.items(benchmark)) == published.num_items
    assert len(bundle.benchmarks) >= 21
    assert sum(published.num_items for published in PUBLISHED) == 91_037
