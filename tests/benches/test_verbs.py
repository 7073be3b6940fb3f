"""`nanochat bench`: one JSON on the screen and in the file, or a table."""

import json
from itertools import islice

import typer
from typer.testing import CliRunner

from benchmarks.verbs import bench_app
from nanochat_core.base.errors import MissingError
from nanochat_core.cli import bench
from nanochat_core.data.documentation import documents
from nanochat_core.data.shards import write_shards

TRAIN = ("train", "--depth", "1", "--vocabulary", "100", "--rows", "1", "--length", "16", "--steps", "1")


def run(*arguments):
    result = CliRunner().invoke(bench_app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_json_of_a_training_bench_is_the_same_on_the_screen_and_in_the_file(tmp_path):
    shown = json.loads(run(*TRAIN, "--variants", "plain,fp32", "--json", "--out", str(tmp_path / "out.json")))
    assert shown == json.loads((tmp_path / "out.json").read_text())
    assert set(shown["variants"]) == {"plain", "fp32"}


def test_a_training_bench_prints_a_row_for_each_variant_and_the_profile(tmp_path):
    text = run(*TRAIN, "--variants", "fp32", "--profile", str(tmp_path / "profile"))
    assert "fp32" in text
    assert "| matrix products |" in text
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == ["kinds.md", "trace.json"]


def test_the_tokenizer_and_loader_benches_print_their_rows():
    text = run("tokenizer", "--vocabulary", "300", "--megabytes", "0.05", "--repeats", "1")
    assert "documents whose tokens differ" in text
    text = run("loader", "--row-len", "33", "--batch-rows", "2", "--steps", "3", "--documents", "40")
    assert "read batches" in text


def test_without_a_clone_the_verb_says_where_the_benches_are(tmp_path):
    app = typer.Typer()
    bench.register(app, tmp_path)
    app.command()(lambda: None)  # more than one verb, as the product has
    done = CliRunner().invoke(app, ["bench", "decode", "--rows", "8"])
    assert isinstance(done.exception, MissingError)
    assert done.exception.hint == "run it in a clone: make setup"


def test_the_tokenizer_bench_reads_text_of_ones_own(tmp_path):
    write_shards(islice(documents(), 50), tmp_path)
    options = ("--vocabulary", "300", "--repeats", "1", "--corpus", str(tmp_path), "--json")
    assert json.loads(run("tokenizer", *options))["num_documents"] == 50
