"""Text to ids and back; no text becomes a special token; the file is read whole or refused."""

import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

texts = st.text(st.characters(exclude_categories=["Cs"]))
specials = st.lists(st.one_of(st.sampled_from(SPECIAL_TOKENS), st.text("<|>bos_ ", max_size=6), texts)).map("".join)


@pytest.fixture(params=["byte_tokenizer", "trained"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


@given(texts)
@example("a" * 500 + " " * 500 + "\n" * 500)
@example("\u2028\x85\x0b\x0c\x1c\x00\ufeff")
@example("e\u0301\u200d👨‍👩‍👧")
@example("123456789 1'LL we'VE")
def test_decoding_what_was_encoded_gives_the_text(byte_tokenizer, trained, text):
    for tokenizer in (byte_tokenizer, trained):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.binary())
def test_any_bytes_read_as_text_come_back(trained, raw):
    for text in (raw.decode("latin-1"), raw.decode("utf-8", errors="replace")):
        assert trained.decode(trained.encode(text)) == text


@given(st.binary())
def test_any_sequence_of_ids_decodes_to_its_bytes(byte_tokenizer, raw):
    assert byte_tokenizer.decode_bytes(list(raw)) == raw
    assert byte_tokenizer.decode(list(raw)) == raw.decode("utf-8", errors="replace")


@given(specials)
@example("<|bos|>")
@example("".join(SPECIAL_TOKENS))
def test_text_that_spells_a_special_token_stays_text(byte_tokenizer, trained, text):
    for tokenizer in (byte_tokenizer, trained):
        ids = tokenizer.encode(text)
        assert max(ids, default=0) < len(tokenizer.ranks)
        assert max(tokenizer.encode_to_numpy(text).tolist(), default=0) < len(tokenizer.ranks)
        assert tokenizer.decode(ids) == text


@given(st.text())
def test_both_ways_of_encoding_agree_on_any_text_surrogates_included(trained, text):
    assert trained.encode_to_numpy(text).tolist() == trained.encode(text)


def test_lone_surrogates_become_the_replacement_character(trained):
    assert trained.decode(trained.encode("a\ud800b")) == "a\ufffdb"
    assert trained.decode(trained.encode("\ud83d\ude42")) == "🙂"


@pytest.mark.parametrize("character", [" ", "\t", "\n", "a", "1", "!", "한"])
def test_a_run_of_one_character_has_no_length_that_cannot_be_encoded(byte_tokenizer, character):
    text = character * 1_200_000 + "x"
    assert len(byte_tokenizer.encode(text)) == len(text.encode())


def test_numbers_go_in_groups_of_at_most_two_digits(trained):
    digits = [token for token in trained.ranks if token.isdigit()]
    assert max(len(token) for token in digits) <= 2
    assert trained.encode("1234") == [*trained.encode("12"), *trained.encode("34")]


def test_special_tokens_follow_the_merges_in_their_order(tokenizer):
    first = len(tokenizer.ranks)
    assert [tokenizer.special(name) for name in SPECIAL_TOKENS] == list(range(first, first + 9))
    assert tokenizer.bos == first
    assert tokenizer.vocab_size == first + 9
    assert SPECIAL_TOKENS == (
        "<|bos|>", "<|user_start|>", "<|user_end|>", "<|assistant_start|>", "<|assistant_end|>", "<|python_start|>",
        "<|python_end|>", "<|output_start|>", "<|output_end|>",
    )  # fmt: skip


def test_token_bytes_are_lengths_and_zero_for_special_tokens(trained, lines):
    sizes = trained.token_bytes()
    assert sizes.shape == (trained.vocab_size,)
    assert sizes[-9:].tolist() == [0] * 9
    for line in lines:
        assert sizes[trained.encode(line)].sum() == len(line.encode())


def test_the_file_is_json_and_gives_the_same_tokenizer(tokenizer, tmp_path, lines):
    tokenizer.save(tmp_path / "deep" / "folder")
    again = Tokenizer.load(tmp_path / "deep" / "folder")
    assert again.ranks == tokenizer.ranks
    assert again.pattern == tokenizer.pattern
    assert all(again.encode(line) == tokenizer.encode(line) for line in lines)
    assert isinstance(json.loads((tmp_path / "deep/folder/tokenizer.json").read_text()), dict)
    again.save(tmp_path / "again")
    assert (tmp_path / "again/tokenizer.json").read_bytes() == (tmp_path / "deep/folder/tokenizer.json").read_bytes()


def _set(**changes):
    return lambda stored: json.dumps({**stored, **changes}).encode()


def _without(name):
    return lambda stored: json.dumps({key: value for key, value in stored.items() if key != name}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda stored: b"",
        lambda stored: json.dumps(stored).encode()[:-10],
        lambda stored: bytes(100),
        lambda stored: b"\x80\x04\x95pickle.",
        lambda stored: "é".encode(),
        lambda stored: b"[]",
        lambda stored: b"null",
        _without("format"),
        _without("tokens"),
        _without("pattern"),
        _without("special_tokens"),
        _set(format="nanochat-bpe-0"),
        _set(special_tokens=["<|bos|>"]),
        _set(tokens=["zz"]),
        _set(tokens=[5]),
        _set(tokens=None),
        _set(tokens=["61", "61"]),
        _set(tokens=["61", "62"]),
        _set(pattern="("),
        _set(pattern=5),
        lambda stored: json.dumps({**stored, "tokens": [*stored["tokens"][:-1], stored["tokens"][0]]}).encode(),
    ],
)
def test_a_damaged_file_is_refused(trained, tmp_path, damage):
    trained.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_bytes(damage(json.loads(path.read_text())))
    with pytest.raises(CorruptError) as error:
        Tokenizer.load(tmp_path)
    assert str(path) in error.value.message


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(MissingError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_ids_fit_sixteen_bits_at_the_largest_vocabulary():
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    tokenizer = Tokenizer([*(bytes([value]) for value in range(256)), *pairs[: 65_536 - 256 - 9]])
    assert tokenizer.vocab_size == 65_536
    assert tokenizer.special(SPECIAL_TOKENS[-1]) == np.iinfo(np.uint16).max
