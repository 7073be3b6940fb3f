"""The bundle in each of its forms, and what is said of one that is damaged."""

import json

import pytest
from http_server import HttpServer

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.config import CoreConfig
from nanochat_core.data.hub import Patience
from nanochat_core.evals.core.bundle import file_sha256, obtain_bundle, open_bundle, read_bundle
from nanochat_core.evals.core.published import BY_LABEL, PUBLISHED

IMPATIENT = Patience(num_tries=2, backoff_base_s=0.01, connect_timeout_s=2)


def _replace(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_folder_zip_and_url_are_the_same_bundle(bundle_folder, make_zip, tmp_path):
    zips = [make_zip(bundle_folder, top) for top in ("", "eval_bundle/")]
    sources = [bundle_folder, *zips, zips[1].as_uri()]
    bundles = [open_bundle(source, tmp_path / f"work{number}") for number, source in enumerate(sources)]
    assert len({bundle.digest for bundle in bundles}) == 1
    assert len({bundle.benchmarks for bundle in bundles}) == 1
    assert [benchmark.label for benchmark in bundles[0].benchmarks] == ["copa", "piqa", "winograd", "jeopardy"]
    assert [bundle.archive_sha256 for bundle in bundles] == [None, *map(file_sha256, zips), file_sha256(zips[1])]
    piqa = bundles[3].benchmarks[1]
    assert (piqa.num_fewshot, piqa.delimiter, piqa.baseline_percent) == (3, "\nAnswer: ", 50.0)
    assert bundles[3].items(piqa)[4]["query"] == "Question: How do I open jar 4?\n"


def test_the_digest_changes_with_any_content(bundle_folder):
    before = read_bundle(bundle_folder).digest
    _replace(bundle_folder / "eval_data/b/jeopardy.jsonl", "It is 3", "It is 4")
    assert read_bundle(bundle_folder).digest != before


@pytest.fixture
def served(bundle_folder, make_zip):
    """The bundle's zip behind a real HTTP server that can misbehave."""
    path = make_zip(bundle_folder, "")
    with HttpServer() as server:
        server.files["/eval_bundle.zip"] = path.read_bytes()
        yield server, path


def test_a_download_with_another_digest_is_refused(served, tmp_path):
    server, path = served
    url = f"{server.url}/eval_bundle.zip"
    assert open_bundle(url, tmp_path / "a", sha256=file_sha256(path).upper()).missing == ()
    assert open_bundle(url, tmp_path / "c").archive_sha256 == file_sha256(path)
    with pytest.raises(CorruptError, match=f"{'0' * 64}"):
        open_bundle(url, tmp_path / "b", sha256="0" * 64, patience=IMPATIENT)


def test_a_url_that_nobody_answers_says_what_else_can_be_done(tmp_path):
    with pytest.raises(MissingError) as caught:
        open_bundle("http://127.0.0.1:9/eval_bundle.zip", tmp_path, patience=IMPATIENT)
    assert "core.path" in (caught.value.hint or "")


def test_a_torn_zip_leaves_no_folder_that_looks_whole(bundle_folder, make_zip, tmp_path):
    path = make_zip(bundle_folder, "")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CorruptError, match="no whole zip"):
        open_bundle(path, tmp_path / "work")
    assert [name for name in (tmp_path / "work").iterdir() if not name.name.endswith(".part")] == []


def test_a_name_in_a_zip_cannot_leave_the_folder(bundle_folder, make_zip, tmp_path):
    (bundle_folder / "eval_data/escaped.jsonl").write_text("{}\n")
    bundle = open_bundle(make_zip(bundle_folder, "../../x/"), tmp_path / "work" / "deep")
    assert bundle.root.is_relative_to(tmp_path / "work" / "deep")
    assert not list(tmp_path.glob("x/**/escaped.jsonl"))


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
        ('{"query": "x", "choices"', "line 6 is no JSON"),
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


def test_what_is_obtained_is_a_bundle_of_the_same_content(bundle_folder, make_zip, tmp_path):
    path = make_zip(bundle_folder, "eval_bundle/")
    for number, config in enumerate(
        [CoreConfig(source="url", url=path.as_uri()), CoreConfig(source="path", path=str(bundle_folder))]
    ):
        out = tmp_path / f"out{number}"
        metrics = obtain_bundle(config, out, downloads=tmp_path / f"downloads{number}")
        assert read_bundle(out).digest == read_bundle(bundle_folder).digest == metrics["bundle_digest"]
        assert metrics["num_benchmarks"] == 4
    with pytest.raises(ConfigError, match=r"core\.source"):
        obtain_bundle(CoreConfig(), tmp_path, downloads=tmp_path)


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
