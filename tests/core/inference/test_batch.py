"""Continuous batches: rows change hands, rows are given up, and no answer notices."""

import pytest

from nanochat_core.inference.engine import Batch, Engine
from nanochat_core.inference.sampling import Sampling

PROMPTS = [[256, *b"prompt number", 65 + number % 20, *b"!" * (number % 5)] for number in range(23)]
SAMPLINGS = [
    Sampling(temperature=0.9 * (number % 3), top_k=20, seed=number, max_new_tokens=3 + 7 * number % 29)
    for number in range(23)
]


@pytest.mark.parametrize("max_rows", [1, 2, 8, 16, 64])
def test_an_answer_is_the_same_in_a_row_that_others_had_before(make_model, tokenizer, max_rows):
    engine = Engine(make_model(3), tokenizer)
    alone = [engine.generate([p], [s])[0] for p, s in zip(PROMPTS, SAMPLINGS, strict=True)]
    assert engine.generate(PROMPTS, SAMPLINGS, max_rows=max_rows) == alone


def test_every_finished_answer_is_told_once_and_never_too_early(engine):
    told = []
    engine.generate(PROMPTS, SAMPLINGS, max_rows=4, on_done=told.append)
    assert told == sorted(set(told))
    assert told[-1] == len(PROMPTS)


def test_rows_are_given_up_when_half_of_them_are_free(engine):
    requests = [engine.request(PROMPTS[0], Sampling(max_new_tokens=count)) for count in (2, 2, 2, 20)]
    batch = Batch(engine, num_rows=4, max_len=60)
    batch.add(requests)
    batch.shrink()
    assert batch.num_rows == 4
    while batch.num_active > 1:
        batch.step()
    batch.shrink()
    assert (batch.num_rows, batch.cache.batch) == (1, 1)
    while batch.num_active:
        batch.step()
    assert requests[3].answer == engine.generate([PROMPTS[0]], [Sampling(max_new_tokens=20)])[0]


def test_a_dropped_request_leaves_its_row_and_the_others_alone(engine):
    kept, dropped, later = (engine.request(PROMPTS[i], Sampling(max_new_tokens=20)) for i in range(3))
    batch = Batch(engine, num_rows=2, max_len=60)
    batch.add([kept, dropped])
    batch.step()
    batch.drop(dropped)
    batch.add([later])
    while batch.num_active:
        batch.step()
    assert len(dropped.answer.tokens) == 1
    expected = engine.generate([PROMPTS[0], PROMPTS[2]], [Sampling(max_new_tokens=20)] * 2)
    assert [kept.answer, later.answer] == expected
