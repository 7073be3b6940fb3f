"""The template renders what our own rendering renders, and refuses what it cannot."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.tokenizer.conversation import render_conversation, render_prompt
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS

TEXTS = st.text(max_size=20).filter(lambda text: not any(name in text for name in SPECIAL_TOKENS))
CALLS = st.tuples(TEXTS, TEXTS, TEXTS).map(
    lambda texts: [
        {"type": kind, "text": text} for kind, text in zip(("text", "python", "python_output"), texts, strict=True)
    ]
)
ANSWERS = st.one_of(TEXTS, CALLS)


@st.composite
def conversations(draw):
    messages = []
    if draw(st.booleans()):
        messages.append({"role": "system", "content": draw(TEXTS)})
    for _ in range(draw(st.integers(0, 3))):
        messages.append({"role": "user", "content": draw(TEXTS)})
        messages.append({"role": "assistant", "content": draw(ANSWERS)})
    return [*messages, {"role": "user", "content": draw(TEXTS)}]


def ids_of(hf_tokenizer, messages, **options):
    return hf_tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"]


@settings(max_examples=80, deadline=None)
@given(messages=conversations())
def test_a_prompt_has_the_ids_of_our_own_rendering(hf_tokenizer, tokenizer, messages):
    assert ids_of(hf_tokenizer, messages, add_generation_prompt=True) == render_prompt(tokenizer, messages)
    assert ids_of(hf_tokenizer, messages) == render_conversation(tokenizer, messages)[0]


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "be kind"}],
        [{"role": "assistant", "content": "hello"}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
        [{"role": "user", "content": [{"type": "text", "text": "a"}]}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": [{"type": "image", "text": "a"}]}],
    ],
)
def test_what_our_rendering_refuses_the_template_refuses(hf_tokenizer, tokenizer, messages):
    from jinja2 import TemplateError

    with pytest.raises(Exception, match=r"message|conversation"):
        render_prompt(tokenizer, messages)
    with pytest.raises((TemplateError, IndexError, ValueError)):
        ids_of(hf_tokenizer, messages, add_generation_prompt=True)


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_text_that_spells_a_special_token_never_becomes_one(hf_tokenizer, name):
    from jinja2 import TemplateError

    for role in ("system", "user"):
        messages = [{"role": role, "content": f"a {name} b"}, {"role": "user", "content": "hi"}][role == "user" :]
        messages = messages if role == "system" else [{"role": "user", "content": f"a {name} b"}]
        with pytest.raises(TemplateError, match="special token"):
            ids_of(hf_tokenizer, messages)
