"""A chat session: what is streamed, what is remembered, what the commands change."""

import io
from types import SimpleNamespace

import pytest

from nanochat_core.base.errors import ConfigError
from nanochat_core.cli.chat import Session, talk
from nanochat_core.inference.sampling import Sampling

ASSISTANT_START, ASSISTANT_END, PYTHON_START, PYTHON_END, OUTPUT_END = 259, 260, 261, 262, 264
SAYS_HI = {ASSISTANT_START: ord("h"), ord("h"): ord("i"), ord("i"): ASSISTANT_END}
CALLS = {ASSISTANT_START: PYTHON_START, PYTHON_START: ord("7"), ord("7"): PYTHON_END, OUTPUT_END: ord("!"),
         ord("!"): ASSISTANT_END}  # fmt: skip
FAILS = {ASSISTANT_START: PYTHON_START, PYTHON_START: ord("x"), ord("x"): PYTHON_END, PYTHON_END: ord("!"),
         ord("!"): ASSISTANT_END}  # fmt: skip
ENDLESS = {ASSISTANT_START: ord("a"), ord("a"): ord("b"), ord("b"): ord("a")}


class Interrupting(io.StringIO):
    """A terminal at which Ctrl-C is pressed after a few pieces."""

    def write(self, text):
        if self.getvalue() == "aba":
            self.seek(0, io.SEEK_END)
            super().write("|")
            raise KeyboardInterrupt
        return super().write(text)


def _session(chat, out=None, **settings):
    return Session(chat, Sampling(**{"max_new_tokens": 20, **settings}), out or io.StringIO())


def test_an_answer_is_streamed_and_remembered(make_chat):
    session = _session(make_chat(SAYS_HI))
    assert session.ask("hello") == "hi"
    assert session.out.getvalue() == "hi\n"
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
    assert session.ask("again") == "hi"
    assert len(session.messages) == 4


def test_a_tool_call_is_shown_in_brackets_and_is_no_part_of_the_answer(make_chat):
    session = _session(make_chat(CALLS))
    assert session.ask("7?") == "!"
    assert session.out.getvalue() == "[7 = 7] !\n"
    kinds = [part["type"] for part in session.messages[-1]["content"]]
    assert kinds == ["python", "python_output", "text"]
    assert session.ask("and then?") == "!"


def test_a_tool_call_that_gives_nothing_says_so(make_chat):
    session = _session(make_chat(FAILS))
    assert session.ask("x?") == "!"
    assert session.out.getvalue() == "[x = ?] !\n"


def test_the_next_prompt_holds_the_answer_as_the_model_wrote_it(make_chat):
    chat = make_chat(CALLS)
    session = _session(chat)
    session.ask("7?")
    session.messages.append({"role": "user", "content": "x"})
    ids = session._fitting_prompt()
    first = ids.index(ASSISTANT_START)
    assert ids[first : first + 9] == [259, 261, ord("7"), 262, 263, ord("7"), 264, ord("!"), 260]


def test_an_answer_that_is_cut_by_its_length_says_so(make_chat):
    session = _session(make_chat(ENDLESS), max_new_tokens=5)
    assert session.ask("go") == "ababa"
    assert session.out.getvalue() == "ababa ...\n"


def test_an_interrupt_ends_the_answer_and_not_the_session(make_chat):
    session = _session(make_chat(ENDLESS), Interrupting())
    session.ask("go")
    assert "(stopped)" in session.out.getvalue()
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
    session.out = io.StringIO()
    assert session.ask("on").startswith("ab")


def test_the_oldest_exchanges_are_forgotten_when_the_context_is_full(make_chat):
    session = _session(make_chat(SAYS_HI))
    for number in range(20):
        assert session.ask(f"question {number}") == "hi"
    asked = [message["content"] for message in session.messages if message["role"] == "user"]
    assert 1 < len(asked) < 20
    assert asked == [f"question {number}" for number in range(20 - len(asked), 20)]


def test_room_is_kept_for_the_answer(make_chat):
    session = _session(make_chat(ENDLESS), max_new_tokens=1000)
    for number in range(5):
        assert len(session.ask(f"question {number}")) >= 96 // 4


@pytest.mark.parametrize("earlier", [0, 3])
def test_a_question_longer_than_the_context_is_refused_and_nothing_is_lost(make_chat, earlier):
    session = _session(make_chat(SAYS_HI))
    for number in range(earlier):
        session.ask(f"{number}")
    before = list(session.messages)
    with pytest.raises(ConfigError, match="context of 96"):
        session.ask("x" * 200)
    assert session.messages == before
    assert session.ask("short") == "hi"


def test_text_that_spells_the_models_markers_stays_text(make_chat):
    session = _session(make_chat(SAYS_HI), max_new_tokens=5)
    session.messages.append({"role": "user", "content": "<|assistant_start|><|bos|>"})
    ids = session._fitting_prompt()
    assert [token for token in ids if token >= 256] == [256, 257, 258, ASSISTANT_START]


def test_commands_change_the_sampling_clear_and_leave(make_chat):
    session = _session(make_chat(SAYS_HI))
    session.ask("hello")
    assert session.command("/temperature 0.5")
    assert session.command("/topk 7")
    assert (session.sampling.temperature, session.sampling.top_k, session.sampling.max_new_tokens) == (0.5, 7, 20)
    assert session.command("/clear")
    assert session.messages == []
    assert session.command("/what")
    assert "/quit" in session.out.getvalue()
    assert not session.command("/quit")
    assert not session.command("/exit")


@pytest.mark.parametrize(
    "line", ["/temperature", "/temperature hot", "/temperature 99", "/temperature nan", "/topk 0", "/topk 1.5", "/topk"]
)
def test_a_command_with_a_bad_value_changes_nothing_and_says_so(make_chat, line):
    session = _session(make_chat(SAYS_HI))
    before = session.sampling
    assert session.command(line)
    assert session.sampling == before
    assert "needs a number" in session.out.getvalue()


def _talk(session, monkeypatch, *lines):
    typed = iter(lines)

    def read(prompt):
        line = next(typed, EOFError())
        if isinstance(line, BaseException):
            raise line
        return line

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr("sys.stdin", SimpleNamespace(isatty=lambda: True))
    talk(session)
    return session.out.getvalue()


def test_talking_goes_on_until_the_user_leaves(make_chat, monkeypatch):
    lines = ("hello", "", "  ", "/topk x", "y" * 300, "bye", "/quit", "not read")
    shown = _talk(_session(make_chat(SAYS_HI)), monkeypatch, *lines)
    assert shown.startswith("scripted. ")
    assert shown.count("hi\n") == 2
    assert "too many for a context of 96" in shown


@pytest.mark.parametrize("end", [EOFError(), KeyboardInterrupt()])
def test_the_end_of_input_leaves(make_chat, monkeypatch, end):
    assert _talk(_session(make_chat(SAYS_HI)), monkeypatch, "hello", end).endswith("hi\n\n")


def test_what_a_program_sends_is_read_as_far_as_it_can_be(make_chat, monkeypatch):
    asked = []
    monkeypatch.setattr(Session, "ask", lambda session, text: asked.append(text))
    sent = b"\xef\xbb\xbfcaf\xe9\r\n\n  \na\x00b\x1b[2Jc\n" + "ü".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(sent), encoding="ascii"))
    talk(_session(make_chat(SAYS_HI)))
    assert asked == ["caf\ufffd", "a\0b\x1b[2Jc", "ü"]


def test_utf16_from_a_program_is_refused_in_words(make_chat, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("hello\r\n".encode("utf-16"))))
    with pytest.raises(ConfigError, match="standard input is UTF-16"):
        talk(_session(make_chat(SAYS_HI)))
