"""Conversations as ids and mask: what the model learns is what the assistant writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.base.errors import MissingError
from nanochat_core.tokenizer.conversation import render_conversation, render_prompt
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS

(BOS, USER_START, USER_END, ASSISTANT_START, ASSISTANT_END, PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END) = range(
    256, 265
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
parts = st.lists(
    st.fixed_dictionaries({"type": st.sampled_from(["text", "python", "python_output"]), "text": texts}), max_size=4
)
exchanges = st.lists(st.tuples(texts, st.one_of(texts, parts)), min_size=1, max_size=4)


def _user(content):
    return {"role": "user", "content": content}


def _assistant(content):
    return {"role": "assistant", "content": content}


def _messages(pairs):
    return [message for user, assistant in pairs for message in (_user(user), _assistant(assistant))]


def test_a_conversation_with_a_tool_call_is_rendered_id_by_id(byte_tokenizer):
    answer = [
        {"type": "python", "text": "1+2"},
        {"type": "python_output", "text": "3"},
        {"type": "text", "text": "It is 3"},
    ]
    ids, mask = render_conversation(byte_tokenizer, [_user("1+2?"), _assistant(answer), _user("ok"), _assistant("é")])
    expected = [
        (BOS, 0), (USER_START, 0), *((byte, 0) for byte in b"1+2?"), (USER_END, 0),
        (ASSISTANT_START, 0),
        (PYTHON_START, 1), *((byte, 1) for byte in b"1+2"), (PYTHON_END, 1),
        (OUTPUT_START, 0), (ord("3"), 0), (OUTPUT_END, 0),
        *((byte, 1) for byte in b"It is 3"), (ASSISTANT_END, 1),
        (USER_START, 0), *((byte, 0) for byte in b"ok"), (USER_END, 0),
        (ASSISTANT_START, 0), *((byte, 1) for byte in "é".encode()), (ASSISTANT_END, 1),
    ]  # fmt: skip
    assert list(zip(ids, mask, strict=True)) == expected


@given(exchanges)
def test_the_mask_covers_assistant_text_calls_and_ends_and_nothing_else(trained, pairs):
    ids, mask = render_conversation(trained, _messages(pairs))
    name = {trained.special(token): token for token in SPECIAL_TOKENS}
    inside = None
    for token, learnt in zip(ids, mask, strict=True):
        special = name.get(token)
        if special is None:
            assert learnt == (inside in ("assistant", "python"))
            continue
        assert learnt == (special in ("<|assistant_end|>", "<|python_start|>", "<|python_end|>"))
        speaker, _, edge = special.strip("<|>").partition("_")
        inside = speaker if edge == "start" else "assistant" if speaker in ("python", "output") else None
    assert inside is None


@given(exchanges)
def test_the_words_are_there_in_their_order(trained, pairs):
    ids, _ = render_conversation(trained, _messages(pairs))
    said = "".join(
        part if isinstance(part, str) else "".join(piece["text"] for piece in part) for pair in pairs for part in pair
    )
    assert trained.decode_bytes([token for token in ids if token < len(trained.ranks)]) == said.encode()


@given(exchanges, st.sampled_from(SPECIAL_TOKENS))
def test_a_message_that_spells_a_special_token_adds_none(trained, pairs, name):
    first = len(trained.ranks)
    plain = [token for token in render_conversation(trained, _messages(pairs))[0] if token >= first]
    spelled = [(name + user + name, answer + name if isinstance(answer, str) else answer) for user, answer in pairs]
    assert [token for token in render_conversation(trained, _messages(spelled))[0] if token >= first] == plain


def test_a_prompt_is_the_conversation_so_far_and_the_assistants_start(byte_tokenizer):
    messages = [_user("a"), _assistant("b"), _user("c")]
    ids = render_prompt(byte_tokenizer, messages)
    assert ids == [*render_conversation(byte_tokenizer, messages)[0], ASSISTANT_START]
    assert ids[-4:] == [USER_START, ord("c"), USER_END, ASSISTANT_START]


def test_a_prompt_and_the_training_text_begin_alike(trained):
    messages = [_user("what is 37 + 58?"), _assistant("95")]
    prompt = render_prompt(trained, messages[:1])
    assert render_conversation(trained, messages)[0][: len(prompt)] == prompt


def test_a_system_message_goes_before_the_first_user_message(byte_tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, _user("Hi"), _assistant("Hi")]
    folded = [_user("Be brief.\n\nHi"), _assistant("Hi")]
    assert render_conversation(byte_tokenizer, messages) == render_conversation(byte_tokenizer, folded)
    assert messages[1] == _user("Hi")


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{"role": "system", "content": "x"}],
        [_assistant("x")],
        [_user("x"), _user("y")],
        [_user("x"), _assistant("y"), _assistant("z")],
        [_user("x"), {"role": "system", "content": "y"}],
        [{"role": "system", "content": "x"}, {"role": "system", "content": "y"}, _user("z")],
        [{"role": "system", "content": "x"}, _assistant("y")],
        [{"role": "tool", "content": "x"}],
        [{"content": "x"}],
        [{"role": "user"}],
        [_user(None)],
        [_user(5)],
        [_user([{"type": "text", "text": "x"}])],
        [_user("x"), _assistant(None)],
        [_user("x"), _assistant([{"type": "image", "text": "y"}])],
        [_user("x"), _assistant([{"type": "text"}])],
        [_user("x"), _assistant(["y"])],
        [{"role": "system", "content": "x"}, {"role": "user"}],
        [{"role": "system", "content": "x"}, _user(None)],
        [{"role": "system", "content": None}, _user("x")],
        [{"role": "system", "content": ["x"]}, _user("x")],
        ["x"],
        [None],
        [["role", "user"]],
    ],
    ids=repr,
)
def test_what_is_no_conversation_is_refused(byte_tokenizer, messages):
    with pytest.raises(MissingError):
        render_conversation(byte_tokenizer, messages)
