"""Conversations as clients send them: which turns the model is told."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment

from nanochat_core.serve.prompts import CHAT_TEMPLATE, turns_of
from nanochat_core.serve.schema import ChatBody

S, D, U, A = "system", "developer", "user", "assistant"
TEXT = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, {"type": "output_text", "text": "c"}]
PYTHON = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]


def told(*messages):
    """What the model is told of (role, content) pairs."""
    body = ChatBody.model_validate({"messages": [{"role": role, "content": content} for role, content in messages]})
    return [tuple(turn.message.values()) for turn in turns_of(body.messages)]


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        ([(U, "1"), (U, "2")], [(U, "1\n\n2")]),
        ([(U, "1"), (A, "2"), (A, "3"), (U, "4")], [(U, "1"), (A, "2\n\n3"), (U, "4")]),
        ([(S, "1"), (D, "2"), (S, "3"), (U, "4")], [(U, "1\n\n2\n\n3\n\n4")]),
        ([(U, "1"), (A, "2"), (S, "3"), (U, "4")], [(U, "1"), (A, "2"), (U, "3\n\n4")]),
        ([(U, "1"), (S, "2")], [(U, "1\n\n2")]),
        ([(U, "1"), (A, "2"), (S, "3")], [(U, "1"), (A, "2"), (U, "3")]),
        ([(S, "1")], [(U, "1")]),
        ([(A, "1"), (U, "2")], [(U, ""), (A, "1"), (U, "2")]),
        ([(S, "1"), (A, "2"), (U, "3")], [(U, "1"), (A, "2"), (U, "3")]),
        ([(S, None), (U, "1"), (A, None), (U, "2")], [(U, "1"), (A, ""), (U, "2")]),
        ([(U, []), (A, ""), (U, "2")], [(U, ""), (A, ""), (U, "2")]),
        ([(S, TEXT), (U, TEXT)], [(U, "abc\n\nabc")]),
        ([(A, [{"type": "refusal", "refusal": "no"}]), (U, "1")], [(U, ""), (A, "no"), (U, "1")]),
        ([(U, "1"), (A, PYTHON), (A, "so"), (U, "2")],
         [(U, "1"), (A, [*PYTHON, {"type": "text", "text": "\n\n"}, {"type": "text", "text": "so"}]), (U, "2")]),
    ],
)  # fmt: skip
def test_neighbours_of_one_role_are_one_turn(sent, expected):
    assert told(*sent) == expected


MESSAGES = st.lists(
    st.tuples(st.sampled_from([S, D, U, A]), st.sampled_from([None, "", "one", "two\nthree"])), min_size=1
)


@given(sent=MESSAGES)
def test_any_conversation_alternates_begins_with_the_user_and_loses_no_word(sent):
    turns = told(*sent)
    assert [role for role, _ in turns] == [role for role, _ in zip(itertools.cycle([U, A]), turns, strict=False)]
    said = [content for _, content in sent if content]
    assert [text for _, turn in turns for text in turn.split("\n\n") if text] == said


@given(sent=MESSAGES)
def test_the_template_for_clients_makes_the_same_turns(sent):
    messages = [{"role": role, "content": content} for role, content in sent]
    text = Environment().from_string(CHAT_TEMPLATE).render(messages=messages, add_generation_prompt=True)
    turns = "".join(f"<|{role}_start|>{content}<|{role}_end|>" for role, content in told(*sent))
    assert text == f"<|bos|>{turns}<|assistant_start|>"
