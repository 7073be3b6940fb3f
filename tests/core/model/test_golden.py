"""The model against numbers from nanochat: logits, losses, a greedy continuation, refused folders."""

import json
import shutil

import nanochat_golden
import pytest
import torch
from safetensors.torch import load_file, save_file

from nanochat_core.base.errors import MissingError, NanochatError
from nanochat_core.inference.decoder import Decoder
from nanochat_core.model.import_checkpoint import load_nanochat_checkpoint
from nanochat_core.model.shape import flops_per_token, window_sizes

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(golden_d4):
    return load_nanochat_checkpoint(golden_d4)


@pytest.fixture(scope="module")
def golden():
    return nanochat_golden.numbers()


@pytest.fixture(scope="module")
def expected():
    return nanochat_golden.arrays("expected")


def _batch(golden):
    ids = torch.tensor(golden["ids"])
    targets = ids[:, 1:].clone()
    targets[0, :20] = -1
    return ids[:, :-1], targets


@torch.no_grad()
def test_logits_equal_nanochats(model, golden, expected):
    logits = model(_batch(golden)[0])
    torch.testing.assert_close(logits[:, -32:], expected["logits_last32"], atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(logits[:, 0], expected["logits_pos0"], atol=TOLERANCE, rtol=0)


def test_losses_equal_nanochats(model, golden, expected):
    ids, targets = _batch(golden)
    losses = model.loss(ids, targets, reduction="none")
    torch.testing.assert_close(losses.flatten(), expected["token_losses"], atol=TOLERANCE, rtol=0)
    assert model.loss(ids, targets).item() == pytest.approx(golden["mean_loss"], abs=TOLERANCE)
    num_targets = (targets >= 0).sum().item()
    summed = model.loss(ids, targets, reduction="sum").item()
    assert summed / num_targets == pytest.approx(golden["mean_loss"], abs=TOLERANCE)


def test_greedy_continuation_by_the_decoder_equals_nanochats(model, golden):
    decoder = Decoder(model, num_rows=1, max_len=88)
    continuation = [int(decoder.prefill(0, golden["greedy_prompt"]).argmax())]
    while len(continuation) < len(golden["greedy_next_48"]):
        continuation.append(int(decoder.step(continuation[-1:])[0].argmax()))
    assert continuation == golden["greedy_next_48"]


def test_shape_numbers_equal_nanochats(model, golden):
    assert flops_per_token(model.config) == golden["flops_per_token"]
    assert window_sizes(model.config) == golden["window_sizes"]


@torch.no_grad()
def test_a_compiled_models_pt_file_and_meta_json_load_like_safetensors(model, golden, golden_d4, tmp_path):
    weights = {f"_orig_mod.{name}": tensor for name, tensor in load_file(golden_d4 / "model.safetensors").items()}
    torch.save(weights, tmp_path / "model_000100.pt")
    (tmp_path / "meta_000100.json").write_text(json.dumps({"model_config": golden["config"]}))
    loaded = load_nanochat_checkpoint(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_a_pickle_that_runs_code_is_refused(golden, tmp_path):
    torch.save({"transformer.wte.weight": pytest.raises}, tmp_path / "model_000100.pt")
    (tmp_path / "config.json").write_text(json.dumps(golden["config"]))
    with pytest.raises(NanochatError):
        load_nanochat_checkpoint(tmp_path)


def test_missing_and_misshapen_tensors_are_named(golden_d4, tmp_path):
    shutil.copy(golden_d4 / "golden.json", tmp_path)
    weights = load_file(golden_d4 / "model.safetensors")
    without = {name: tensor for name, tensor in weights.items() if name != "backout_lambda"}
    save_file(without, tmp_path / "model.safetensors")
    with pytest.raises(MissingError, match="backout_weight"):
        load_nanochat_checkpoint(tmp_path)
    save_file({**weights, "lm_head.weight": torch.zeros(64, 128)}, tmp_path / "model.safetensors")
    with pytest.raises(MissingError, match=r"head.weight is \(64, 128\) instead of \(320, 128\)"):
        load_nanochat_checkpoint(tmp_path)


def test_absent_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(MissingError, match="no folder"):
        load_nanochat_checkpoint(tmp_path / "absent")
    with pytest.raises(MissingError, match="it holds nothing"):
        load_nanochat_checkpoint(tmp_path)
