"""Benchmarks: what counts as right, and scores that can be checked from their items."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nudge import nudge

from nanochat_core.config import GPTConfig
from nanochat_core.evals.items import Question, read_questions, write_questions
from nanochat_core.evals.questions import Outcome, ask, is_match, scores
from nanochat_core.evals.samples import CHAT_PROMPTS, continuations, conversations, show
from nanochat_core.inference.engine import Answer, Engine
from nanochat_core.inference.tool_loop import End, Text, ToolCall, ToolResult
from nanochat_core.model.gpt import GPT


@pytest.fixture(scope="module")
def engine(tokenizer):
    model = GPT(GPTConfig(sequence_len=160, vocab_size=265, n_layer=1, n_head=1, n_kv_head=1, n_embd=32))
    nudge(model, 0.3, seed=0)
    return Engine(model, tokenizer)


@pytest.mark.parametrize(
    ("answer", "expected", "is_right"),
    [
        ("The answer is 95.", "95", True), ("95", "95", True), ("It is 95, not 94.", "95", False),
        ("37 + 58 is 95", "95", True), ("The answer is 950.", "95", False), ("The answer is 195.", "95", False),
        ("The answer is 9.5.", "95", False), ("The answer is 95.5", "95", False), ("The answer is -21.", "-21", True),
        ("The answer is 21.", "-21", False), ("The answer is -95.", "95", False), ("", "95", False),
        ("none", "95", False),
        ("3.5", "3.5", True), ("It is 3.5.", "3.5", True), ("3", "3.5", False),
        ("p-y-t-h-o-n", "p-y-t-h-o-n", True), (" p-y-t-h-o-n\n", "p-y-t-h-o-n", True),
        ("p-y-t-h-o-n-s", "p-y-t-h-o-n", False),
        ("It is p-y", "p-y", False), ("", "p-y", False), ("Return the sum.", "Return the sum.", True),
        ("return the sum.", "Return the sum.", False),
    ],
)  # fmt: skip
def test_what_is_right(answer, expected, is_right):
    assert is_match(answer, expected) == is_right


@given(st.integers(-(10**6), 10**6))
def test_every_number_is_found_as_the_last_one_said(number):
    assert is_match(f"The answer is {number}.", str(number))
    assert not is_match(f"The answer is {number}.", str(number + 1))


def _outcome(benchmark, is_right):
    return Outcome(benchmark, "q", "e", "a", is_right, used_tool=False)


def test_scores_are_means_with_their_standard_error_by_benchmark():
    outcomes = [_outcome("b", right) for right in (True, True, True, False)] + [_outcome("a", False)]
    assert list(scores(outcomes)) == ["a", "b"]
    assert scores(outcomes)["b"] == {
        "accuracy": 0.75, "standard_error": pytest.approx(math.sqrt(0.75 * 0.25 / 4)), "num_right": 3, "num_asked": 4,
    }  # fmt: skip
    assert scores(outcomes)["a"]["accuracy"] == 0.0
    assert scores([]) == {}


@given(st.lists(st.builds(Question, st.text(), st.text(), st.text(), st.booleans()), max_size=5))
def test_questions_are_read_as_they_were_written(tmp_path_factory, questions):
    path = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    write_questions(path, questions)
    assert read_questions(path) == questions


def test_every_question_is_answered_in_its_order_and_progress_is_told(engine):
    questions = [Question("b", f"question {number}" * (number % 3 + 1), str(number)) for number in range(70)]
    told = []
    outcomes = ask(engine, questions, lambda done, total: told.append((done, total)))
    assert [outcome.question for outcome in outcomes] == [question.question for question in questions]
    assert told == [(64, 70), (70, 70)]
    alone = ask(engine, questions[65:66], lambda done, total: None)
    assert alone == outcomes[65:66]


def test_the_right_number_without_the_tool_is_not_right_where_it_is_asked_for(engine):
    plain = ask(engine, [Question("b", "q", "x")], lambda done, total: None)[0]
    expected = plain.answer.strip()
    assert expected
    both = [Question("b", "q", expected), Question("b", "q", expected, needs_tool=not plain.used_tool)]
    assert [outcome.is_right for outcome in ask(engine, both, lambda done, total: None)] == [True, plain.used_tool]


def test_an_answer_is_shown_with_its_tool_calls_in_brackets():
    answer = Answer(events=[ToolCall("1+2"), ToolResult("3"), Text("It is "), Text("3."), End("stop")])
    assert show(answer) == "[1+2 = 3] It is 3."


def test_samples_are_the_same_every_time(engine):
    first = conversations(engine, num_tokens=8)
    assert [sample.prompt for sample in first] == list(CHAT_PROMPTS)
    assert conversations(engine, num_tokens=8) == first
    assert continuations(engine, num_tokens=8, temperature=0.8) == continuations(engine, num_tokens=8, temperature=0.8)
    assert json.dumps([sample.record() for sample in first])
