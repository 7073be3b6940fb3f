"""The decode bench: its figures follow from each other, and the verb prints nothing but JSON when asked to."""

import json

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks.decode import (
    BenchConfig,
    _ahead,
    _likeliest,
    bench_decode,
    decode_bytes,
    random_model,
)
from nanochat_core.base.errors import ConfigError
from nanochat_core.cli import bench
from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.device_steps import DeviceSteps

SMALL = {"depth": 2, "vocab_size": 256, "prompt_tokens": 8, "new_tokens": 6, "num_repeats": 2}


def test_figures_of_a_run_follow_from_each_other():
    result = bench_decode(BenchConfig(**SMALL, num_rows=2, variants=("reference", "plain")))
    plain = result["variants"]["plain"]
    assert plain["tokens_per_s"] == pytest.approx(2e3 / plain["step_ms"])
    assert plain["times_reference"] > 0
    assert "times_reference" not in result["variants"]["reference"]
    assert plain["mbu_with_tables"] > plain["mbu"] > 0
    assert result["threads"] == torch.get_num_threads()


def test_bytes_of_a_step_are_those_of_the_weights_and_of_what_is_seen():
    config = BenchConfig(**SMALL)
    model = random_model(config, torch.float32, torch.device("cpu"))
    matrices = sum(p.numel() for b in model.layers for p in b.parameters()) + model.head.weight.numel()
    tables = model.embed.weight.numel() + sum(p.numel() for p in model.value_embeds.parameters())
    seen = 2 * 2 * 11 * 128 * 4  # two layers, keys and values, 11 tokens half way, 128 wide, fp32
    for name, width in (("plain", 4), ("bf16", 2), ("int8", 1)):
        without = decode_bytes(name, model.config, config, with_tables=False)
        assert without == matrices * width + seen
        assert decode_bytes(name, model.config, config, with_tables=True) == without + 4 * tables


def test_unknown_variants_and_empty_answers_are_refused():
    with pytest.raises(ConfigError, match="int3"):
        BenchConfig(variants=("int3",))
    with pytest.raises(ConfigError, match="new_tokens = 0"):
        BenchConfig(new_tokens=0)


def test_the_verb_prints_json_and_nothing_else():
    app = typer.Typer()
    bench.register(app)
    options = ["--depth", "2", "--prompt", "4", "--tokens", "4", "--repeats", "1", "--variants", "reference,plain"]
    done = CliRunner().invoke(app, ["bench", "decode", *options, "--device", "cpu", "--json"])
    assert done.exit_code == 0, done.output
    assert set(json.loads(done.stdout)["variants"]) == {"reference", "plain"}


def test_the_bench_of_a_gpu_decodes_what_the_other_does():
    """A token ahead of its reader: the same greedy tokens, by way of the device's own choice."""
    model = random_model(BenchConfig(**{**SMALL, "vocab_size": 300}), torch.float32, torch.device("cpu"))
    rows, prompt = [0, 1], torch.arange(10).view(2, 5)
    first, second = (Decoder(model, num_rows=2, max_len=12, weights="plain") for _ in range(2))
    tokens = _likeliest(first.prefill_rows(rows, prompt))
    assert tokens == _likeliest(second.prefill_rows(rows, prompt))
    step = _ahead(DeviceSteps(second), rows)
    for _ in range(5):
        expected = _likeliest(first.step(tokens))
        assert step(tokens) == expected
        tokens = expected
