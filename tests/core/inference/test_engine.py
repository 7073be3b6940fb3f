"""The engine: a cache changes nothing, company in the batch changes nothing, and the context is a limit."""

from dataclasses import replace

import pytest
import torch

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampler, Sampling
from nanochat_core.inference.tool_loop import End, Text, ToolCall, ToolError, ToolLoop, ToolResult
from nanochat_core.tokenizer.tokenizer import Tokenizer

ASSISTANT_END, PYTHON_START, PYTHON_END = 260, 261, 262
PROMPTS = [
    [256, *b"hello"],
    [256, *b"a rather long prompt, longer than the others are"],
    [256],
    [256, *b"world"],
    [256, *b"hello"],
]


@torch.no_grad()
def _recompute(engine, prompt, sampling):
    """The same answer from the whole sequence at every step, without a cache and alone, and the logits behind it."""
    sampler, loop, tokens, seen = Sampler(sampling), ToolLoop(engine.tokenizer), [], []
    room = engine.model.config.sequence_len - len(prompt)
    while len(tokens) < min(sampling.max_new_tokens, room):
        seen.append(engine.model(torch.tensor([[*prompt, *tokens]]))[0, -1])
        token = loop.forced[0] if loop.forced else sampler.next_token(seen[-1])
        tokens.append(token)
        if any(isinstance(event, End) for event in loop.feed(token)):
            break
    return tokens, seen


def _moved(logits, sampling, num_drawn):
    """The tokens that this draw gives when the logits are a rounding higher or lower, each on its own.

    Also so that two become equal, which no noise does: of a tie at the border of top-k both are candidates.
    """
    near = [ROUNDING * (logits / ROUNDING).round()]
    for seed in range(64):
        near.append(logits + ROUNDING * torch.randn(logits.shape, generator=torch.Generator().manual_seed(seed)))
    found = set()
    for each in near:
        sampler = Sampler(sampling)
        sampler.num_drawn = num_drawn
        found.add(sampler.next_token(each))
    return found


@pytest.fixture
def scripted(scripted_model, tokenizer, runs_ahead):
    return lambda script: Engine(scripted_model(script), tokenizer, runs_ahead=runs_ahead)


@pytest.fixture
def endless(scripted):
    """Says abababab until it is stopped."""
    return scripted({ord("b"): ord("a")} | {token: ord("b") for token in range(265) if token != ord("b")})


@torch.no_grad()
@pytest.mark.parametrize("chunk_tokens", [50, None])
def test_greedy_answers_are_those_of_the_training_forward(full_model, tokenizer, chunk_tokens, runs_ahead):
    """Shorter and longer than a window, growing past it, and all in one batch: one forward over the whole sequence."""
    engine = Engine(full_model, tokenizer, weights="plain", runs_ahead=runs_ahead)
    prompts = [[256, *(65 + place * 7 % 26 for place in range(length))] for length in (1, 60, 120, 127, 200, 300)]
    requests = [engine.request(prompt, Sampling(max_new_tokens=100, use_tools=False)) for prompt in prompts]
    batch = engine.slots(len(prompts), chunk_tokens=chunk_tokens)
    batch.add(requests)
    while batch.num_active:
        batch.step()
    num_compared = 0
    for prompt, request in zip(prompts, requests, strict=True):
        tokens = request.answer.tokens
        likeliest = full_model(torch.tensor([[*prompt, *tokens]]))[0, len(prompt) - 1 : -1].argmax(-1)
        assert likeliest.tolist() == tokens
        num_compared += len(tokens)
    assert num_compared > 300  # not all may have ended early


ROUNDING = 1e-4  # of a logit: what a cache's other order of sums may change on any processor
SAMPLINGS = [
    Sampling(max_new_tokens=30),
    Sampling(temperature=1.0, seed=3, max_new_tokens=30),
    Sampling(temperature=0.7, top_k=5, seed=4, max_new_tokens=30),
]


@pytest.mark.parametrize("sampling", SAMPLINGS, ids=repr)
def test_the_cache_gives_what_recomputing_everything_gives(engine, sampling):
    for prompt in PROMPTS:
        told = replace(sampling, num_logprobs=engine.tokenizer.vocab_size)
        answer = engine.generate([prompt], [told])[0]
        tokens, seen = _recompute(engine, prompt, sampling)
        for place, (entry, logits) in enumerate(zip(answer.logprobs, seen, strict=False)):
            values = torch.tensor([value for _, value in sorted(entry.top)])
            torch.testing.assert_close(values, logits.log_softmax(-1), atol=ROUNDING, rtol=0)
            if (
                entry.token != tokens[place]
            ):  # a tie: other products (AMX) round the other way, the rest is another text
                assert entry.token in _moved(logits, sampling, place)
                break
        else:
            assert answer.tokens == tokens


@pytest.mark.parametrize("seed", range(2))
def test_a_batch_gives_what_each_prompt_gives_alone(make_model, tokenizer, seed):
    engine = Engine(make_model(seed), tokenizer)
    samplings = [Sampling(temperature=0.9, top_k=20, seed=seed + i, max_new_tokens=25) for i in range(len(PROMPTS))]
    alone = [engine.generate([p], [s])[0] for p, s in zip(PROMPTS, samplings, strict=True)]
    assert engine.generate(PROMPTS, samplings) == alone
    backwards = engine.generate(PROMPTS[::-1], samplings[::-1])
    assert backwards[::-1] == alone


def test_answers_of_different_lengths_do_not_disturb_each_other(endless):
    samplings = [Sampling(max_new_tokens=n) for n in (1, 40, 7, 60, 23)]
    alone = [endless.generate([p], [s])[0] for p, s in zip(PROMPTS, samplings, strict=True)]
    assert [len(answer.tokens) for answer in alone] == [1, 40, 7, 60, 23]
    assert endless.generate(PROMPTS, samplings) == alone


def test_a_prompt_near_the_end_of_the_context_does_not_disturb_the_others(endless):
    prompts = [[256, *b"x" * 93], [256, *b"short"]]
    alone = [endless.generate([prompt], [Sampling(max_new_tokens=60)])[0] for prompt in prompts]
    assert [len(answer.tokens) for answer in alone] == [2, 60]
    assert endless.generate(prompts, [Sampling(max_new_tokens=60)] * 2) == alone


def test_more_prompts_than_rows_are_answered_in_their_order(engine, monkeypatch):
    monkeypatch.setattr("nanochat_core.inference.engine.MAX_ROWS", 2)
    sampling = Sampling(max_new_tokens=6)
    alone = [engine.generate([prompt], [sampling])[0] for prompt in PROMPTS]
    assert engine.generate(PROMPTS, [sampling] * len(PROMPTS)) == alone
    assert engine.generate([], []) == []


def test_a_stream_gives_the_events_of_the_whole_answer(engine):
    for sampling in SAMPLINGS:
        for prompt in PROMPTS[:2]:
            assert list(engine.stream(prompt, sampling)) == engine.generate([prompt], [sampling])[0].events


def test_a_stream_may_be_left_and_another_started(engine):
    stream = engine.stream(PROMPTS[0], Sampling(max_new_tokens=30))
    next(stream)
    stream.close()
    assert list(engine.stream(PROMPTS[0], SAMPLINGS[0])) == engine.generate(PROMPTS[:1], SAMPLINGS[:1])[0].events


@pytest.mark.parametrize("max_new_tokens", [1, 2, 17])
def test_an_answer_has_at_most_max_new_tokens_and_says_so(engine, max_new_tokens):
    answer = engine.generate([PROMPTS[0]], [Sampling(max_new_tokens=max_new_tokens)])[0]
    assert len(answer.tokens) <= max_new_tokens
    ends = [event for event in answer.events if isinstance(event, End)]
    assert ends == [End("length" if len(answer.tokens) == max_new_tokens and ends != [End("stop")] else "stop")]
    assert answer.events[-1] == ends[0]


def test_an_answer_ends_where_the_context_ends(engine):
    prompt = [256, *b"y" * 89]
    answer = engine.generate([prompt], [Sampling(max_new_tokens=1000)])[0]
    assert len(prompt) + len(answer.tokens) <= 96
    assert answer.events[-1] in (End("length"), End("stop"))
    full = engine.generate([[256, *b"y" * 94]], [Sampling(max_new_tokens=1000)])[0]
    assert len(full.tokens) == 1


@pytest.mark.parametrize("length", [0, 96, 97, 500])
def test_a_prompt_that_leaves_no_room_is_refused(engine, length):
    prompt = [65] * length
    with pytest.raises(ConfigError, match=f"prompt of {length} tokens"):
        engine.generate([PROMPTS[0], prompt], [Sampling()] * 2)
    with pytest.raises(ConfigError, match=f"prompt of {length} tokens"):
        next(engine.stream(prompt, Sampling()))


def test_a_tool_result_is_forced_and_the_model_goes_on_from_it(scripted):
    script = {ord("?"): PYTHON_START, PYTHON_START: ord("7"), ord("7"): PYTHON_END, 264: ASSISTANT_END}
    engine = scripted(script)
    answer = engine.generate([[256, ord("?")]], [Sampling(max_new_tokens=40)])[0]
    assert answer.tokens == [PYTHON_START, ord("7"), PYTHON_END, 263, ord("7"), 264, ASSISTANT_END]
    assert answer.events == [ToolCall("7"), ToolResult("7"), End("stop")]
    assert answer.text == ""


def test_forced_tokens_count_towards_the_limit(scripted):
    script = {ord("?"): PYTHON_START, PYTHON_START: ord("7"), ord("7"): PYTHON_END, 264: ASSISTANT_END}
    answer = scripted(script).generate([[256, ord("?")]], [Sampling(max_new_tokens=5)])[0]
    assert answer.tokens == [PYTHON_START, ord("7"), PYTHON_END, 263, ord("7")]
    assert answer.events == [ToolCall("7"), End("length")]


CALLS_FOR_EVER = {ord("?"): PYTHON_START, PYTHON_START: ord("7"), ord("7"): PYTHON_END, 264: PYTHON_START}


@pytest.mark.parametrize("max_new_tokens", [1, 4, 5, 6, 7, 30])
def test_a_model_that_never_stops_calling_is_stopped_by_the_limit(scripted, max_new_tokens):
    answer = scripted(CALLS_FOR_EVER).generate([[256, ord("?")]], [Sampling(max_new_tokens=max_new_tokens)])[0]
    assert len(answer.tokens) == max_new_tokens
    assert answer.events[-1] == End("length")
    assert answer.tokens == ([PYTHON_START, ord("7"), PYTHON_END, 263, ord("7"), 264] * 5)[:max_new_tokens]


def test_a_call_that_gives_nothing_is_told_and_forces_nothing(scripted):
    script = {ord("?"): PYTHON_START, PYTHON_START: ord("x"), ord("x"): PYTHON_END, PYTHON_END: ord("!"),
              ord("!"): ASSISTANT_END}  # fmt: skip
    answer = scripted(script).generate([[256, ord("?")]], [Sampling(max_new_tokens=40)])[0]
    assert answer.tokens == [PYTHON_START, ord("x"), PYTHON_END, ord("!"), ASSISTANT_END]
    assert answer.events == [ToolCall("x"), ToolError("x"), Text("!"), End("stop")]


def test_without_tools_an_expression_is_text_and_nothing_is_computed(scripted):
    script = {ord("?"): PYTHON_START, PYTHON_START: ord("7"), ord("7"): PYTHON_END, PYTHON_END: ASSISTANT_END}
    answer = scripted(script).generate([[256, ord("?")]], [Sampling(max_new_tokens=40, use_tools=False)])[0]
    assert answer.tokens == [PYTHON_START, ord("7"), PYTHON_END, ASSISTANT_END]
    assert answer.events == [Text("7"), End("stop")]


def test_forced_tokens_are_marked_in_the_logprobs_and_draw_nothing(scripted):
    script = {ord("?"): PYTHON_START, PYTHON_START: ord("7"), ord("7"): PYTHON_END, 264: ASSISTANT_END}
    answer = scripted(script).generate([[256, ord("?")]], [Sampling(max_new_tokens=40, num_logprobs=0)])[0]
    assert [entry.is_forced for entry in answer.logprobs] == [False] * 3 + [True] * 3 + [False]
    assert [entry.token for entry in answer.logprobs] == answer.tokens


@pytest.mark.parametrize(
    ("stop", "text"), [("b", "a"), ("aba", ""), ("bab", "a"), ("abc", "abababab"), ("x", "abababab")]
)
def test_a_stop_string_ends_the_answer_in_a_stream_as_in_a_whole(scripted, stop, text):
    engine = scripted({ord("a"): ord("b"), ord("b"): ord("a")})
    sampling = Sampling(max_new_tokens=8, stop=(stop,))
    answer = engine.generate([[256, ord("b")]], [sampling])[0]
    assert answer.text == text
    assert answer.events[-1] == End("length" if text == "abababab" else "stop")
    assert list(engine.stream([256, ord("b")], sampling)) == answer.events


def test_a_token_is_told_in_the_step_that_chose_it(endless):
    """A reader waits for the prompt and one choice, not for the step after it too."""
    request = endless.request([256, ord("b")], Sampling(max_new_tokens=3))
    batch = endless.slots(1)
    batch.add([request])
    assert batch.step() == [(request, [Text("a")])]
    assert batch.decoder.lengths == [2]  # the new token is not fed before it is needed


def test_a_tokenizer_of_another_vocabulary_is_refused(make_model):
    with pytest.raises(ConfigError, match="265 tokens with a tokenizer of 266"):
        Engine(make_model(), Tokenizer([*(bytes([value]) for value in range(256)), b"ab"]))
