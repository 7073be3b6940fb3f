"""Log-probs: right, the same float for the same token, and none of the other rows' business."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.inference.logprobs import TokenLogprobs, token_logprobs
from nanochat_core.inference.sampling import Sampling


def _logits(rows, size=300, seed=0):
    return 5 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def _all(logits, tokens, num_top):
    return token_logprobs(logits, tokens, are_forced=[False] * len(tokens), num_top=num_top)


def test_values_are_those_of_a_softmax_in_double_precision():
    logits = _logits(4)
    exact = logits.double().log_softmax(-1)
    for row, entry in enumerate(_all(logits, [0, 17, 299, 5], [3, 300, 1000, 1])):
        assert entry.logprob == pytest.approx(exact[row, entry.token].item(), abs=1e-5)
        assert [token for token, _ in entry.top] == exact[row].argsort(descending=True)[: len(entry.top)].tolist()
        assert [value for _, value in entry.top] == pytest.approx(
            [exact[row, token].item() for token, _ in entry.top], abs=1e-5
        )
    assert [len(entry.top) for entry in _all(logits, [0] * 4, [3, 300, 1000, 0])] == [3, 300, 300, 0]


@given(st.lists(st.integers(-3, 3), min_size=2, max_size=40), st.integers(1, 5))
def test_the_likeliest_token_has_one_value_and_comes_first_even_among_equals(values, num_top):
    logits = torch.tensor([values], dtype=torch.float32)
    token = int(logits.argmax())
    entry = _all(logits, [token], [num_top])[0]
    assert entry.top[0] == (token, entry.logprob)
    assert dict(entry.top).get(token) == entry.logprob


def test_a_row_is_told_the_same_alone_and_among_others():
    logits = _logits(6).round()  # many equal values
    tokens, num_top = [1, 2, 3, 4, 5, 6], [0, 5, 20, 5, 0, 1]
    together = _all(logits, tokens, num_top)
    assert together == [_all(logits[i : i + 1], tokens[i : i + 1], num_top[i : i + 1])[0] for i in range(6)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_every_token_of_an_answer_has_its_entry_untempered(engine, temperature):
    sampling = Sampling(temperature=temperature, top_k=3, seed=1, max_new_tokens=20, num_logprobs=2)
    prompt = [256, *b"hello"]
    answer = engine.generate([prompt], [sampling])[0]
    assert [entry.token for entry in answer.logprobs] == answer.tokens
    with torch.no_grad():
        logits = engine.model(torch.tensor([[*prompt, *answer.tokens]]))[0, len(prompt) - 1 : -1]
    for entry, expected in zip(answer.logprobs, logits.log_softmax(-1), strict=True):
        assert entry.logprob == pytest.approx(expected[entry.token].item(), abs=1e-4)
        assert entry.top[0][1] == pytest.approx(expected.max().item(), abs=1e-4)
        if temperature == 0:
            assert entry.top[0] == (entry.token, entry.logprob)


def test_who_asks_for_none_gets_none_beside_one_who_asks(engine):
    samplings = [Sampling(max_new_tokens=5, num_logprobs=number) for number in (None, 0, 4)]
    answers = engine.generate([[256, *b"hello"]] * 3, samplings)
    assert [len(answer.logprobs) for answer in answers] == [0, len(answers[0].tokens), len(answers[0].tokens)]
    assert [len(entry.top) for entry in answers[1].logprobs + answers[2].logprobs[:1]] == [0] * len(
        answers[1].logprobs
    ) + [4]
    assert isinstance(answers[1].logprobs[0], TokenLogprobs)
