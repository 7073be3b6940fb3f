"""Models of nanochat's earlier generations: logits, greedy tokens, and what their files must say."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_server import byte_tokenizer
from safetensors.torch import load_file, save_file

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.neutral import identity
from nanochat_core.config import GPTConfig
from nanochat_core.export.admission import check_modeling_file
from nanochat_core.export.adopt import adopt
from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.model import probe
from nanochat_core.model.generations import options_of
from nanochat_core.model.import_checkpoint import load_nanochat_checkpoint, read_checkpoint
from nanochat_core.model.shape import count_params, window_sizes
from nanochat_core.model.weights import load_model, save_model
from nanochat_core.optim.groups import OptimConfig, parameter_groups

FOLDERS = (
    "2025-10-13", "2026-01-11-lambdas", "2026-01-16-value-embeds", "2026-03-09-gates", "transformers-nanochat",
)  # fmt: skip
TOLERANCE = 1e-4
VOCABULARY = 278  # the byte tokenizer's, padded to 320
SHAPE = GPTConfig(sequence_len=256, vocab_size=VOCABULARY, n_layer=4, n_head=4, n_kv_head=2, n_embd=64)
# each option by itself, and all that the first generation had otherwise
OPTIONS = {
    "residual weights": {"residual_weights": False},
    "skip weights": {"skip_weights": False},
    "smear": {"smear": False},
    "backout": {"backout": False},
    "no value embeddings": {"value_gate_channels": 0},
    "wide gate": {"value_gate_channels": 32, "value_gate_scale": 2.0},
    "gain": {"qk_gain": 1.0},
    "rotary base": {"rotary_base": 10_000.0},
    "window": {"short_window_tokens": 40},
    "softcap": {"softcap": 20.0},
    "the first": options_of((), 0, sequence_len=256) | {"window_pattern": "L"},
}


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, shared: Path) -> Path:
    return shared / "golden/generations" / request.param


@torch.no_grad()
def test_logits_and_greedy_tokens_equal_those_of_their_time(folder: Path) -> None:
    speaks = folder.parent / "2025-10-13" if folder.name.startswith("transformers") else folder
    found = adopt(folder, tokenizer_folder=speaks, softcap=15.0)
    model, expected = found.model, np.load(folder / "expected.npz")
    ids = torch.tensor(expected["ids"]).long()
    logits = model(ids)
    for part, wanted in ((logits[:, -16:], "logits_last16"), (logits[:, :4], "logits_first")):
        torch.testing.assert_close(part, torch.tensor(expected[wanted]), atol=TOLERANCE, rtol=0)
    prompt, greedy = ids[0, :30].tolist(), expected["greedy"].tolist()
    plain = torch.tensor([[*prompt, *greedy[:-1]]])
    assert model(plain)[0, 29:].argmax(-1).tolist() == greedy
    engine = Engine(model, found.tokenizer, weights="plain")
    assert isinstance(engine.decoder(num_rows=1, max_len=8), Decoder), "the fast decoder takes every generation"
    decoder = engine.decoder(num_rows=1, max_len=80)
    answer = [int(decoder.prefill_rows([0], torch.tensor([prompt])).argmax())]
    while len(answer) < len(greedy):
        answer.append(int(decoder.step(answer[-1:])[0].argmax()))
    assert answer == greedy


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_is_one_network_everywhere(option: str, tmp_path: Path) -> None:
    config, tokenizer = replace(SHAPE, **OPTIONS[option]), byte_tokenizer()
    model = probe.drawn(config)
    assert sum(parameter.numel() for parameter in model.parameters()) == count_params(config).total
    ids = torch.tensor([[269, *b"a carrier of stones under the bridge", *b" and " * 30]])
    assert not torch.equal(model(ids), probe.drawn(SHAPE)(ids)), "the option changes nothing"
    engine = Engine(model, tokenizer, weights="plain")
    assert isinstance(engine.decoder(num_rows=1, max_len=8), Decoder)
    answer = engine.generate([ids[0].tolist()], [Sampling(max_new_tokens=4, use_tools=False)])[0]
    with torch.no_grad():
        assert answer.tokens[0] == int(model(ids)[0, -1].argmax())
    check_modeling_file(config, tokenizer)
    save_model(tmp_path, model)
    again = load_model(tmp_path)
    assert again.config == config
    with torch.no_grad():
        assert torch.equal(again(ids), model(ids))


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_trains(option: str) -> None:
    """The loss falls, and what a model has not does not come into being."""
    config = replace(SHAPE, **OPTIONS[option])
    model = probe.drawn(config)
    names = [name for group in parameter_groups(model, OptimConfig()) for name in group.params]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    ids = torch.tensor([[269, *b"what goes up must come down, and what comes down was up"]])
    losses = []
    for _ in range(5):
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]
    constants = [value for name, value in model.named_buffers() if not name.startswith("rotary.")]
    assert all(value.unique().tolist() in ([0.0], [1.0]) for value in constants)


def test_todays_network_is_stored_without_its_options() -> None:
    assert set(identity(SHAPE)) == {
        "sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head", "n_embd", "window_pattern",
    }  # fmt: skip
    assert identity(replace(SHAPE, softcap=20.0))["softcap"] == 20.0


def _theirs(model: torch.nn.Module, *, rows: int) -> dict[str, torch.Tensor]:
    """A model's tensors by nanochat's names, with so many rows in the tables."""
    renamed = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("embed.weight", "transformer.wte.weight") if name == "embed.weight" else name
        name = name.replace("head.weight", "lm_head.weight") if name == "head.weight" else name
        for ours, theirs in (
            ("blocks.", "transformer.h."), (".attn.value_gate", ".attn.ve_gate"), ("residual_weights", "resid_lambdas"),
            ("skip_weights", "x0_lambdas"),
        ):  # fmt: skip
            name = name.replace(ours, theirs)
        for part in ("q", "k", "v", "proj"):
            name = name.replace(f".attn.{part}.", f".attn.c_{part}.")
        for part in ("fc", "proj"):
            name = name.replace(f".mlp.{part}.", f".mlp.c_{part}.")
        renamed[name] = tensor[:rows].clone() if "wte" in name or "head" in name or "embeds" in name else tensor
    return renamed


def _write(folder: Path, config: GPTConfig, *, rows: int, pattern: str | None, step: int = 10) -> torch.nn.Module:
    model = probe.drawn(config)
    shape = {
        name: getattr(config, name) for name in ("sequence_len", "vocab_size", "n_layer", "n_head", "n_kv_head")
    } | {"n_embd": config.n_embd}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(_theirs(model, rows=rows), folder / f"model_{step:06d}.pt")
    meta = {"step": step, "model_config": shape | ({"window_pattern": pattern} if pattern else {})}
    (folder / f"meta_{step:06d}.json").write_text(json.dumps(meta))
    return model


@torch.no_grad()
@pytest.mark.parametrize("rows", [VOCABULARY, 320], ids=["the vocabulary", "padded"])
@pytest.mark.parametrize("pattern", [None, "SSL", "SSSL"])
@pytest.mark.parametrize("tensors", ["plain", "lambdas", "wide gates", "narrow gates"])
def test_differences_are_found_one_by_one(tensors: str, pattern: str | None, rows: int, tmp_path: Path) -> None:
    has = {"residual_weights"} if tensors != "plain" else set()
    channels = {"wide gates": 32, "narrow gates": 12}.get(tensors, 0)
    config = replace(SHAPE, **options_of(has, channels, sequence_len=256), window_pattern=pattern or "L")
    model = _write(tmp_path, config, rows=rows, pattern=pattern)
    found = read_checkpoint(tmp_path)
    assert found.config == config
    assert found.softcaps == ((15.0, 20.0) if channels == 32 else (15.0,))
    ids = torch.tensor([list(b"some text that is longer than nothing, for windows " * 4)])
    torch.testing.assert_close(found.model()(ids), model(ids))


def test_windows_are_those_of_their_time() -> None:
    """A half since January 2026, a third in whole tiles since 9 March, a quarter with the smear."""
    names = {"a half": ((), 0), "a third": ((), 12), "a quarter": (("smear_weight",), 12)}
    shape = replace(SHAPE, sequence_len=2048, window_pattern="SL", n_layer=2)
    found = {
        name: window_sizes(replace(shape, **options_of(weights, channels, sequence_len=2048)))[0]
        for name, (weights, channels) in names.items()
    }
    assert found == {"a half": 1024, "a third": 768, "a quarter": 512}


def test_a_model_in_parts_is_one_model_and_a_lost_part_is_named(shared: Path, tmp_path: Path) -> None:
    source = shared / "golden/generations/transformers-nanochat"
    weights = load_file(source / "model.safetensors")
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:7], "model-00002-of-00002.safetensors": names[7:]}
    for file, held in parts.items():
        save_file({name: weights[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(source / "config.json", tmp_path)
    ids = torch.tensor([[1, 2, 3, 4]])
    with torch.no_grad():
        assert torch.equal(load_nanochat_checkpoint(tmp_path)(ids), load_nanochat_checkpoint(source)(ids))
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(MissingError, match="model-00002-of-00002"):
        load_nanochat_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [({"attention_bias": True}, "attention_bias"), ({"hidden_act": "gelu"}, "hidden_act"),
     ({"intermediate_size": 100}, "intermediate_size"), ({"final_logit_softcapping": None}, "no model of nanochat's"),
     ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn")],
)  # fmt: skip
def test_another_network_under_the_name_of_nanochat_is_refused(
    change: dict[str, object], told: str, shared: Path, tmp_path: Path
) -> None:
    source = shared / "golden/generations/transformers-nanochat"
    shutil.copy(source / "model.safetensors", tmp_path)
    config = json.loads((source / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(MissingError, match=told):
        load_nanochat_checkpoint(tmp_path)


def test_half_a_download_is_refused(tmp_path: Path) -> None:
    _write(
        tmp_path,
        replace(SHAPE, **options_of((), 0, sequence_len=256), window_pattern="L"),
        rows=VOCABULARY,
        pattern=None,
    )
    (tmp_path / "meta_000010.json").rename(tmp_path / "meta_000005.json")
    with pytest.raises(MissingError, match=r"no meta_000010.json"):
        load_nanochat_checkpoint(tmp_path)
    (tmp_path / "meta_000005.json").rename(tmp_path / "meta_000010.json")
    whole = (tmp_path / "model_000010.pt").read_bytes()
    (tmp_path / "model_000010.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MissingError, match="cannot be read"):
        load_nanochat_checkpoint(tmp_path)


def _ambiguous(folder: Path, softcap: float, tokenizer: object) -> None:
    """A model of early March 2026 that was trained a little with this cap, and its tokenizer."""
    config = replace(SHAPE, n_layer=2, n_embd=64, **options_of({"skip_weights"}, 32, sequence_len=256), softcap=softcap)
    model = _write(folder, replace(config, window_pattern="L"), rows=VOCABULARY, pattern=None)
    tokenizer.save(folder)
    # the head says one token so loudly that the cap decides what it costs; the other cap is off by that much
    with torch.no_grad():
        model.head.weight.mul_(0.2)
    ids = torch.tensor([[269, *b"the cat and the other cat and the third cat and a dog " * 4]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    torch.save(_theirs(model, rows=VOCABULARY), folder / "model_000010.pt")


def test_a_cap_that_no_file_tells_is_measured_said_and_may_be_chosen(tmp_path: Path) -> None:
    _ambiguous(tmp_path, 20.0, byte_tokenizer())
    found = adopt(tmp_path)
    assert found.model.config.softcap in (15.0, 20.0)
    assert "15 or 20" in found.notes[0]
    said = {
        float(part.split(" at ")[1]): float(part.split()[0]) for part in found.notes[0].split(": ")[1].split(", ")[:2]
    }
    assert found.model.config.softcap == min(said, key=lambda cap: said[cap])
    assert adopt(tmp_path, softcap=20.0).model.config.softcap == 20.0
    assert adopt(tmp_path, softcap=15.0).model.config.softcap == 15.0
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="15 or 20"):
        adopt(tmp_path)


def test_a_tokenizer_of_another_size_is_refused(shared: Path) -> None:
    generations = shared / "golden/generations"
    with pytest.raises(MissingError, match="320 tokens and its tokenizer 272"):
        adopt(generations / "2025-10-13", tokenizer_folder=generations / "2026-03-09-gates")
