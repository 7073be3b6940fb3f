"""Continuous batches: requests join and leave, rows change hands and are given up, and no answer notices."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampling

PROMPTS = [[256, *b"prompt number", 65 + number % 20, *b"!" * (number % 5)] for number in range(23)]
SAMPLINGS = [
    Sampling(temperature=0.9 * (number % 3), top_k=20, seed=number, max_new_tokens=3 + 7 * number % 29)
    for number in range(23)
]
# A mix as a server sees it: long and short, greedy and not, cut in every way, with and without tools.
MIXED = [
    ([256, *b"hello"], Sampling(max_new_tokens=20)),
    ([256, *b"a longer prompt " * 9], Sampling(temperature=1.0, seed=1, max_new_tokens=12)),
    ([256], Sampling(temperature=0.8, top_k=None, seed=2, max_new_tokens=20, use_tools=False)),
    ([256, *b"hello"], Sampling(temperature=1.2, top_k=None, top_p=0.9, seed=3, max_new_tokens=7)),
    ([256, *b"x" * 200], Sampling(temperature=0.7, top_k=5, top_p=0.5, seed=4, max_new_tokens=16)),
    ([256, *b"stop"], Sampling(temperature=1.0, seed=5, stop=("a", "\ufffd\ufffd"), max_new_tokens=25)),
    ([256, *b"ids"], Sampling(temperature=2.0, top_k=None, seed=6, stop_ids=tuple(range(0, 256, 9)))),
    ([256, *b"logs"], Sampling(temperature=1.0, seed=7, num_logprobs=3, max_new_tokens=18)),
]


def _run(batch, joining):
    """Step until all is done; joining: {step: requests}."""
    number = 0
    while joining or batch.num_active:
        batch.add(joining.pop(number, []))
        batch.step()
        number += 1


def _same(found, expected):
    assert (found.tokens, found.events) == (expected.tokens, expected.events)
    assert [entry.token for entry in found.logprobs] == [entry.token for entry in expected.logprobs]
    for one, other in zip(found.logprobs, expected.logprobs, strict=True):
        assert one.logprob == pytest.approx(other.logprob, abs=1e-4)


@pytest.fixture(scope="module")
def full_engine(full_model, tokenizer, runs_ahead):
    return Engine(full_model, tokenizer, weights="plain", runs_ahead=runs_ahead)


@pytest.fixture(scope="module")
def alone(full_model, tokenizer):
    engine = Engine(full_model, tokenizer, weights="plain")
    return [engine.generate([prompt], [sampling])[0] for prompt, sampling in MIXED]


@pytest.mark.parametrize("max_rows", [1, 3, 16])
def test_an_answer_is_the_same_in_a_row_that_others_had_before(make_model, tokenizer, max_rows, runs_ahead):
    engine = Engine(make_model(3), tokenizer, runs_ahead=runs_ahead)
    alone = [engine.generate([p], [s])[0] for p, s in zip(PROMPTS, SAMPLINGS, strict=True)]
    assert engine.generate(PROMPTS, SAMPLINGS, max_rows=max_rows) == alone


def test_every_finished_answer_is_told_once_and_never_too_early(engine):
    told = []
    engine.generate(PROMPTS, SAMPLINGS, max_rows=4, on_done=told.append)
    assert told == sorted(set(told))
    assert told[-1] == len(PROMPTS)


def test_rows_are_given_up_when_half_of_them_are_free(engine):
    requests = [engine.request(PROMPTS[0], Sampling(max_new_tokens=count)) for count in (2, 2, 2, 20)]
    batch = engine.slots(4, max_len=60)
    batch.add(requests)
    batch.shrink()
    assert batch.num_rows == 4
    while batch.num_active > 1:
        batch.step()
    batch.shrink()
    assert (batch.num_rows, batch.decoder.num_rows) == (1, 1)
    while batch.num_active:
        batch.step()
    assert requests[3].answer == engine.generate([PROMPTS[0]], [Sampling(max_new_tokens=20)])[0]


def test_rows_given_up_in_the_middle_of_a_prompt_leave_the_prompt_whole(full_engine, alone):
    leaving = [full_engine.request([256, *b"leaves"], Sampling(max_new_tokens=1)) for _ in range(4)]
    staying = [full_engine.request(*MIXED[number]) for number in (1, 4)]
    batch = full_engine.slots(6, chunk_tokens=40)
    batch.add([*leaving[:3], staying[0], leaving[3], staying[1]])
    while not all(request.is_done for request in leaving):
        batch.step()
    batch.shrink()
    assert (batch.num_rows, batch.num_active) == (2, 2)
    _run(batch, {})
    for request, number in zip(staying, (1, 4), strict=True):
        _same(request.answer, alone[number])


@pytest.mark.parametrize("chunk_tokens", [1, 7, 64, 256, None])
def test_eight_mixed_requests_are_answered_as_each_alone_whatever_the_chunk(full_engine, alone, chunk_tokens):
    requests = [full_engine.request(*each) for each in MIXED]
    batch = full_engine.slots(8, chunk_tokens=chunk_tokens)
    _run(batch, {0: requests})
    for request, expected in zip(requests, alone, strict=True):
        _same(request.answer, expected)


@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 25), st.integers(0, 30)), min_size=1, max_size=7),
    st.sampled_from([5, 60, 256]),
)
@settings(max_examples=12, deadline=None, derandomize=True)
def test_joining_and_leaving_at_any_step_changes_no_answer(full_engine, alone, plan, chunk_tokens):
    """plan: (which request, the step at which it joins if there is room, the step at which it is dropped)."""
    batch, running, number = full_engine.slots(3, chunk_tokens=chunk_tokens), [], 0
    waiting = sorted(plan, key=lambda each: each[1])
    finished = []
    while waiting or batch.num_active:
        while waiting and waiting[0][1] <= number and batch.num_free:
            which, _, dropped_at = waiting.pop(0)
            request = full_engine.request(*MIXED[which])
            batch.add([request])
            running.append((which, dropped_at, request))
        for _, dropped_at, request in running:
            if dropped_at == number:
                batch.drop(request)
        for request, _ in batch.step():
            finished += [(which, request) for which, _, held in running if held is request and request.is_done]
        number += 1
    for which, request in finished:
        _same(request.answer, alone[which])
    for which, _, request in running:
        assert request.answer.tokens == alone[which].tokens[: len(request.answer.tokens)]


@given(st.lists(st.sets(st.integers(0, 7), min_size=1), max_size=40), st.sampled_from([5, 60, 256]))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_waiting_while_others_go_on_changes_no_answer(full_engine, alone, turns, chunk_tokens):
    requests = [full_engine.request(*each) for each in MIXED]
    batch = full_engine.slots(8, chunk_tokens=chunk_tokens)
    batch.add(requests)
    for turn in turns:
        held = [len(request.answer.tokens) for request in requests]
        only = {requests[number] for number in turn}
        batch.step(only)
        for request, before in zip(requests, held, strict=True):
            if request not in only and not full_engine.runs_ahead:
                assert len(request.answer.tokens) == before or request.prompt in [one.prompt for one in only]
    _run(batch, {})
    for request, expected in zip(requests, alone, strict=True):
        _same(request.answer, expected)


def test_a_dropped_request_leaves_its_row_and_the_others_alone(engine):
    kept, dropped, later = (engine.request(PROMPTS[i], Sampling(max_new_tokens=20)) for i in range(3))
    batch = engine.slots(2, max_len=60)
    batch.add([kept, dropped])
    batch.step()
    batch.drop(dropped)
    assert (batch.num_active, batch.num_free) == (1, 1)
    batch.drop(dropped)  # twice is once
    batch.add([later])
    while batch.num_active:
        batch.step()
    assert len(dropped.answer.tokens) == 1
    expected = engine.generate([PROMPTS[0], PROMPTS[2]], [Sampling(max_new_tokens=20)] * 2)
    assert [kept.answer, later.answer] == expected


@pytest.mark.parametrize("num_steps", [0, 1, 3])
def test_a_request_dropped_before_its_prompt_is_complete_frees_the_row_at_once(full_engine, alone, num_steps):
    dropped = full_engine.request([256, *b"never answered " * 20], Sampling())
    batch = full_engine.slots(1, chunk_tokens=50)
    batch.add([dropped])
    for _ in range(num_steps):
        assert batch.step() == []
    batch.drop(dropped)
    assert (batch.num_active, batch.num_free, batch.decoder.lengths) == (0, 1, [0])
    later = full_engine.request(*MIXED[1])
    _run(batch, {0: [later]})
    _same(later.answer, alone[1])
    assert dropped.answer.tokens == []


def test_a_batch_refuses_what_it_has_no_room_for(engine):
    batch = engine.slots(2, max_len=30)
    request = engine.request(PROMPTS[0], Sampling(max_new_tokens=5))
    batch.add([request])
    with pytest.raises(ConfigError, match="2 requests for 1 free rows"):
        batch.add([engine.request(PROMPTS[0], Sampling(max_new_tokens=5)) for _ in range(2)])
    with pytest.raises(ConfigError, match="do not fit into rows of 30"):
        batch.add([engine.request(PROMPTS[0], Sampling(max_new_tokens=50))])
    assert batch.num_active == 1
    with pytest.raises(ConfigError, match="chunk_tokens = 0"):
        engine.slots(2, chunk_tokens=0)


def test_slots_hold_the_whole_context_unless_told_otherwise(engine):
    request = engine.request([256], Sampling(max_new_tokens=10_000))
    batch = engine.slots(1)
    batch.add([request])
    _run(batch, {})
    assert request.max_len == engine.model.config.sequence_len
