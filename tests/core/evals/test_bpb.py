"""Bits per byte against numbers worked out by hand, and its independence of batches, ranks and vocabularies."""

import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from nudge import nudge

from nanochat_core.base.distributed import World
from nanochat_core.base.errors import MissingError
from nanochat_core.config import GPTConfig
from nanochat_core.evals.bpb import bits_per_byte
from nanochat_core.model.gpt import GPT

VOCAB = 270
TOKEN_BYTES = torch.tensor([*[1] * 256, 2, 3, 4, 7, 1, *[0] * 9])
NUM_ROWS, ROW_LEN = 13, 17


def _model(vocab_size, *, is_random):
    model = GPT(GPTConfig(sequence_len=16, vocab_size=vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=32))
    if is_random:
        nudge(model, 0.3, seed=0)
    return model


@pytest.fixture
def source(make_rows):
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCAB, size=(NUM_ROWS, ROW_LEN))
    return make_rows(ids, rng.integers(0, 2, size=ids.shape).astype(np.uint8))


@torch.no_grad()
def _by_hand(model, source, num_rows):
    """Straight from the definition: softmax in float64, one target after the other."""
    nats = num_bytes = all_nats = num_targets = 0.0
    for row in range(num_rows):
        ids, mask = source.read(row)
        logits = model(torch.from_numpy(ids[:-1].astype(np.int64))[None])[0].double().numpy()
        for position, target in enumerate(ids[1:].tolist()):
            if not mask[position + 1]:
                continue
            loss = np.log(np.exp(logits[position]).sum()) - logits[position, target]
            all_nats, num_targets = all_nats + loss, num_targets + 1
            if TOKEN_BYTES[target] > 0:
                nats, num_bytes = nats + loss, num_bytes + int(TOKEN_BYTES[target])
    return nats / (math.log(2) * num_bytes), all_nats / num_targets, int(num_bytes), int(num_targets)


@pytest.mark.parametrize("num_rows", [1, 5, NUM_ROWS])
def test_it_is_what_the_definition_says(source, num_rows):
    model = _model(VOCAB, is_random=True)
    result = bits_per_byte(model, source, TOKEN_BYTES, num_rows=num_rows, batch_rows=4)
    bpb, nats, num_bytes, num_tokens = _by_hand(model, source, num_rows)
    assert result.bits_per_byte == pytest.approx(bpb, rel=1e-5)
    assert result.nats_per_token == pytest.approx(nats, rel=1e-5)
    assert (result.num_bytes, result.num_tokens) == (num_bytes, num_tokens)


def test_it_does_not_change_with_the_batch(source):
    model = _model(VOCAB, is_random=True)
    results = [
        bits_per_byte(model, source, TOKEN_BYTES, num_rows=NUM_ROWS, batch_rows=rows) for rows in (1, 2, 5, 13, 100)
    ]
    for result in results[1:]:
        assert result.bits_per_byte == pytest.approx(results[0].bits_per_byte, rel=1e-6)
        assert (result.num_bytes, result.num_tokens) == (results[0].num_bytes, results[0].num_tokens)


def test_all_rows_are_taken_where_there_are_fewer_than_asked(source):
    model = _model(VOCAB, is_random=True)
    assert bits_per_byte(model, source, TOKEN_BYTES, num_rows=999, batch_rows=4) == bits_per_byte(
        model, source, TOKEN_BYTES, num_rows=NUM_ROWS, batch_rows=4
    )


def test_the_shares_of_two_ranks_cover_every_row_once(source):
    """In a group of one process a sum over ranks changes nothing, so each call returns that rank's own share."""
    model = _model(VOCAB, is_random=True)
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        shares = [
            bits_per_byte(model, source, TOKEN_BYTES, num_rows=NUM_ROWS, batch_rows=3, world=World(rank=rank, size=2))
            for rank in range(2)
        ]
    finally:
        dist.destroy_process_group()
    whole = bits_per_byte(model, source, TOKEN_BYTES, num_rows=NUM_ROWS, batch_rows=3)
    assert sum(share.num_bytes for share in shares) == whole.num_bytes
    weighted = sum(share.bits_per_byte * share.num_bytes for share in shares) / whole.num_bytes
    assert weighted == pytest.approx(whole.bits_per_byte, rel=1e-6)


def test_a_uniform_model_over_bytes_needs_eight_bits(make_rows):
    source = make_rows(np.random.default_rng(1).integers(0, 256, size=(6, ROW_LEN)))
    result = bits_per_byte(
        _model(256, is_random=False), source, torch.ones(256, dtype=torch.int64), num_rows=6, batch_rows=4
    )
    assert result.bits_per_byte == pytest.approx(8.0, rel=1e-6)
    assert result.nats_per_token == pytest.approx(math.log(256), rel=1e-6)
    assert result.num_bytes == result.num_tokens == 6 * (ROW_LEN - 1)


def test_bits_per_byte_does_not_change_when_the_vocabulary_does(make_rows):
    """Uniform over all pairs of bytes is uniform over bytes: twice the nats per token, the same bits per byte."""
    source = make_rows(np.random.default_rng(1).integers(0, 65_536, size=(3, ROW_LEN)))
    result = bits_per_byte(_model(65_536, is_random=False), source, torch.full((65_536,), 2), num_rows=3, batch_rows=4)
    assert result.bits_per_byte == pytest.approx(8.0, rel=1e-6)
    assert result.nats_per_token == pytest.approx(2 * math.log(256), rel=1e-6)


def test_special_and_ignored_targets_count_for_neither_side(make_rows):
    model = _model(VOCAB, is_random=True)
    ids = np.array([[65, 66, 269, 67, 269, 68]])
    mask = np.array([[1, 1, 1, 0, 1, 1]], dtype=np.uint8)
    only = np.array([[1, 1, 0, 0, 0, 1]], dtype=np.uint8)
    with_specials = bits_per_byte(model, make_rows(ids, mask), TOKEN_BYTES, num_rows=1, batch_rows=1)
    without = bits_per_byte(model, make_rows(ids, only), TOKEN_BYTES, num_rows=1, batch_rows=1)
    assert with_specials.bits_per_byte == pytest.approx(without.bits_per_byte, rel=1e-6)
    assert (with_specials.num_bytes, with_specials.num_tokens) == (2, 4)
    assert (without.num_bytes, without.num_tokens) == (2, 2)


def test_rows_without_a_byte_are_no_result(make_rows):
    rows = make_rows([[269, 269, 269]])
    with pytest.raises(MissingError, match="1 validation rows hold no text"):
        bits_per_byte(_model(VOCAB, is_random=True), rows, TOKEN_BYTES, num_rows=1, batch_rows=1)


def test_measuring_leaves_no_gradient_and_the_model_in_training_mode(source):
    model = _model(VOCAB, is_random=True)
    model.train()
    bits_per_byte(model, source, TOKEN_BYTES, num_rows=2, batch_rows=2)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
