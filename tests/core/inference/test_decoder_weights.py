"""Packed weights against plain ones: how far each kind may be off, and when they are packed again."""

import pytest
import torch
from core.inference.test_decoder import CONFIG, ids_of, make_model

from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.packed import (
    FP16_ROWS,
    INT8_ROWS,
    PackedProduct,
    PlainProduct,
    decode_weights,
    int8_from_float,
    problem_of,
    rounded_rows,
)

ROUNDING = {"bf16": 2**-8, "fp16": 2**-11, "int8": 2**-6}
needs = {kind: pytest.mark.skipif(problem_of(kind) is not None, reason=str(problem_of(kind))) for kind in ROUNDING}
KINDS = [pytest.param(kind, marks=needs[kind]) for kind in ROUNDING]


@pytest.fixture(scope="module")
def model():
    return make_model()


def decoded(model, kind, *, rows=1, steps=4):
    """Logits (steps + 1, V) of the last of `rows` equal sequences."""
    decoder, ids = Decoder(model, num_rows=rows, max_len=64, weights=kind), ids_of(30, seed=3)
    logits = [decoder.prefill_rows(list(range(rows)), torch.tensor([ids] * rows))]
    logits += [decoder.step([token] * rows) for token in ids[:steps]]
    return torch.stack([part[-1] for part in logits])


@pytest.mark.parametrize("kind", KINDS)
def test_packed_weights_give_the_plain_logits_within_their_rounding(model, kind):
    expected = decoded(model, "plain")
    error = (decoded(model, kind) - expected).abs().max() / expected.std()
    assert 0 < error < 8 * ROUNDING[kind]  # some errors of three layers add up, none is larger than the logits


@needs["bf16"]
def test_packed_bf16_is_as_close_to_plain_bf16_as_bf16_to_fp32(model):
    expected = decoded(model, "plain")
    packed = decoded(model, "bf16")
    model.compute_dtype = torch.bfloat16
    try:
        plain = decoded(model, "plain")
    finally:
        model.compute_dtype = torch.float32
    assert (packed - plain).abs().max() < 4 * (plain - expected).abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_row_says_does_not_hang_on_how_many_rows_there_are(model, kind):
    many = max(FP16_ROWS, INT8_ROWS) + 1  # another product than for one row
    alone, among = decoded(model, kind, rows=1), decoded(model, kind, rows=many)
    assert (alone - among).abs().max() / alone.std() < 8 * ROUNDING["bf16"]


def test_row_counts_are_rounded_to_few_that_are_little_larger():
    assert [rounded_rows(rows) for rows in (1, 7, 8, 9, 16, 17, 33, 2048)] == [1, 7, 8, 10, 16, 20, 40, 2048]
    assert all(rows <= rounded_rows(rows) <= 1.25 * rows for rows in range(1, 2049))
    assert len({rounded_rows(rows) for rows in range(1, 2049)}) < 45  # every one costs memory for good


@needs["bf16"]
@pytest.mark.parametrize("rows", [1, 9, 33])
def test_rounded_row_counts_leave_no_trace_in_a_product(rows):
    generator = torch.Generator().manual_seed(0)
    weight, x = torch.randn(24, 32, generator=generator), torch.randn(rows, 32, generator=generator)
    expected = (x.bfloat16().double() @ weight.bfloat16().double().T).float()
    for product in (PackedProduct(weight), PlainProduct(weight, dtype=torch.bfloat16)):
        torch.testing.assert_close(product(x).float(), expected, atol=0.1, rtol=0.01)


def test_int8_weights_are_within_half_a_step():
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)) * torch.logspace(-30, 4, 40).unsqueeze(1)
    weight[7] = 0
    integers, scales = int8_from_float(weight)
    restored = integers.double() * scales.double().unsqueeze(1)
    assert ((weight - restored).abs() <= 0.5001 * scales.double().unsqueeze(1)).all()
    assert (restored[7] == 0).all()
    assert int(integers.abs().max()) == 127


@needs["int8"]
def test_int8_barely_changes_the_loss(model):
    """Cross entropy of 60 tokens, teacher forced, against the exact decoder's."""
    ids = ids_of(60, seed=5)

    def loss(kind):
        decoder = Decoder(model, num_rows=1, max_len=64, weights=kind)
        logits = torch.cat([decoder.step([token]) for token in ids[:-1]])
        return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])))

    assert abs(loss("int8") - loss("plain")) < 0.01


def test_auto_keeps_fp32_models_exact_and_packs_bf16_ones(model):
    assert decode_weights(model, "auto").kind == "plain"
    model.compute_dtype = torch.bfloat16
    try:
        weights = decode_weights(model, "auto")
        assert weights.kind == ("fp16" if problem_of("fp16") is None else "bf16")
        assert weights.reason
    finally:
        model.compute_dtype = torch.float32


@pytest.mark.parametrize("kind", ["plain", *KINDS])
def test_weights_are_packed_once_and_again_after_a_change(kind):
    model = make_model(CONFIG)
    first = decode_weights(model, kind)
    assert decode_weights(model, kind) is first
    before = decoded(model, kind)
    with torch.no_grad():
        model.layers[1].attn.q.weight.mul_(-1.5)
    assert decode_weights(model, kind) is not first
    assert not torch.equal(decoded(model, kind), before)
