"""`nanochat export` and `import-tokenizer` as they are typed."""

import json

import pytest
import typer
from typer.testing import CliRunner

from nanochat_core import workspace
from nanochat_core.cli import export
from nanochat_core.cli.app import Verbs
from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT
from nanochat_core.model.weights import save_model
from nanochat_core.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def run(home, tmp_path):
    """The verbs, with a tiny base model called `small` in the store."""
    store = workspace.current().store
    tokenizer = Tokenizer([bytes([value]) for value in range(256)])
    model = GPT(GPTConfig(sequence_len=32, vocab_size=265, n_layer=1, n_head=1, n_kv_head=1, n_embd=32))
    model.init_weights(0)
    tokenizer.save(tmp_path / "tokenizer")
    save_model(tmp_path / "pretrain", model)
    common = {"config": {}, "code": {}, "packages": {}, "metrics": {}, "provenance": {}, "fingerprint": "f1"}
    made = store.publish(tmp_path / "tokenizer", step="tokenizer", inputs={}, **common)
    trained = store.publish(tmp_path / "pretrain", step="pretrain", inputs={"tokenizer": made.result_digest}, **common)
    store.set_ref("small", "1", trained)
    app = typer.Typer(cls=Verbs)
    export.register(app)
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_export_prints_every_files_digest(run, tmp_path):
    done = run("export", "small", "--to", "hf", tmp_path / "out")
    assert done.exit_code == 0, done.output
    for path in (tmp_path / "out").iterdir():
        assert path.name in done.stdout


def test_json_is_all_that_is_printed_with_json(run, tmp_path):
    done = run("export", "small", "--to", "safetensors", tmp_path / "out", "--dtype", "bf16", "--json")
    told = json.loads(done.stdout)
    assert (told["ref"], told["form"], told["dtype"]) == ("small", "safetensors", "bfloat16")
    assert {file["name"] for file in told["files"]} == {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["small", "--to", "gguf"], 2),
        (["small", "--to", "hf", "--dtype", "int8"], 2),
        (["nobody", "--to", "hf"], 3),
    ],
)
def test_a_wrong_call_leaves_nothing_behind(run, tmp_path, arguments, code):
    done = run("export", *arguments, tmp_path / "out")
    assert done.exit_code == code
    assert "hint:" in done.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["hf", "safetensors"])
def test_import_tokenizer_reads_both_forms(run, tmp_path, form):
    run("export", "small", "--to", form, tmp_path / "out")
    done = run("import-tokenizer", tmp_path / "out", tmp_path / "again")
    assert done.exit_code == 0, done.output
    assert stored(tmp_path / "again") == stored(tmp_path / "tokenizer")
    assert run("import-tokenizer", tmp_path / "out", tmp_path / "again").exit_code == 2
    assert run("import-tokenizer", tmp_path / "nowhere", tmp_path / "other").exit_code == 3


def stored(folder):
    return json.loads((folder / "tokenizer.json").read_text())
