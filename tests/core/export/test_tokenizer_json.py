"""Our vocabulary as `tokenizers` reads it: equal ids on any text, and the way back."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat_core.base.errors import MissingError
from nanochat_core.export.tokenizer_import import tokenizer_from_json
from nanochat_core.export.tokenizer_json import byte_alphabet, last_pair, tokenizers_json
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

PIECES = st.one_of(
    st.text(max_size=12),
    st.sampled_from(SPECIAL_TOKENS),
    st.sampled_from(
        [
            "'S",
            "'ſ",
            "'ll",
            "'LL",
            " \u00a0\u2003",
            "\r\n\r\n",
            "\u0085",
            "\u200b",
            "👩‍👩‍👧‍👦",
            "é",
            "½²",
            "١٢٣",
            "\x00",
        ]
    ),
    st.from_regex(r"[ \t\n]{0,40}", fullmatch=True),
    st.from_regex(r"[0-9.,]{0,12}", fullmatch=True),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)
ALPHABET = b"abc"


def built(tokenizer):
    library = pytest.importorskip("tokenizers")
    made = library.Tokenizer.from_str(json.dumps(tokenizers_json(tokenizer)))
    made.encode_special_tokens = True  # text that spells a special token is text, as in ours
    return made


@pytest.fixture(scope="module")
def theirs(tokenizer):
    return built(tokenizer)


@settings(max_examples=150, deadline=None)
@given(text=TEXTS)
def test_ids_are_equal_on_any_text(tokenizer, theirs, text):
    assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def test_ids_are_equal_on_real_text(tokenizer, theirs, texts):
    for text in texts[:300]:
        assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text)


def test_every_character_of_the_basic_plane_is_split_alike(tokenizer, theirs):
    for first in range(0, 0xD800, 64):
        text = "".join(f"a{chr(code)}1{chr(code)} {chr(code)}" for code in range(first, first + 64))
        assert theirs.encode(text, add_special_tokens=False).ids == tokenizer.encode(text), hex(first)


@settings(max_examples=80, deadline=None)
@given(ids=st.lists(st.integers(0, 591), max_size=30))
def test_any_ids_decode_to_the_same_text(tokenizer, theirs, ids):
    assert theirs.decode(ids, skip_special_tokens=False) == tokenizer.decode(ids)


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.lists(st.lists(st.sampled_from(ALPHABET), min_size=2, max_size=6).map(bytes), max_size=20, unique=True),
    texts=st.lists(st.lists(st.sampled_from(ALPHABET), max_size=25).map(bytes), min_size=1, max_size=8),
)
def test_ids_are_equal_with_ranks_that_no_training_would_give(tokens, texts):
    """Longer tokens before their parts, tokens that no merge arrives at, several ways to the same token."""
    odd = Tokenizer([*(bytes([byte]) for byte in range(256)), *tokens])
    theirs = built(odd)
    for text in texts:
        assert theirs.encode(text.decode(), add_special_tokens=False).ids == odd.encode(text.decode())


def test_a_token_that_merging_does_not_reach_has_no_pair():
    assert last_pair(b"abc", {b"abc": 256}) is None
    assert last_pair(b"abc", {b"abc": 256, b"bc": 257}) == (b"a", b"bc")


def test_the_byte_alphabet_is_gpt2s():
    transformers = pytest.importorskip("transformers.models.gpt2.tokenization_gpt2")
    known = getattr(transformers, "bytes_to_unicode", None)
    if known is None:
        from transformers.convert_slow_tokenizer import bytes_to_unicode as known
    assert byte_alphabet() == [known()[byte] for byte in range(256)]


def test_a_written_tokenizer_reads_back_as_the_same(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(tokenizers_json(tokenizer)))
    again = tokenizer_from_json(path)
    assert (again.ranks, again.pattern) == (tokenizer.ranks, tokenizer.pattern)


def test_what_the_library_itself_saves_reads_back_as_the_same(tokenizer, theirs, tmp_path):
    theirs.save(str(tmp_path / "tokenizer.json"))
    assert tokenizer_from_json(tmp_path / "tokenizer.json").ranks == tokenizer.ranks


@pytest.mark.parametrize("damage", ["merges", "special", "ids", "kind", "text"])
def test_another_tokenizer_is_refused(tokenizer, tmp_path, damage):
    stored = tokenizers_json(tokenizer)
    if damage == "merges":
        stored["model"]["merges"].reverse()
    elif damage == "special":
        stored["added_tokens"][0]["content"] = "<s>"
    elif damage == "ids":
        stored["model"]["vocab"]["zzzz"] = 9999
    elif damage == "kind":
        stored["model"]["type"] = "WordPiece"
    path = tmp_path / "tokenizer.json"
    path.write_text("not JSON" if damage == "text" else json.dumps(stored))
    with pytest.raises(MissingError) as refused:
        tokenizer_from_json(path)
    assert refused.value.hint
