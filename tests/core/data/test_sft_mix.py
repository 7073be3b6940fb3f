"""The built-in fine-tuning mix: deterministic, right, and with nothing held out in training."""

import functools
import re
from collections import Counter

import pytest

from nanochat_core.config import SftConfig
from nanochat_core.data import documentation
from nanochat_core.data.sft_mix import HELD_OUT_WHO, build_mix
from nanochat_core.inference.calculator import calculate
from nanochat_core.tokenizer.conversation import render_conversation

CONFIG = SftConfig(num_documentation=200, num_arithmetic=1500, num_spelling=400, num_identity=30)
NUM_QUESTIONS = 40


@pytest.fixture(scope="module", autouse=True)
def _words_counted_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(documentation, "word_counts", functools.cache(documentation.word_counts))
        yield


@pytest.fixture(scope="module")
def mix():
    return build_mix(CONFIG, seed=7, num_questions=NUM_QUESTIONS)


def _asked(conversation):
    return conversation["messages"][0]["content"]


def _answer(conversation):
    return conversation["messages"][1]["content"]


def _all(mix):
    return [*mix.train, *mix.validation]


def _operands(question):
    match = re.search(r"(\d+) (\+|-|\*|plus|minus|times) (\d+)", question)
    if not match:
        return None
    sign = {"plus": "+", "minus": "-", "times": "*"}.get(match[2], match[2])
    return int(match[1]), sign, int(match[3])


def _words(questions):
    pattern = r"\w (?:are|occur) in (\w+)|Count the \w in (\w+)|spell (\w+)\?|Spell (\w+)"
    found = (re.search(pattern, question) for question in questions)
    return {next(group for group in match.groups() if group) for match in found if match}


def test_the_same_seed_gives_the_same_mix(mix):
    assert build_mix(CONFIG, seed=7, num_questions=NUM_QUESTIONS) == mix


def test_there_is_as_much_of_each_kind_as_was_asked_for(mix):
    assert len(_all(mix)) == 200 + 1500 + 2 * 400 + 30
    assert len(mix.validation) == 200
    sizes = {name: len(items) for name, items in mix.questions.items()}
    assert sizes == {"arithmetic": 40, "documentation": 40, "identity": 2, "letters": 40, "spelling": 40}


def test_no_held_out_question_is_trained_or_validated_on(mix):
    known = {_asked(conversation) for conversation in _all(mix)}
    held_out = {question for items in mix.questions.values() for question, _, _ in items}
    assert not known & held_out
    assert set(HELD_OUT_WHO) <= held_out


def test_no_held_out_calculation_is_trained_on_in_other_words(mix):
    known = {operands for conversation in _all(mix) if (operands := _operands(_asked(conversation)))}
    held_out = {_operands(question) for question, _, _ in mix.questions["arithmetic"]}
    assert len(known) == 1500
    assert len(held_out) == NUM_QUESTIONS
    assert not known & held_out


def test_held_out_words_are_in_no_training_question(mix):
    known = _words(_asked(conversation) for conversation in _all(mix))
    for name in ("letters", "spelling"):
        held_out = _words(question for question, _, _ in mix.questions[name])
        assert held_out
        assert not known & held_out


def test_every_arithmetic_answer_is_right(mix):
    compute = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    for conversation in _all(mix):
        operands = _operands(_asked(conversation))
        if operands:
            a, sign, b = operands
            call, output, text = _answer(conversation)
            right = str(compute[sign](a, b))
            assert (call["type"], call["text"]) == ("python", f"{a} {sign} {b}")
            assert (output["type"], output["text"]) == ("python_output", right)
            assert text == {"type": "text", "text": f"The answer is {right}."}
    for question, expected, needs_tool in mix.questions["arithmetic"]:
        a, sign, b = _operands(question)
        assert expected == str(compute[sign](a, b))
        assert needs_tool


def test_every_count_and_every_spelling_is_right(mix):
    for question, expected, needs_tool in mix.questions["letters"]:
        letter = re.search(r"\b([a-z]) (?:are|occur|in)\b", question)[1]
        assert expected == str(_words([question]).pop().count(letter))
        assert needs_tool
    for question, expected, needs_tool in mix.questions["spelling"]:
        assert expected.replace("-", "") == _words([question]).pop()
        assert not needs_tool


def test_every_tool_call_in_training_gives_what_the_calculator_gives(mix):
    num_calls = 0
    for conversation in _all(mix):
        parts = _answer(conversation)
        if isinstance(parts, list):
            num_calls += 1
            assert calculate(parts[0]["text"]) == parts[1]["text"]
    assert num_calls == 1500 + 400


def test_a_documentation_question_has_one_answer_in_all_its_wordings(mix):
    answers = {}
    for conversation in _all(mix):
        match = re.fullmatch(r"What does (\S+) do\?|What is (\S+) for\?|Explain (\S+)\.", _asked(conversation))
        if match:
            answers.setdefault(next(filter(None, match.groups())), set()).add(_answer(conversation))
    for question, expected, _ in mix.questions["documentation"]:
        answers.setdefault(re.fullmatch(r"Tell me what (\S+) does\.", question)[1], set()).add(expected)
    several = [name for name, said in answers.items() if len(said) > 1]
    assert not several


def test_operands_have_one_two_and_three_digits(mix):
    digits = Counter(len(str(o[0])) for c in _all(mix) if (o := _operands(_asked(c))))
    assert set(digits) == {1, 2, 3}
    assert min(digits.values()) > 100


def test_every_conversation_can_be_rendered_and_something_in_it_is_learnt(mix, tokenizer):
    for conversation in _all(mix):
        tokens, learnt = render_conversation(tokenizer, conversation["messages"])
        assert len(tokens) == len(learnt)
        assert any(learnt), _asked(conversation)


def test_kinds_can_be_left_out_and_another_seed_gives_other_questions(mix):
    config = SftConfig(num_documentation=0, num_arithmetic=50, num_spelling=0, num_identity=0)
    other = build_mix(config, seed=8, num_questions=NUM_QUESTIONS)
    assert len(_all(other)) == 50
    assert "identity" not in other.questions
    assert other.questions["arithmetic"] != mix.questions["arithmetic"]
