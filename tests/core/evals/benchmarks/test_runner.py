"""Asking benchmarks: right is right and wrong is wrong on all real items, whatever shares the batch."""

import dataclasses

import pytest
from nudge import nudge

from nanochat_core.config import GPTConfig
from nanochat_core.evals.benchmarks.registry import BENCHMARKS
from nanochat_core.evals.benchmarks.runner import Asking, answer_items, sample_seed
from nanochat_core.evals.benchmarks.scoring import score
from nanochat_core.inference.engine import Engine
from nanochat_core.model.gpt import GPT
from nanochat_core.sandbox import Limits, Sandbox


def run_programs(programs):
    with Sandbox(Limits(), num_workers=2, allow_unsafe=True) as sandbox:
        return [outcome.status == "passed" for outcome in sandbox.run_many(programs)]


def no_programs(programs):
    raise AssertionError("nothing here is a program")


def ask(engine, items, programs=no_programs, **settings):
    asking = Asking(**{"max_answer_tokens": 1000, **settings})
    return answer_items(engine, items, asking, run_programs=programs, progress=lambda done, total, text: None)


def marks(answered):
    return [mark for one in answered for mark in one.marks]


def wrong(item):
    if item.letters:
        return next(letter for letter in item.letters if letter != item.expected)
    if item.checks:
        return item.question + "    return object()\n"
    return f"So it is clear.\n\n#### {item.expected}1"


def once_each(items):
    """A few test questions are there twice, with choices in the same order: a script knows one answer to them."""
    return list({item.shown: item for item in items}.values())


@pytest.mark.slow
@pytest.mark.parametrize("name", BENCHMARKS)
def test_right_answers_score_1_and_wrong_ones_0_on_the_items(name, source, scripted):
    every = once_each(BENCHMARKS[name].read(source, "test"))
    for items, say, expected in ((every, lambda item: item.solution, 1.0), (every[::4], wrong, 0.0)):
        answered = ask(scripted(items, say), items, run_programs)
        result = score(BENCHMARKS[name], [one.marks for one in answered], num_too_long=0, is_limited=False)
        missed = [one.item.id for one in answered if one.marks != [bool(expected)]]
        assert missed == []
        assert result["accuracy"] == expected
        assert result["num_asked"] == len(items)


@pytest.fixture(scope="module")
def engine(tokenizer):
    """A model without training, with nothing switched off by a zero."""
    config = GPTConfig(sequence_len=512, vocab_size=tokenizer.vocab_size, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)
    model = GPT(config)
    model.init_weights(0)
    nudge(model, 0.2, seed=1)
    return Engine(model, tokenizer)


@pytest.mark.parametrize("name", ["arc_easy", "mmlu", "gsm8k"])
def test_an_answer_does_not_depend_on_what_is_asked_beside_it(name, source, engine):
    every = BENCHMARKS[name].read(source, "test")
    items = [every[number] for number in range(0, min(600, len(every)), min(600, len(every)) // 24)]
    settings = {"num_samples": 3, "temperature": 0.7, "max_answer_tokens": 12}
    together = ask(engine, items, **settings)
    assert len({one.answers[0] for one in together}) > 1
    assert ask(engine, items[::-1], **settings)[::-1] == together
    assert ask(engine, items[3:7], batch_tokens=1, **settings) == together[3:7]
    assert ask(engine, items[1::2], **settings) == together[1::2]  # as the second of two ranks would


def test_samples_differ_and_their_seeds_too(source, engine):
    items = [BENCHMARKS["gsm8k"].read(source, "test")[number] for number in range(4)]
    answered = ask(engine, items, num_samples=4, temperature=1.0, max_answer_tokens=12)
    assert all(len(set(one.answers)) > 1 for one in answered)
    seeds = {sample_seed(1, item, sample) for item in items for sample in range(4)}
    assert len(seeds) == 16
    greedy = ask(engine, items, num_samples=1, temperature=1.0, seed=1, max_answer_tokens=12)
    assert greedy == ask(engine, items, num_samples=1, temperature=0.2, seed=2, max_answer_tokens=12)


@pytest.mark.parametrize("name", ["gsm8k", "arc_easy"])
def test_a_prompt_that_leaves_no_room_counts_as_wrong_and_is_counted(name, source, scripted):
    short = BENCHMARKS[name].read(source, "test")[0]
    long = dataclasses.replace(short, id="long", messages=[{"role": "user", "content": short.shown * 40}])
    engine = scripted([short, long], lambda item: item.solution, sequence_len=512)
    answered = ask(engine, [long, short, long], max_answer_tokens=400)
    assert [one.is_too_long for one in answered] == [True, False, True]
    assert marks(answered) == [False, True, False]
    assert answered[0].answers == [""]
    assert marks(ask(engine, [long])) == [False]


def test_letters_alone_are_compared(source, scripted):
    """The likeliest token is none of the letters; a letter must be chosen all the same."""
    items = [BENCHMARKS["arc_easy"].read(source, "test")[number] for number in range(5)]
    answered = ask(scripted(items, lambda item: "Hello"), items)
    assert [one.answers[0] for one in answered] == [item.letters[0] for item in items]
