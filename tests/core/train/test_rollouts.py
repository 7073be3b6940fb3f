"""Rollouts: what was sampled is known, and a draw depends on nothing but its own key."""

import pytest

from nanochat_core.evals.items import Question
from nanochat_core.inference.engine import Engine
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.train.rollouts import JUDGES, SamplingSettings, prompt_of, roll_out, sample_seed, sampled_mask

from .conftest import QUESTIONS

SETTINGS = SamplingSettings(num_samples=6, temperature=1.0, top_k=50, max_answer_tokens=4)


def test_the_result_of_a_tool_was_forced_and_nothing_else(tokenizer):
    special = tokenizer.special
    call = [special(tk.PYTHON_START), *tokenizer.encode("3*4"), special(tk.PYTHON_END)]
    result = [special(tk.OUTPUT_START), *tokenizer.encode("12"), special(tk.OUTPUT_END)]
    text = [*tokenizer.encode("It is 12"), special(tk.ASSISTANT_END)]
    mask = sampled_mask(tokenizer, [*call, *result, *text])
    assert mask == [True] * len(call) + [False] * len(result) + [True] * len(text)


def test_a_result_that_the_model_wrote_by_itself_was_sampled(tokenizer):
    result = [tokenizer.special(tk.OUTPUT_START), *tokenizer.encode("12"), tokenizer.special(tk.OUTPUT_END)]
    assert all(sampled_mask(tokenizer, result))


def test_a_call_that_gives_nothing_forces_nothing(tokenizer):
    call = [tokenizer.special(tk.PYTHON_START), *tokenizer.encode("1/0"), tokenizer.special(tk.PYTHON_END)]
    assert all(sampled_mask(tokenizer, [*call, *tokenizer.encode("?")]))


def test_an_answer_does_not_depend_on_what_else_is_asked(picker, tokenizer):
    engine = Engine(picker, tokenizer)
    together = roll_out(engine, QUESTIONS, SETTINGS, key="k")
    alone = roll_out(engine, QUESTIONS[2:3], SETTINGS, key="k")
    assert [rollout.tokens for rollout in together[2]] == [rollout.tokens for rollout in alone[0]]
    other = roll_out(engine, QUESTIONS[2:3], SETTINGS, key="another step")
    assert [rollout.tokens for rollout in alone[0]] != [rollout.tokens for rollout in other[0]]


def test_prompts_are_never_sampled_and_a_right_answer_is_worth_one(picker, tokenizer):
    [group] = roll_out(Engine(picker, tokenizer), QUESTIONS[:1], SETTINGS, key="k")
    prompt = prompt_of(tokenizer, QUESTIONS[0])
    for rollout in group:
        assert rollout.tokens[: len(prompt)] == prompt
        assert rollout.is_sampled == [False] * len(prompt) + [True] * (len(rollout.tokens) - len(prompt))
        assert rollout.reward == ("7" in rollout.text)
    assert len({rollout.text for rollout in group}) > 1


def test_every_draw_has_a_seed_of_its_own():
    seeds = {
        sample_seed(f"{seed} step {step}", question, sample)
        for seed in range(3) for step in range(5) for question in QUESTIONS for sample in range(8)
    }  # fmt: skip
    assert len(seeds) == 3 * 5 * len(QUESTIONS) * 8


@pytest.mark.parametrize(
    ("benchmark", "answer", "is_right"),
    [
        ("gsm8k", "She has 5 left.\n#### 1,200.0", True),
        ("gsm8k", "She has 1200 left.", False),
        ("arithmetic", "The answer is 1200.", True),
        ("arithmetic", "1200 or 1201", False),
    ],
)
def test_each_source_has_its_judge(benchmark, answer, is_right):
    assert JUDGES[Question(benchmark, "?", "1200").benchmark](answer, "1200") == is_right
