"""Generation with the cache against recomputing everything, with every feature on."""

import pytest
import torch

from nanochat_core.base.errors import ConfigError
from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT
from nanochat_core.model.kv_cache import KVCache

# windows of 128 in a context of 512: the sequences below run past them
CONFIG = GPTConfig(sequence_len=512, vocab_size=90, n_layer=3, n_head=4, n_kv_head=2, n_embd=64, window_pattern="SSL")
LENGTHS = (3, 150, 131, 1)
STEPS = 6


@pytest.fixture(scope="module")
def model():
    model = GPT(CONFIG)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    for param in model.parameters():  # nothing may be switched off by a zero
        param.data += 0.05 * torch.randn(param.shape, generator=generator)
    return model


def _cache(batch, max_len=256):
    return KVCache(CONFIG, batch, max_len=max_len, dtype=torch.float32)


def _ids(*shape, seed=2):
    return torch.randint(0, 90, shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def test_token_by_token_equals_full_recompute_beyond_the_window(model):
    ids, cache = _ids(2, 150), _cache(2)
    steps = [model.logits(model.hidden(ids[:, :137], cache=cache))]
    steps += [model.logits(model.hidden(ids[:, t : t + 1], cache=cache)) for t in range(137, 150)]
    torch.testing.assert_close(torch.cat(steps, dim=1), model(ids), atol=1e-5, rtol=0)


@torch.no_grad()
def test_prefill_in_pieces_equals_prefill_at_once(model):
    ids, cache = _ids(2, 200), _cache(2)
    pieces = [model.logits(model.hidden(piece, cache=cache)) for piece in ids.split((1, 60, 100, 39), dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(ids), atol=1e-5, rtol=0)


@torch.no_grad()
def test_rows_of_different_lengths_equal_the_same_rows_alone(model):
    batch = _cache(len(LENGTHS))
    sequences = [_ids(1, length + STEPS, seed=length) for length in LENGTHS]
    for row, (sequence, length) in enumerate(zip(sequences, LENGTHS, strict=True)):
        alone = _cache(1)
        model.hidden(sequence[:, :length], cache=alone)
        batch.copy_row_from(alone, 0, row)
    for step in range(STEPS):
        ids = torch.cat([sequence[:, length + step] for sequence, length in zip(sequences, LENGTHS, strict=True)])
        logits = model.logits(model.hidden(ids.unsqueeze(1), cache=batch))
        for row, (sequence, length) in enumerate(zip(sequences, LENGTHS, strict=True)):
            expected = model(sequence[:, : length + step + 1])[0, -1]
            torch.testing.assert_close(logits[row, 0], expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_cleared_row_starts_a_new_sequence(model):
    ids, cache = _ids(2, 20), _cache(2)
    model.hidden(ids, cache=cache)
    cache.clear_row(0)
    for t in range(3):
        logits = model.logits(model.hidden(ids[:, t : t + 1], cache=cache))
    torch.testing.assert_close(logits[0, 0], model(ids[:1, :3])[0, -1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_what_does_not_fit_is_refused(model):
    cache = _cache(2, max_len=8)
    with pytest.raises(ConfigError, match="do not fit"):
        model.hidden(_ids(2, 9), cache=cache)
    with pytest.raises(ConfigError, match="3 rows"):
        model.hidden(_ids(3, 1), cache=cache)
    model.hidden(_ids(2, 4), cache=cache)
    cache.clear_row(1)
    with pytest.raises(ConfigError, match="different lengths"):
        model.hidden(_ids(2, 2), cache=cache)


@torch.no_grad()
def test_changed_weights_are_seen_by_the_next_bf16_call(model):
    model.compute_dtype = torch.bfloat16
    try:
        before = model(_ids(1, 4))
        model.head.weight.mul_(2)
        after = model(_ids(1, 4))
        model.head.weight.div_(2)
        assert not torch.equal(before, after)
        assert torch.equal(before, model(_ids(1, 4)))
    finally:
        model.compute_dtype = torch.float32
