"""Stop strings: never told, nothing before them lost, and however the text is cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.request import Request
from nanochat_core.inference.sampling import Sampling
from nanochat_core.inference.stop import StopText
from nanochat_core.inference.tool_loop import End, Text, ToolCall, ToolError, ToolResult

PYTHON_START, PYTHON_END = 261, 262
STOPS = st.lists(st.text("abc", min_size=1, max_size=5), min_size=1, max_size=3).map(tuple)
TEXTS = st.text("abc", max_size=30)


def _cut(text, places):
    places = sorted({0, len(text), *(place for place in places if place < len(text))})
    return [text[first:last] for first, last in itertools.pairwise(places)]


def _told(pieces, stops):
    """(text, was stopped, what was told after each piece)."""
    stop, events, so_far = StopText(stops), [], []
    for piece in pieces:
        events += stop.feed([Text(piece)])
        so_far.append(_text(events))
        if End("stop") in events:
            return _text(events), True, so_far
    return _text([*events, *stop.feed([End("length")])]), False, so_far


def _text(events):
    return "".join(event.text for event in events if isinstance(event, Text))


@given(TEXTS, STOPS, st.lists(st.integers(0, 30)))
def test_the_text_ends_before_the_stop_that_is_complete_first_however_it_is_cut(text, stops, places):
    told, is_stopped, _ = _told(_cut(text, places), stops)
    ends = [(end, first) for end in range(len(text) + 1) for first in range(end) if text[first:end] in stops]
    expected = text[: min(ends)[1]] if ends else text
    assert (told, is_stopped) == (expected, bool(ends))
    assert not any(stop in told for stop in stops)


@given(TEXTS, STOPS, st.lists(st.integers(0, 30)))
def test_no_text_waits_that_cannot_be_the_start_of_a_stop(text, stops, places):
    pieces = _cut(text, places)
    _, is_stopped, so_far = _told(pieces, stops)
    read = ""
    for piece, told in zip(pieces[: len(so_far) - is_stopped], so_far, strict=False):
        read += piece
        assert read.startswith(told)
        waiting = read[len(told) :]
        assert waiting == "" or any(stop.startswith(waiting) for stop in stops)


@given(st.lists(st.one_of(TEXTS.filter(bool).map(Text), st.just(ToolCall("1+1")), st.just(ToolResult("2")))), STOPS)
def test_tool_calls_keep_their_place_and_none_is_lost(events, stops):
    stop, told = StopText(stops), []
    for event in [*events, End("length")]:
        told += stop.feed([event])
        if isinstance(told[-1] if told else None, End):
            break
    assert isinstance(told[-1], End)
    assert not any(text in _text(told) for text in stops)
    if told[-1] == End("length"):  # nothing was stopped: the same characters and calls in the same order
        assert _units(told) == _units([*events, End("length")])
    else:
        calls = [event for event in told if isinstance(event, ToolCall | ToolResult)]
        assert calls == [event for event in events if isinstance(event, ToolCall | ToolResult)][: len(calls)]


def _units(events):
    return [unit for event in events for unit in (event.text if isinstance(event, Text) else [event])]


def test_a_stop_across_a_tool_call_is_one(tokenizer):
    stop = StopText(("ab",))
    assert stop.feed([Text("xa")]) == [Text("x")]
    assert stop.feed([ToolCall("1"), ToolError("1")]) == []
    assert stop.feed([Text("b")]) == [ToolCall("1"), ToolError("1"), End("stop")]


def _run(tokenizer, tokens, **settings):
    """Events of an answer whose model says these tokens."""
    request = Request([256], Sampling(**settings), tokenizer)
    for token in tokens:
        if not request.is_done:
            request.take(token)
            while request.is_forced and not request.is_done:
                request.take(request.loop.forced[0])
    return request.answer


@pytest.mark.parametrize("stop", ["é", "한국", "🙂", "\n\n", "x🙂é"])
def test_stops_of_many_bytes_are_found_across_tokens(tokenizer, stop):
    answer = _run(tokenizer, f"x한국어x🙂éy\n\nz{stop}rest".encode(), stop=(stop,))
    whole = f"x한국어x🙂éy\n\nz{stop}rest"
    assert answer.text == whole[: whole.index(stop)]
    assert answer.events[-1] == End("stop")
    assert bytes(answer.tokens).decode() == whole[: whole.index(stop) + len(stop)]


def test_text_that_waited_comes_out_when_the_answer_ends(tokenizer):
    for last, reason in (([260], "stop"), ([], "length")):
        tokens = [*b"say EN", *last]
        answer = _run(tokenizer, tokens, stop=("END.",), max_new_tokens=len(tokens))
        assert (answer.text, answer.events[-1]) == ("say EN", End(reason))


def test_text_before_a_call_is_told_before_it_although_it_waited(tokenizer):
    tokens = [*b"say EN", PYTHON_START, *b"1+1", PYTHON_END, *b"ok", 260]
    answer = _run(tokenizer, tokens, stop=("END.",))
    assert _units(answer.events) == [*"say EN", ToolCall("1+1"), ToolResult("2"), *"ok", End("stop")]


def test_an_expression_is_no_text_that_could_stop(tokenizer):
    answer = _run(tokenizer, [PYTHON_START, *b"1+1", PYTHON_END, *b"2", 260], stop=("1+1", "2"))
    assert answer.events == [ToolCall("1+1"), ToolResult("2"), End("stop")]
    assert len(answer.tokens) == 9  # the "2" of the text stopped it, that of the result did not


@pytest.mark.parametrize("stop", ["END", ("",), ("a", ""), (b"a",), (3,)])
def test_a_stop_that_says_nothing_is_refused(stop):
    with pytest.raises(ConfigError, match="stop"):
        Sampling(stop=stop)


def test_a_stop_id_ends_the_answer_and_is_not_told(tokenizer):
    answer = _run(tokenizer, b"abcd", stop_ids=(ord("c"), 7))
    assert answer.events == [Text("a"), Text("b"), End("stop")]
    assert answer.tokens == [*b"abc"]


def test_a_stop_id_within_a_tools_result_does_not_cut_it(tokenizer):
    answer = _run(tokenizer, [PYTHON_START, *b"6*7", PYTHON_END, *b"is 2"], stop_ids=(ord("2"),))
    assert answer.events == [ToolCall("6*7"), ToolResult("42"), Text("i"), Text("s"), Text(" "), End("stop")]
