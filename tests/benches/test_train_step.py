"""The benches compare like with like: the reference trains the same network, and what is counted adds up."""

import json

import pytest
import torch

from benchmarks.loader import LoaderBenchConfig, bench_loader
from benchmarks.reference_step import PlainLoss
from benchmarks.step_profile import KINDS, kind_of, table
from benchmarks.tokenizer import TokenizerBenchConfig, bench_tokenizer
from benchmarks.train_step import StepBenchConfig, batch, bench_step, compile_blocks, profile_variant
from nanochat_core.base.errors import ConfigError, HardwareError
from nanochat_core.base.hardware import has_fast_bf16
from nanochat_core.config import GPTConfig
from nanochat_core.data.documentation import documents
from nanochat_core.model.gpt import GPT

CPU = torch.device("cpu")
SMALL = StepBenchConfig(depth=2, vocab_size=200, num_rows=2, sequence_len=32, num_steps=2, variants=("plain", "fp32"))


def drawn_model(sequence_len=40):
    config = GPTConfig(
        sequence_len=sequence_len, vocab_size=90, n_layer=4, n_head=4, n_kv_head=2, n_embd=64, window_pattern="SSSL"
    )
    model = GPT(config)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    return model


@pytest.mark.parametrize("num_tokens", [40, 200])  # the windows are 128
def test_the_reference_has_the_loss_and_the_gradients_of_the_model(num_tokens):
    ours, theirs = drawn_model(num_tokens), drawn_model(num_tokens)
    ids = torch.randint(0, 90, (3, num_tokens + 1), generator=torch.Generator().manual_seed(2))
    inputs, targets = ids[:, :-1], ids[:, 1:].clone()
    targets[0, :5] = -1
    ours.loss(inputs, targets, reduction="sum").backward()
    loss = PlainLoss(theirs, num_tokens=num_tokens)(inputs, targets)
    loss.backward()
    assert loss.item() == pytest.approx(ours.loss(inputs, targets, reduction="sum").item(), rel=1e-5)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert (a.grad - b.grad).norm() <= 1e-4 * b.grad.norm() + 1e-6, name


def test_all_variants_learn_the_same():
    result = bench_step(SMALL, device=CPU)
    assert list(result["variants"]) == ["plain", "fp32"]
    for figures in result["variants"].values():
        assert figures["loss_difference"] < 1e-3
        assert figures["tokens_per_s"] > 0
    assert result["variants"]["plain"]["times_reference"] == 1.0
    json.dumps(result)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ConfigError, match="no variant 'x'"):
        StepBenchConfig(variants=("x",))
    with pytest.raises(ConfigError, match="depth = 0"):
        StepBenchConfig(depth=0)
    if not has_fast_bf16(CPU):
        with pytest.raises(HardwareError):
            bench_step(StepBenchConfig(depth=1, variants=("bf16",)), device=CPU)


def test_a_batch_depends_on_its_number_alone():
    assert torch.equal(batch(SMALL, 3, device=CPU)[0], batch(SMALL, 3, device=CPU)[0])
    assert not torch.equal(batch(SMALL, 3, device=CPU)[0], batch(SMALL, 4, device=CPU)[0])
    ids, targets = batch(SMALL, 0, device=CPU)
    assert torch.equal(ids[:, 1:], targets[:, :-1])
    assert int(ids.max()) < SMALL.vocab_size


def test_blocks_compiled_by_themselves_are_the_only_compiled_modules():
    model = drawn_model()
    compile_blocks(model)
    compiled = [name for name, module in model.named_modules() if module._compiled_call_impl is not None]
    assert compiled == [f"blocks.{layer}" for layer in range(4)]


def test_the_kinds_of_work_add_up_to_the_step(tmp_path):
    result = profile_variant("fp32", SMALL, tmp_path / "profile", device=CPU)
    kinds = result["kinds_ms"]
    assert tuple(kinds) == KINDS
    assert sum(kinds.values()) == pytest.approx(result["step_ms"], rel=0.02)
    for kind in ("matrix products", "attention", "elementwise", "lookup", "cross-entropy", "optimizer"):
        assert kinds[kind] > 0, kind
    assert kinds["communication"] == 0
    assert json.loads((tmp_path / "profile/trace.json").read_text())["traceEvents"]
    assert (tmp_path / "profile/kinds.md").read_text() == table(result)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::mm", "autograd::engine::evaluate_function: MmBackward0"], "matrix products"),
        (["aten::mm", "_LinearCrossEntropy"], "cross-entropy"),
        (["aten::bmm", "aten::matmul", "_BlockedAttention"], "attention"),
        (["aten::baddbmm", "optimizer"], "optimizer"),
        (["gloo:all_reduce", "c10d::allreduce_", "optimizer"], "communication"),
        (["aten::embedding_dense_backward"], "lookup"),
        (["aten::mul", "_RmsNorm"], "elementwise"),
    ],
)
def test_work_is_told_apart_by_what_it_is_for(names, kind):
    assert kind_of(iter(names)) == kind


def test_the_loader_bench_counts_every_token_of_its_batches():
    config = LoaderBenchConfig(row_len=65, batch_rows=4, vocab_size=600, num_steps=20, max_documents=120)
    result = bench_loader(documents(), config)
    assert result["tokens_read"] == 20 * 4 * 64
    ratio = result["load_tokens_per_cpu_s"] / result["encode_tokens_per_cpu_s"]
    assert result["times_reference"] == pytest.approx(ratio)
    json.dumps(result)


def test_both_ways_of_encoding_and_learning_give_the_same_tokens():
    result = bench_tokenizer(documents(), TokenizerBenchConfig(vocab_size=600, max_bytes=100_000, num_repeats=1))
    assert result["num_documents_that_differ"] == 0
    assert result["merges_are_equal"]
    assert result["text_bytes"] >= 100_000
    assert result["bytes_per_token"] > 1.5
