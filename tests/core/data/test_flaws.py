"""Mojibake is mended whole or not at all, and nobody's right text is touched."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nanochat_core.data.flaws import flaws, mended

LETTERS = st.characters(min_codepoint=0xA1, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cn", "Co"))


def misread(text):
    """UTF-8 read as Windows-1252, whose five unused bytes are Latin-1's."""
    return "".join(
        bytes([byte]).decode("latin-1" if byte in (0x81, 0x8D, 0x8F, 0x90, 0x9D) else "cp1252")
        for byte in text.encode()
    )


@given(text=st.text(st.one_of(LETTERS, st.sampled_from("abc \n")), min_size=1, max_size=40))
def test_what_was_misread_is_mended(text):
    assume(not text.isascii())
    assert mended(misread(text)) == text


@pytest.mark.parametrize(
    "text",
    ["Größe und Übung, schön für Mädchen.", "«CAFÉ»", "Ça va où? déjà vu – “oui”", "Müller, dann falsch MÃ¼ller",
     "naïve", "plain", "São Paulo, Ação", "日本語", "½ £3 ©2020", "Ελλάδα"],
)  # fmt: skip
def test_a_right_text_is_left_alone(text):
    assert mended(text) is None
    assert flaws(text) == []


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("caf\ufffd", "U+FFFD"),
        ("MÃ¼ller Ã¶ffnet frÃ¼h – ø", "mojibake"),
        ("<p>one</p><p>two</p><div>three</div>", "HTML"),
        ("<!DOCTYPE html><html>one", "HTML"),
        ("fish &amp; chips &quot;here&quot;", "entities"),
        ("one<|endoftext|>two", "<|endoftext|>"),
        ("\x1b[31mred\x1b[0m", "control"),
        ('{"text": "one"}\n{"text": "two"}', "JSON"),
    ],
)
def test_a_flaw_is_said(text, word):
    assert [word in flaw for flaw in flaws(text)] == [True]


@pytest.mark.parametrize(
    "text", ["The tag <p> opens and </p> closes a paragraph. " + "Words. " * 200, "AT&amp;T " + "words " * 400, "{x}"]
)
def test_a_text_that_speaks_of_markup_is_none(text):
    assert flaws(text) == []
