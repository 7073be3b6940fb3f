"""What languages cost: bytes per token by script, and the sentence that says which is dear."""

import pytest

from nanochat_core.base.errors import ConfigError
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.domains import bytes_per_token
from nanochat_core.tokenizer.patterns import NAMED, SCRIPTS, SPLIT_PATTERN, compiled_pattern
from nanochat_core.tokenizer.scripts import SENTENCES, by_script, dear_languages, script_of, sentence_tokens
from nanochat_core.tokenizer.tokenizer import Tokenizer


def learnt(texts, pattern, vocab_size=400):
    return train_tokenizer(
        texts, vocab_size=vocab_size, max_train_bytes=1 << 20, max_doc_bytes=1 << 20, pattern=NAMED[pattern]
    )


@pytest.fixture(scope="module")
def of_all():
    return [sentence for _, sentence in SENTENCES.values()] * 3


@pytest.mark.parametrize("language", SENTENCES)
def test_each_sentence_is_of_its_script(language):
    script, sentence = SENTENCES[language]
    assert script_of(sentence) == script


@pytest.mark.parametrize(
    ("line", "script"),
    [("", None), ("123 ... \n", None), ("abc где", "Latin"), ("東京", "Chinese"), ("東京へ行く", "Japanese"),
     ("the word か in a sentence", "Latin"), ("カタカナ", "Japanese")],
)  # fmt: skip
def test_a_line_is_of_the_script_of_most_letters(line, script):
    assert script_of(line) == script


def test_the_lines_of_a_text_are_parted_by_script_and_the_rare_left_out():
    text = "a long line of Latin letters\n" * 300 + "немного по-русски\n" * 30 + "γ\n"
    parts = by_script([text, "1234"])
    assert list(parts) == ["Latin", "Cyrillic"]
    assert parts["Cyrillic"] == "немного по-русски\n" * 30


@pytest.mark.parametrize("pattern", NAMED)
def test_every_pattern_keeps_every_text(of_all, pattern):
    tokenizer = learnt(of_all, pattern, vocab_size=265 if pattern == "bytes" else 400)
    texts = [*of_all, "a\u200cb \u200d \u0301x  \n\n\t12345 👨\u200d👩ーか", "\u0e33\u0301๏", "١٢٣ ½"]
    assert [tokenizer.decode(tokenizer.encode(text)) for text in texts] == texts
    assert tokenizer.pattern == NAMED[pattern]


def test_what_is_compiled_cuts_as_the_pattern_does(of_all):
    for pattern in NAMED.values():
        plain = Tokenizer(learnt(of_all, "nanochat").ranks, f"(?:{pattern})")  # not known, so it stays as it is
        fast = Tokenizer(plain.ranks, pattern)
        texts = [*of_all, "don't 12345\r\n\r\n  x \u00a0 'ſ", " \n a", "a  \n\n  b"]
        assert [fast.encode(text) for text in texts] == [plain.encode(text) for text in texts]
    assert compiled_pattern(SPLIT_PATTERN) != SPLIT_PATTERN


@pytest.mark.parametrize("text", ["हिन्दी में क्षत्रिय अच्छा", "தமிழ் மொழி"])
def test_a_word_of_india_is_one_piece(text):
    words = text.split()
    tokenizer = Tokenizer([*(bytes([byte]) for byte in range(256)), *(f" {word}".encode() for word in words)], SCRIPTS)
    assert tokenizer.encode(f" {text}") == list(range(256, 256 + len(words)))
    cut = Tokenizer(tokenizer.ranks, NAMED["gpt4"])
    assert len(cut.encode(f" {text}")) > 2 * len(words)


def test_kana_and_chinese_are_pieces_of_their_own():
    pieces = ["東京", "へ", "テーブル", "らーめん", "abc"]
    tokenizer = Tokenizer([*(bytes([byte]) for byte in range(256)), *map(str.encode, pieces)], SCRIPTS)
    assert tokenizer.encode("東京へabcテーブル東京らーめん") == [256, 257, 260, 258, 256, 259]


def test_a_language_that_the_vocabulary_does_not_know_is_called_dear():
    english = SENTENCES["English"][1]
    tokenizer = learnt([english] * 5, "nanochat", vocab_size=360)
    told = dear_languages(tokenizer, ["Latin", "Devanagari"])
    assert len(told) == 1
    assert told[0].startswith("Devanagari is dear: Hindi takes ")
    assert "times the tokens of English" in told[0]
    assert dear_languages(tokenizer, ["Latin"]) == dear_languages(tokenizer, ["Devanagari"]) == []
    assert dear_languages(tokenizer, []) == []
    assert sentence_tokens(tokenizer)["Hindi"] >= 3 * sentence_tokens(tokenizer)["English"]


def test_a_text_of_several_scripts_has_a_row_for_each(of_all):
    tokenizer = learnt(of_all, "scripts")
    rows = bytes_per_token(tokenizer, of_all)
    assert {"of it in Latin", "of it in Devanagari", "of it in Japanese"} <= set(rows)
    assert not any(name.startswith("of it") for name in bytes_per_token(tokenizer, ["one script alone"]))


def test_bytes_have_a_vocabulary_of_their_own_size():
    with pytest.raises(ConfigError, match="265 tokens"):
        plan_run(load_config("tiny", ["tokenizer.pattern=bytes"]))
    assert plan_run(load_config("tiny", ["tokenizer.pattern=bytes", "tokenizer.vocab_size=265"]))
