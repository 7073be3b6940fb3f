"""The tool loop, token by token: what is forced, what is shown, and that markers in any order do no harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.inference.tool_loop import End, Text, TextLoop, ToolCall, ToolError, ToolLoop, ToolResult
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS

(BOS, USER_START, USER_END, ASSISTANT_START, ASSISTANT_END, PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END) = range(
    256, 265
)


@pytest.fixture
def loop(tokenizer):
    return ToolLoop(tokenizer)


def _feed(loop, *tokens):
    """Feed bytes, texts and ids as a model would: a forced token always goes first."""
    events = []
    for item in tokens:
        for token in item.encode() if isinstance(item, str) else [item]:
            assert not loop.forced
            events += loop.feed(token)
            while loop.forced:
                events += loop.feed(loop.forced[0])
    return events


def _text(events):
    return "".join(event.text for event in events if isinstance(event, Text))


def test_a_call_forces_its_result_between_markers(loop):
    assert loop.feed(PYTHON_START) == []
    assert [event for byte in b"6*7" for event in loop.feed(byte)] == []
    assert loop.feed(PYTHON_END) == [ToolCall("6*7")]
    assert loop.forced == [OUTPUT_START, ord("4"), ord("2"), OUTPUT_END]
    events = []
    for expected in ([ord("4"), ord("2"), OUTPUT_END], [ord("2"), OUTPUT_END], [OUTPUT_END], []):
        events += loop.feed(loop.forced[0])
        assert loop.forced == expected
    assert events == [ToolResult("42")]
    assert _feed(loop, "ok", ASSISTANT_END) == [Text("o"), Text("k"), End("stop")]


def test_two_calls_in_one_answer(loop):
    events = _feed(loop, "a", PYTHON_START, "1+1", PYTHON_END, "b", PYTHON_START, "2+2", PYTHON_END, "c", ASSISTANT_END)
    assert events == [
        Text("a"), ToolCall("1+1"), ToolResult("2"), Text("b"), ToolCall("2+2"), ToolResult("4"), Text("c"),
        End("stop"),
    ]  # fmt: skip


@pytest.mark.parametrize("expression", ["", "1/0", "import os", "9**9**9", "\ufffd"])
def test_a_call_that_cannot_be_evaluated_forces_nothing_and_says_so(loop, expression):
    events = _feed(loop, "a", PYTHON_START, expression, PYTHON_END, "so", ASSISTANT_END)
    assert events == [Text("a"), ToolCall(expression), ToolError(expression), Text("s"), Text("o"), End("stop")]


@given(st.lists(st.sampled_from([*b"a1+*/", PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END]), max_size=80))
def test_every_call_gives_a_result_or_an_error_and_all_text_is_told(tokenizer, tokens):
    loop, events, shown, is_inside = ToolLoop(tokenizer), [], "", False
    for token in tokens:
        while loop.forced:
            events += loop.feed(loop.forced[0])
        events += loop.feed(token)
        if token in (PYTHON_START, OUTPUT_START):
            is_inside = PYTHON_END if token == PYTHON_START else OUTPUT_END
        elif token == is_inside:
            is_inside = False
        elif token < 256 and not is_inside:
            shown += chr(token)
    while loop.forced:
        events += loop.feed(loop.forced[0])
    assert _text(events) == shown
    calls = [event for event in events if not isinstance(event, Text)]
    assert [isinstance(event, ToolCall) for event in calls] == [True, False] * (len(calls) // 2)


@given(st.lists(st.integers(0, 264), max_size=60))
def test_without_tools_nothing_is_forced_and_the_text_is_that_of_the_tokens(tokenizer, tokens):
    loop, events = TextLoop(tokenizer), []
    for token in tokens:
        events += loop.feed(token)
        assert loop.forced == []
        if isinstance(events[-1] if events else None, End):
            break
    else:
        events += loop.finish("length")
    heard = tokens[: next((i for i, token in enumerate(tokens) if token in (BOS, ASSISTANT_END)), len(tokens))]
    runs = bytes(token if token < 256 else 0 for token in heard).split(b"\0") if 0 not in heard else None
    assert isinstance(events[-1], End)
    if runs is not None:  # a marker is no text, and no character reaches across it
        assert _text(events) == "".join(run.decode(errors="replace") for run in runs)


@pytest.mark.parametrize("loop_of", [TextLoop, ToolLoop])
def test_a_character_that_the_limit_cuts_is_told_as_replaced(tokenizer, loop_of):
    loop = loop_of(tokenizer)
    assert loop.feed("한".encode()[0]) == []
    assert loop.finish("length") == [Text("\ufffd"), End("length")]


def test_characters_split_over_tokens_come_out_whole(loop):
    text = "é한🙂👨‍👩‍👧"
    events = _feed(loop, text)
    assert _text(events) == text
    assert "\ufffd" not in _text(events)
    assert [event.text for event in events] == list(text)


@pytest.mark.parametrize("end", [ASSISTANT_END, BOS])
def test_a_character_cut_by_the_end_is_shown_as_replaced(loop, end):
    first, second, *_ = "한".encode()
    assert _feed(loop, "a", first, second, end) == [Text("a"), Text("\ufffd"), End("stop")]


def test_a_character_cut_by_a_call_does_not_reach_into_the_text_after_it(loop):
    first, second, third = "한".encode()
    events = _feed(loop, first, second, PYTHON_START, "1+1", PYTHON_END, third, "x")
    assert _text(events) == "\ufffd\ufffdx"
    assert ToolResult("2") in events


def test_bytes_of_a_call_are_decoded_together(loop):
    assert _feed(loop, PYTHON_START, '"été".count("é")', PYTHON_END) == [ToolCall('"été".count("é")'), ToolResult("2")]


def test_a_second_start_begins_the_call_anew_and_shows_the_first_as_failed(loop):
    events = _feed(loop, PYTHON_START, "1+", PYTHON_START, "2+2", PYTHON_END, "x")
    assert events == [ToolCall("1+"), ToolError("1+"), ToolCall("2+2"), ToolResult("4"), Text("x")]


@pytest.mark.parametrize("stray", [PYTHON_END, OUTPUT_END, USER_START, USER_END, ASSISTANT_START])
def test_a_marker_that_closes_nothing_is_ignored(loop, stray):
    assert _feed(loop, "a", stray, "b", ASSISTANT_END) == [Text("a"), Text("b"), End("stop")]


def test_output_that_the_model_writes_itself_is_no_result_of_the_tool(loop):
    """Whoever reads [1+1 = 3] must be able to rely on it."""
    events = _feed(loop, OUTPUT_START, "3", OUTPUT_END, "x", ASSISTANT_END)
    assert ToolResult("3") not in events


def test_an_end_inside_a_call_ends_the_answer_and_shows_the_call_as_failed(loop):
    assert _feed(loop, PYTHON_START, "1+1", ASSISTANT_END) == [ToolCall("1+1"), ToolError("1+1"), End("stop")]
    assert _feed(loop, PYTHON_START, ASSISTANT_END) == [End("stop")]


def test_a_call_that_the_limit_cuts_is_shown_as_failed(loop):
    """Else a reader would see an answer of many tokens and nothing in it."""
    _feed(loop, PYTHON_START, "12+30*7*7")
    assert loop.finish("length") == [ToolCall("12+30*7*7"), ToolError("12+30*7*7"), End("length")]


def test_a_result_that_spells_a_special_token_is_text(loop, tokenizer):
    expression = '"' + SPECIAL_TOKENS[0] + '".count("b")'
    assert _feed(loop, PYTHON_START, expression, PYTHON_END) == [ToolCall(expression), ToolResult("1")]


@given(st.lists(st.one_of(st.integers(0, 264), st.sampled_from(range(256, 265))), max_size=60))
def test_no_sequence_of_tokens_stops_the_loop_or_forces_what_is_not_a_result(tokenizer, tokens):
    loop = ToolLoop(tokenizer)
    for token in tokens:
        events = loop.feed(loop.forced[0] if loop.forced else token)
        assert all(isinstance(event, Text | ToolCall | ToolResult | ToolError | End) for event in events)
        assert all(event.text for event in events if isinstance(event, Text))
        if loop.forced:
            assert loop.forced[-1] == OUTPUT_END
            assert OUTPUT_END not in loop.forced[:-1]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_streams_to_itself_whatever_the_vocabulary(tokenizer, text):
    texts = ["été 한국 한국어 🙂🙂 été"] * 3
    trained = train_tokenizer(texts, vocab_size=280, max_train_bytes=10**4, max_doc_bytes=10**4)
    for vocabulary in (tokenizer, trained):
        loop = ToolLoop(vocabulary)
        assert _text([event for token in vocabulary.encode(text) for event in loop.feed(token)]) == text
