"""What is fast cuts and encodes as the plain pattern does: pieces, merges and ids, of any text."""

import itertools
import os
from collections import Counter

import numpy as np
import pytest
import regex
import rustbpe
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from nanochat_core.tokenizer import bulk
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.bulk import BulkEncoder, is_certain
from nanochat_core.tokenizer.patterns import GPT4O, NAMED, SCRIPTS, SPLIT_PATTERN, TIKTOKEN_GPT4, compiled_pattern
from nanochat_core.tokenizer.pieces import count_pieces, cut
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, Added, Tokenizer
from tests.core.tokenizer.mixed import WHITE, mixed_texts

PreTokenizer = pytest.importorskip("ffbpe", reason="ffbpe has no wheel for Linux on ARM").PreTokenizer
PATTERNS = sorted({SPLIT_PATTERN, TIKTOKEN_GPT4, SCRIPTS})
NAMES = [next(name for name, found in NAMED.items() if found == pattern) for pattern in PATTERNS]
BYTES = [bytes([value]) for value in range(256)]
SHORT = [*"aS1 \t\n\r.'é2", "\u00a0", "\u3000", "\u0301"]


@pytest.fixture(scope="module", autouse=True)
def marked_digits():
    """All that may be encoded fast is, also where many digits make it slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk, "MOST_DIGITS", 2.0)
        yield


def plain_pieces(texts, pattern):
    """By the engine alone, document by document."""
    counts = Counter()
    splitter = PreTokenizer([], pat_str=pattern)
    for text in texts:
        counts.update(splitter.get_words(text))
    return counts


def counted(texts, pattern):
    return dict(count_pieces(texts, compiled_pattern(pattern)))


def plain_ids(tokenizer, texts):
    """tiktoken with the pattern as it is stored, BOS before each document."""
    ranks = {token: rank for rank, token in enumerate(tokenizer.ranks)}
    encoding = tiktoken.Encoding("plain", pat_str=tokenizer.pattern, mergeable_ranks=ranks, special_tokens={})
    return [[tokenizer.bos, *encoding.encode_ordinary(text)] for text in texts]


def bulk_ids(encoder, texts):
    ids, lengths = encoder.encode(texts)
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


@pytest.fixture(scope="module", params=[SPLIT_PATTERN, TIKTOKEN_GPT4], ids=["nanochat", "gpt4"])
def learnt(request):
    """A vocabulary of what the texts below are made of."""
    limits = {"max_train_bytes": 10**9, "max_doc_bytes": 10**6}
    return train_tokenizer(mixed_texts(7, 300_000), vocab_size=3000, pattern=request.param, **limits)


@pytest.mark.parametrize("num_chars", [1, 2, 3, 4, pytest.param(5, marks=pytest.mark.torture)])
@pytest.mark.parametrize("pattern", PATTERNS, ids=NAMES)
def test_no_cut_is_within_a_piece_and_no_piece_changes_whatever_stands_together(pattern, num_chars):
    find = regex.compile(pattern, regex.V1).findall
    texts = ["".join(chars) for chars in itertools.product(SHORT, repeat=num_chars)]
    for some in _batched(texts, 10_000):
        stretches = [stretch.decode() for stretch in cut([text.encode() for text in some]).to_pylist()]
        assert [piece for text in some for piece in find(text)] == [
            piece for stretch in stretches for piece in find(stretch)
        ]


def _batched(texts, size):
    return (texts[start : start + size] for start in range(0, len(texts), size))


@pytest.mark.parametrize("pattern", PATTERNS, ids=NAMES)
def test_pieces_and_their_counts_are_those_of_the_plain_pattern(pattern):
    texts = mixed_texts(1, 400_000)
    assert counted(texts, pattern) == plain_pieces(texts, pattern)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1))
def test_pieces_of_any_texts_are_those_of_the_plain_pattern(texts):
    assert counted(texts, SPLIT_PATTERN) == plain_pieces(texts, SPLIT_PATTERN)


def test_pieces_that_are_counted_in_parts_are_the_same(monkeypatch):
    texts = mixed_texts(2, 50_000)
    whole = counted(texts, SPLIT_PATTERN)
    monkeypatch.setattr("nanochat_core.tokenizer.pieces.BATCH_BYTES", 1000)
    monkeypatch.setattr("nanochat_core.tokenizer.pieces.MOST_STRETCH_BYTES", 5000)
    assert counted(texts, SPLIT_PATTERN) == whole


@given(st.lists(st.text("aab é1' ", min_size=1, max_size=40), min_size=1, max_size=30), st.integers(1, 80))
def test_merges_and_their_order_are_those_of_rustbpe(texts, num_merges):
    theirs = rustbpe.Tokenizer()
    theirs.train_from_iterator(iter(texts), 256 + num_merges, pattern=SPLIT_PATTERN)
    ranks = [bytes(token) for token, _ in sorted(theirs.get_mergeable_ranks(), key=lambda item: item[1])]
    size = len(ranks) + len(SPECIAL_TOKENS)
    assert train_tokenizer(texts, vocab_size=size, max_train_bytes=10**6, max_doc_bytes=10**6).ranks == ranks


@pytest.mark.parametrize("pattern", PATTERNS, ids=NAMES)
def test_without_ffbpe_the_merges_are_the_same(pattern, monkeypatch):
    texts = [text for text in mixed_texts(7, 600_000) if len(text.encode()) < 1.3 * len(text)]
    limits = {"max_train_bytes": 10**9, "max_doc_bytes": 10**6}
    ranks = train_tokenizer(texts, vocab_size=1000, pattern=pattern, **limits).ranks
    monkeypatch.setitem(__import__("sys").modules, "ffbpe", None)
    assert train_tokenizer(texts, vocab_size=1000, pattern=pattern, **limits).ranks == ranks


@pytest.mark.parametrize("by_pattern", ["漢字かな", "привет "])
def test_what_is_mostly_past_ascii_is_learnt_by_the_pattern_all_of_it(by_pattern, monkeypatch):
    def fail(*given):
        raise AssertionError("counted")

    monkeypatch.setattr("nanochat_core.tokenizer.bpe.JUDGED_BYTES", 100)
    with monkeypatch.context() as patch:
        patch.setattr("nanochat_core.tokenizer.pieces.count_pieces", fail)
        tokenizer = train_tokenizer(
            iter([by_pattern * 20, "zq" * 500]), vocab_size=267, max_train_bytes=10**6, max_doc_bytes=10**4
        )
        assert tokenizer.ranks[256] == b"zq"
        with pytest.raises(AssertionError, match="counted"):
            train_tokenizer(["plain words"] * 9, vocab_size=267, max_train_bytes=10**6, max_doc_bytes=10**4)


def test_ids_are_those_of_tiktoken_with_the_stored_pattern(learnt):
    texts = mixed_texts(3, 400_000)
    assert sum(map(is_certain, texts)) > len(texts) / 20  # both ways are taken
    assert bulk_ids(BulkEncoder(learnt), texts) == plain_ids(learnt, texts)


@given(st.lists(st.text(st.one_of(st.sampled_from("ab '.,12\n\t漢é"), st.sampled_from(WHITE))), min_size=1))
def test_ids_of_any_texts_are_those_of_tiktoken(learnt, texts):
    assert bulk_ids(BulkEncoder(learnt), texts) == plain_ids(learnt, texts)


def test_every_code_point_that_is_judged_certain_is_cut_alike(learnt):
    points = [char for point in range(0x110000) if is_certain(char := chr(point)) and char != "\n"]
    assert 100_000 < len(points) < bulk.NUM_JUDGED
    contexts = ("{}'s", "{}b", "a{}", "1{}2", "  {}", ".{}\r\n")
    texts = ["\n\n".join(map(context.format, some)) for context in contexts for some in _batched(points, 500)]
    encoder = BulkEncoder(learnt)
    assert sum(map(is_certain, texts)) > 0.8 * len(texts)
    assert bulk_ids(encoder, texts) == plain_ids(learnt, texts)


@pytest.mark.parametrize(
    "text",
    [
        "",
        bulk.DOCUMENT,
        "1" + bulk.TWO_DIGITS + "234",
        "a\ud800b",
        "x" + " " * 120_000 + "y",
        "12٣٤567",
        "\u0378's \U000323b0're",
        "".join(SPECIAL_TOKENS),
        "7" * 1001,
    ],
    ids=ascii,
)
def test_ids_of_what_is_not_certain_are_those_of_the_tokenizer(learnt, text):
    texts = ["before 123", text, "after", text]
    wanted = [[learnt.bos, *learnt.encode(each)] for each in texts]
    assert bulk_ids(BulkEncoder(learnt), texts) == wanted


@pytest.mark.parametrize("char", ["a", "1", " ", "#", "\n", "é", "\u3000", "٣", "ab ", "12 "])
def test_a_run_of_a_million_takes_no_second_and_gives_the_same_ids(learnt, char):
    text = char * 1_000_000
    assert bulk_ids(BulkEncoder(learnt), [text]) == [[learnt.bos, *learnt.encode(text)]]


def test_no_documents_are_no_ids(learnt):
    ids, lengths = BulkEncoder(learnt).encode([])
    assert len(ids) == len(lengths) == 0
    assert ids.dtype == np.uint16


def test_where_marks_cost_more_than_they_gain_the_plain_encoder_works(learnt, monkeypatch):
    monkeypatch.setattr(bulk, "MOST_DIGITS", 0.3)
    texts = ["0123456789" * 50, "0.123456,0.654321\n" * 30, "a word or two, 12 of them " * 20, "\ud800 half"]
    encoder = BulkEncoder(learnt)
    has_twos = learnt.pattern == SPLIT_PATTERN
    assert list(map(encoder._pays_for, texts)) == [not has_twos, not has_twos, True, True]
    assert bulk_ids(encoder, texts) == [[learnt.bos, *learnt.encode(text)] for text in texts]


def test_an_encoder_that_has_seen_much_begins_anew(learnt, monkeypatch):
    monkeypatch.setattr(bulk, "REMEMBERED_BYTES", 1000)
    encoder, texts = BulkEncoder(learnt), [f"word{n} " * 40 for n in range(20)]
    made = {id(encoder._fast)}
    for text in texts:
        assert bulk_ids(encoder, [text]) == plain_ids(learnt, [text])
        made.add(id(encoder._fast))
    assert len(made) > 1


def test_where_gigatoken_does_not_do_ids_are_the_same(learnt, monkeypatch, capfd):
    texts = ["the fox said 12345 <|bos|> été", "x"]
    others = {
        "added": Tokenizer(learnt.ranks, learnt.pattern, [Added("fox", is_special=False)]),
        "pattern": Tokenizer(learnt.ranks, GPT4O),
        "not merged": Tokenizer([*BYTES, b"the fox"]),
    }
    for other in others.values():
        assert BulkEncoder(other)._fast is None
        assert bulk_ids(BulkEncoder(other), texts) == [[other.bos, *other.encode(text)] for text in texts]
    fast = bulk_ids(BulkEncoder(learnt), texts)
    monkeypatch.setitem(__import__("sys").modules, "gigatoken.gigatoken_rs", None)
    assert BulkEncoder(learnt)._fast is None
    assert bulk_ids(BulkEncoder(learnt), texts) == fast


@pytest.mark.torture
def test_of_a_billion_characters_no_piece_and_no_id_differs(learnt):
    """NANOCHAT_CHARS: how many."""
    num_chars, seen, num_docs, num_certain = int(float(os.environ.get("NANOCHAT_CHARS", "1e9"))), 0, 0, 0
    encoder = BulkEncoder(learnt)
    for seed in itertools.count(1000):
        texts = mixed_texts(seed, 2_000_000)
        assert bulk_ids(encoder, texts) == plain_ids(learnt, texts), seed
        assert counted(texts, learnt.pattern) == plain_pieces(texts, learnt.pattern), seed
        seen, num_docs = seen + sum(map(len, texts)), num_docs + len(texts)
        num_certain += sum(map(is_certain, texts))
        if seen >= num_chars:
            break
    print(f"{seen:,} characters, {num_docs:,} documents, {num_certain:,} of them fast: 0 differ")
