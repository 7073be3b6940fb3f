"""Encoding takes time in proportion to the text, of any kind, and gives the ids that tiktoken gives."""

import random
import re
import time
from pathlib import Path

import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from text_kinds import RUN_CHARS, kinds

from nanochat_core.tokenizer import long_runs
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.long_runs import WINDOW_CHARS, cut, cut_runs, encode_windows, whole
from nanochat_core.tokenizer.tokenizer import SPLIT_PATTERN, Tokenizer

SIZE = 9_000
SLACK = 3.0  # over four times the time for four times the text: other work runs on the machine
MAX_RATIO = 10.0


@pytest.fixture(scope="module")
def merging() -> Tokenizer:
    """Long tokens, and words that merge across any place where a text may be cut."""
    texts = ["the thermal theme of the other brother", "=" * 300, "-#" * 200, "ababab abba", "    x", "中文字中文"]
    return train_tokenizer(texts * 5, vocab_size=320, max_train_bytes=10**6, max_doc_bytes=10**4)


@pytest.fixture(scope="module")
def code() -> Tokenizer:
    """Thousands of tokens of programs, with the long runs of blanks, marks and emoji that such text has.

    None of a window's length: with one that long no text is cut, and the slowest kind takes 40 times the fastest.
    """
    programs = [path.read_text() for path in sorted(Path(long_runs.__file__).parents[1].rglob("*.py"))]
    runs = [mark * 128 for mark in (" ", "=", "-", "#", "\n", "\U0001f642")] * 200
    return train_tokenizer(programs + runs, vocab_size=4096, max_train_bytes=10**7, max_doc_bytes=10**5)


def _plain(tokenizer: Tokenizer) -> tiktoken.Encoding:
    ranks = {token: rank for rank, token in enumerate(tokenizer.ranks)}
    return tiktoken.Encoding("plain", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens={})


def test_ids_of_every_kind_of_text_are_those_of_the_stored_pattern(merging):
    plain = _plain(merging)
    texts = dict(kinds(12 * WINDOW_CHARS))
    assert len(texts) > 200
    wrong = [name for name, text in texts.items() if merging.encode(text) != plain.encode_ordinary(text)]
    assert wrong == []


@settings(max_examples=30)
@given(st.data())
def test_words_without_an_end_are_cut_where_it_changes_nothing(merging, data):
    drawn = random.Random(data.draw(st.integers(0, 2**32)))
    alphabets = ("the", "ab", "=-#", "#", "thermal other", "中文字", "abcdefghijklmnopqrstuvwxyz", "é\u0301", "'s")
    text = "".join("".join(drawn.choices(drawn.choice(alphabets), k=drawn.randrange(20_000))) for _ in range(4))
    assert merging.encode(text) == _plain(merging).encode_ordinary(text)


@settings(max_examples=30)
@given(st.data())
def test_long_white_space_is_cut_where_it_changes_nothing(merging, data):
    drawn = random.Random(data.draw(st.integers(0, 2**32)))
    text = ""
    for _ in range(4):  # before it: a letter, a number, marks, what this Unicode does not know yet
        text += drawn.choice(["", "a", "中", "½", "!", "€", "'s", "\x1c", "\u0378", "\U00016d6a"]) + drawn.choice(
            ["", "\n", "\r\n\n"]
        )
        lines = drawn.choice([0, 1, 100])
        white = drawn.choices(" \n\r\t\u3000\x1c", weights=[1000, lines, lines / 9, 1, 1, 0.1], k=drawn.randrange(9000))
        text += "".join(white) + drawn.choice(["", "x", " x", "="])
    assert merging.encode(text) == _plain(merging).encode_ordinary(text)


@pytest.mark.parametrize(("mark", "num_merges"), [("=", 8), ("-#", 8), (" ", 8), ("\U0001f642", 11)])
def test_tokens_of_hundreds_of_marks_are_no_reason_to_merge_a_text_whole(mark, num_merges):
    tokenizer = train_tokenizer(
        [mark * 512] * 9, vocab_size=265 + num_merges, max_train_bytes=10**6, max_doc_bytes=10**4
    )
    assert max(map(len, tokenizer.ranks)) >= 256
    [(windows, _)] = cut(text := mark * 8192)
    assert len(windows) > 4
    merge = tokenizer._encoding._encode_single_piece
    ids = encode_windows(
        windows, encode=tokenizer._encoding.encode_ordinary, merge=merge, bytes_of=tokenizer.ranks.__getitem__
    )
    assert ids == _plain(tokenizer).encode_ordinary(text)


def test_halves_of_characters_are_put_together_before_a_text_is_cut(merging):
    text = "\ud83d\ude42" * 4 * WINDOW_CHARS
    assert merging.encode(text) == merging.encode("\U0001f642" * 4 * WINDOW_CHARS)
    [(windows, _)] = cut(whole(text))
    assert len(windows) > 2


def test_a_seam_that_cannot_be_mended_is_not_cut(merging, monkeypatch):
    monkeypatch.setattr(long_runs, "TAKEN_BACK", ())
    text = "the" * 20_000
    assert merging.encode(text) == _plain(merging).encode_ordinary(text)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from(" \n\t\x1c\u2028ab"), st.integers(1, 12)), max_size=14), st.integers(1, 9))
def test_white_space_is_cut_where_it_always_was(pieces, longest):
    text = "".join(character * count for character, count in pieces)
    ends = [match.end() for match in re.finditer(rf"\s{{{longest}}}", text)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(long_runs, "MAX_RUN_CHARS", longest)
        starts = [0, *ends]
        cut = [text[start:end] for start, end in zip(starts, [*ends, len(text)], strict=True)]
        assert cut_runs(text) == [piece for piece in cut if piece]


def test_a_megabyte_of_runs_just_below_the_longest_is_cut_in_no_time():
    text = (" " * RUN_CHARS[0] + "x") * 80
    started = time.process_time()
    assert cut_runs(text) == [text]
    assert time.process_time() - started < 0.5  # 10 s where every place is tried


def _seconds(tokenizer: Tokenizer, text: str, repeats: int) -> float:
    taken = []
    for _ in range(repeats):
        started = time.process_time()
        tokenizer.encode(text)
        taken.append(time.process_time() - started)
    return min(taken)


@pytest.mark.parametrize("size", [SIZE, pytest.param(1 << 20, marks=pytest.mark.torture)])
def test_four_times_the_text_takes_four_times_the_time(merging, size):
    longer = dict(kinds(4 * size))
    for name, text in kinds(size):
        bound = 4 * SLACK * _seconds(merging, text, 2) + 0.02
        # measured again only where it seems too long
        assert any(_seconds(merging, longer[name], 1) <= bound for _ in range(4)), name


@pytest.mark.torture
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fixture", ["byte_tokenizer", "merging", "code"])
def test_four_mebibytes_of_no_kind_take_ten_times_as_long_as_of_another(fixture, request):
    tokenizer = request.getfixturevalue(fixture)
    table = sorted((_seconds(tokenizer, text, 2), name) for name, text in kinds(4 << 20))
    for seconds, name in (*table[:5], *table[-10:]):
        print(f"{seconds:7.3f} s  {name}")
    print(f"{fixture}: {len(table)} kinds, slowest over fastest {table[-1][0] / table[0][0]:.1f}")
    assert table[-1][0] <= MAX_RATIO * table[0][0]
