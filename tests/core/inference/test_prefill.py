"""Prompts in chunks: nobody is stalled by more than one, equal prompts are computed once, and dropping spoils none."""

import pytest
import torch

from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.prefill import Prefill
from nanochat_core.inference.sampling import Sampling

LONG = [256, *b"a long prompt, " * 20]
SHORT = [256, *b"short"]


@pytest.fixture(scope="module")
def engine(full_model, tokenizer):
    return Engine(full_model, tokenizer, weights="plain")


class Counting(Decoder):
    """A decoder that remembers the prompt tokens of every call."""

    def __init__(self, *args, **settings):
        super().__init__(*args, **settings)
        self.counted = []

    def prefill_rows(self, rows, ids):
        self.counted.append(ids.numel())
        return super().prefill_rows(rows, ids)


def _prefill(model, *, chunk_tokens, num_rows=4):
    decoder = Counting(model, num_rows=num_rows, max_len=400, weights="plain")
    return Prefill(decoder, chunk_tokens=chunk_tokens), decoder


@torch.no_grad()
def _logits(model, prompt):
    return model(torch.tensor([prompt]))[0, -1]


def _finish(prefill):
    complete = {}
    while prefill.rows:
        complete |= prefill.advance()
    return complete


@pytest.mark.parametrize("chunk_tokens", [1, 13, 128, 1000, None])
def test_chunks_give_what_the_training_forward_gives(full_model, chunk_tokens):
    prefill, decoder = _prefill(full_model, chunk_tokens=chunk_tokens)
    prompts = [LONG[:150], SHORT, LONG[:150], [256, *b"other"]]
    for row, prompt in enumerate(prompts):
        prefill.add(row, prompt)
    complete = _finish(prefill)
    assert sorted(complete) == [0, 1, 2, 3]
    assert decoder.lengths == [len(prompt) for prompt in prompts]
    for row, prompt in enumerate(prompts):
        assert (complete[row] - _logits(full_model, prompt)).abs().max() < 1e-4
    following = decoder.step([65] * 4)
    for row, prompt in enumerate(prompts):
        assert (following[row] - _logits(full_model, [*prompt, 65])).abs().max() < 1e-4


def test_equal_prompts_are_computed_once(full_model):
    prefill, decoder = _prefill(full_model, chunk_tokens=None, num_rows=16)
    for row in range(16):
        prefill.add(row, LONG)
    complete = _finish(prefill)
    assert decoder.counted == [len(LONG)]
    assert all(torch.equal(complete[row], complete[0]) for row in range(16))
    assert decoder.lengths == [len(LONG)] * 16


def test_an_equal_prompt_that_comes_in_the_middle_joins_in(full_model):
    prefill, decoder = _prefill(full_model, chunk_tokens=100)
    prefill.add(0, LONG)
    prefill.advance()
    prefill.add(3, LONG)
    assert sorted(_finish(prefill)) == [0, 3]
    assert sum(decoder.counted) == len(LONG)


def test_no_call_computes_more_than_a_chunk_and_short_prompts_share_one(full_model):
    prefill, decoder = _prefill(full_model, chunk_tokens=64)
    prefill.add(0, LONG)
    for row in (1, 2, 3):
        prefill.add(row, [256, *b"short", row])
    per_call = []
    while prefill.rows:
        before = sum(decoder.counted)
        prefill.advance()
        per_call.append(sum(decoder.counted) - before)
    assert max(per_call) <= 64
    assert 21 in decoder.counted  # the three of equal length in one forward


def test_a_short_prompt_does_not_wait_for_the_end_of_a_long_one(full_model):
    prefill, _ = _prefill(full_model, chunk_tokens=64)
    prefill.add(0, LONG)
    prefill.advance()
    prefill.add(1, SHORT)
    assert 1 in prefill.advance() | prefill.advance()
    assert 0 in prefill.rows


@pytest.mark.parametrize("num_advances", [0, 1, 2])
def test_who_shared_a_dropped_prompt_goes_on_from_where_it_was(full_model, num_advances):
    prefill, decoder = _prefill(full_model, chunk_tokens=100)
    for row in (0, 2, 3):
        prefill.add(row, LONG)
    for _ in range(num_advances):
        prefill.advance()
    for row in (0, 3):  # who fills it, and one who only waits
        prefill.drop(row)
        decoder.clear_row(row)
    complete = _finish(prefill)
    assert sorted(complete) == [2]
    assert sum(decoder.counted) == len(LONG)
    assert (complete[2] - _logits(full_model, LONG)).abs().max() < 1e-4
    assert decoder.lengths == [0, 0, len(LONG), 0]


def test_a_running_answer_gets_a_token_in_every_step_while_a_long_prompt_is_computed(engine):
    running = engine.request(SHORT, Sampling(max_new_tokens=60, use_tools=False, temperature=1.0, seed=3))
    late = engine.request(LONG, Sampling(max_new_tokens=2))
    batch = engine.slots(2, chunk_tokens=32)
    batch.add([running])
    batch.step()
    batch.add([late])
    for number in range(len(LONG) // 32):
        stepped = [request for request, _ in batch.step()]
        assert stepped == [running], number
    assert late in [request for request, _ in batch.step()]
