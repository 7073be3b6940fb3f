"""An exported folder: there whole or not at all, the same model when read back, a card with the manifests' numbers."""

import hashlib
import json
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file

from nanochat_core.base.errors import ConfigError, HardwareError, MissingError
from nanochat_core.export.folder import export_model, whole_folder
from nanochat_core.model.import_checkpoint import load_nanochat_checkpoint
from nanochat_core.model.weights import load_model
from nanochat_core.tokenizer.tokenizer import Tokenizer

FORMS = ("safetensors", "hf")


@pytest.fixture(scope="module", params=FORMS)
def exported(request, store, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "model"
    return export_model(store, "a-chat", folder, form=request.param), folder


def _same(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(name == other and torch.equal(x, y) for (name, x), (other, y) in pairs)


def test_the_digests_are_those_of_the_files(exported):
    done, folder = exported
    assert {file.name for file in done.files} == {path.name for path in folder.iterdir()}
    for file in done.files:
        content = (folder / file.name).read_bytes()
        assert (file.sha256, file.num_bytes) == (hashlib.sha256(content).hexdigest(), len(content))


@torch.no_grad()
def test_reading_it_back_gives_the_same_logits_bit_for_bit(exported, model):
    _, folder = exported
    again = load_nanochat_checkpoint(folder)
    assert again.config == model.config
    assert _same(again, model)
    ids = torch.randint(0, 592, (1, 200), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(ids), model(ids))


def test_our_own_form_keeps_the_stores_bytes(store, tokenizer, model, tmp_path):
    export_model(store, "a-chat", tmp_path / "out", form="safetensors")
    promised = store.ref("a-chat").files["model.safetensors"].sha256
    assert hashlib.sha256((tmp_path / "out/model.safetensors").read_bytes()).hexdigest() == promised
    assert _same(load_model(tmp_path / "out"), model)
    assert Tokenizer.load(tmp_path / "out").ranks == tokenizer.ranks


@pytest.mark.parametrize("form", FORMS)
def test_bf16_weights_read_back_as_the_rounded_ones_and_scalars_keep_fp32(store, model, tmp_path, form):
    export_model(store, "a-chat", tmp_path / "out", form=form, dtype="bfloat16")
    again = load_nanochat_checkpoint(tmp_path / "out")
    for name, parameter in model.named_parameters():
        expected = parameter.detach()
        expected = expected if expected.dim() < 2 else expected.bfloat16().float()
        assert torch.equal(dict(again.named_parameters())[name], expected), name
    stored = load_file(tmp_path / "out/model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.dim() > 1} == {torch.bfloat16}


@torch.no_grad()
def test_a_bf16_folder_loads_in_bf16_near_our_own_bf16(transformers, store, model, tmp_path):
    export_model(store, "a-chat", tmp_path / "out", form="hf", dtype="bfloat16")
    options = {"dtype" if int(transformers.__version__[0]) > 4 else "torch_dtype": "auto"}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", trust_remote_code=True, **options)
    assert theirs.dtype == theirs.embed.weight.dtype == torch.bfloat16
    ids = torch.randint(0, 592, (1, 100), generator=torch.Generator().manual_seed(0))
    rounded = load_nanochat_checkpoint(tmp_path / "out")
    exact = rounded(ids)
    rounded.compute_dtype = torch.bfloat16
    error = (rounded(ids) - exact).abs().mean()
    assert (theirs(ids).logits - exact).abs().mean() < 1.5 * error


def test_a_folder_with_something_in_it_is_refused_and_left_alone(store, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ConfigError) as refused:
        export_model(store, "a-chat", tmp_path, form="hf")
    assert refused.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_an_empty_folder_is_filled(store, tmp_path):
    target = tmp_path / "empty"
    target.mkdir()
    export_model(store, "a-base", target, form="safetensors")
    assert (target / "model.safetensors").is_file()


def test_after_an_error_nothing_is_left(tmp_path):
    def fail():
        with whole_folder(tmp_path / "out") as scratch:
            (scratch / "half").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_appeared_meanwhile_is_not_overwritten(tmp_path):
    def write():
        with whole_folder(tmp_path / "out") as scratch:
            (scratch / "ours").write_text("ours")
            (tmp_path / "out").mkdir()
            (tmp_path / "out/theirs").write_text("theirs")

    with pytest.raises(HardwareError, match="could not be written"):
        write()
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "theirs"]


def test_an_unknown_model_or_form_is_refused(store, tmp_path):
    with pytest.raises(MissingError):
        export_model(store, "nobody", tmp_path / "out", form="hf")
    with pytest.raises(ConfigError):
        export_model(store, "a-chat", tmp_path / "out", form="gguf")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_shape_is_refused_by_name(store, tmp_path):
    export_model(store, "a-chat", tmp_path / "out", form="hf")
    config = json.loads((tmp_path / "out/config.json").read_text())
    (tmp_path / "out/config.json").write_text(json.dumps({**config, "hidden_size": 128}))
    with pytest.raises(MissingError, match="wrong shapes"):
        load_nanochat_checkpoint(tmp_path / "out")


# --- the card ---


def _program(folder):
    (program,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), flags=re.DOTALL)
    return program


@pytest.mark.parametrize("ref", ["a-chat", "a-base"])
@pytest.mark.parametrize("form", FORMS)
def test_the_cards_program_runs_in_its_folder(store, transformers, tmp_path, monkeypatch, capsys, ref, form):
    export_model(store, ref, tmp_path / "out", form=form)
    monkeypatch.chdir(tmp_path / "out")
    exec(compile(_program(tmp_path / "out"), "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_card_has_the_manifests_numbers_and_no_paths(exported, store):
    _, folder = exported
    card = (folder / "README.md").read_text()
    sft, base = store.ref("a-chat"), store.ref("a-base")
    for number in ("0.1234", "± 0.0100", "25.0%", "19.5% to 31.4%", "987,654", "1,234 documents", "3.21 bytes", "77"):
        assert number in card, number
    assert f"{77 * 16 * 512:,}" in card
    assert "- Licence of the text (from: a survey): CC BY-NC 4.0." in card
    for artifact in (sft, base):
        assert artifact.fingerprint in card
        assert artifact.result_digest in card
    assert "c0ffee" in card
    assert "/home/somebody" not in card
    assert "a.txt" in card


def test_what_was_not_measured_is_not_in_the_card(store, tmp_path):
    """The base model's card has no chat benchmark, and bits per byte were never measured here."""
    export_model(store, "a-base", tmp_path / "out", form="hf")
    card = (tmp_path / "out/README.md").read_text()
    assert "CORE of the base model" in card
    assert "gsm8k" not in card
    assert "bits per byte" not in card.lower()


def test_a_card_without_any_history_still_says_what_the_model_is(store, tmp_path):
    bare = shutil.copytree(store.files.folder, tmp_path / "store")
    for step in ("corpus", "tokens", "evaluate_core", "benchmark_chat"):
        shutil.rmtree(bare / "steps" / step)
    from nanochat_core.store.store import Store

    export_model(Store.open(str(bare), cache_folder=tmp_path / "cache"), "a-chat", tmp_path / "out", form="hf")
    card = (tmp_path / "out/README.md").read_text()
    assert "Nothing was measured on it" in card
    assert "## Numbers" not in card
