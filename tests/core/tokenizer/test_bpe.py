"""Training a vocabulary: deterministic, of the asked size, within its limits."""

import subprocess
import sys
from pathlib import Path

import pytest

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS

ROOT = Path(__file__).resolve().parents[3]


def _train(texts, vocab_size=300, max_train_bytes=10**6, max_doc_bytes=10**4):
    return train_tokenizer(texts, vocab_size=vocab_size, max_train_bytes=max_train_bytes, max_doc_bytes=max_doc_bytes)


def test_the_vocabulary_has_the_asked_size_and_all_bytes(lines):
    tokenizer = _train(lines)
    assert tokenizer.vocab_size == 300
    assert set(tokenizer.ranks[:256]) == {bytes([value]) for value in range(256)}
    assert len(set(tokenizer.ranks)) == 300 - len(SPECIAL_TOKENS)


def test_two_trainings_give_the_same_ranks(lines):
    assert _train(lines * 5).ranks == _train(iter(lines * 5)).ranks


def test_another_process_with_other_hashes_gives_the_same_ranks(lines):
    code = (
        "import hashlib; from nanochat_core.tokenizer.bpe import train_tokenizer as t\n"
        f"r = t({lines!r}, vocab_size=300, max_train_bytes=10**6, max_doc_bytes=10**4).ranks\n"
        "print(hashlib.sha256(repr(r).encode()).hexdigest())"
    )
    run = [sys.executable, "-c", code]
    digests = {
        subprocess.run(run, cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1


def test_the_first_merge_is_the_most_frequent_pair():
    assert _train(["zqzq zqzq zq ab"], vocab_size=266).ranks[-1] == b"zq"


def test_training_text_may_spell_special_tokens(lines):
    tokenizer = _train([*lines, "<|bos|>" * 200], vocab_size=320)
    assert max(tokenizer.encode("<|bos|>")) < len(tokenizer.ranks)


@pytest.mark.parametrize("vocab_size", [-1, 0, 8, 255, 264])
def test_a_vocabulary_without_room_for_all_bytes_is_refused(lines, vocab_size):
    with pytest.raises(ConfigError) as error:
        _train(lines, vocab_size=vocab_size)
    assert "265" in error.value.hint


def test_the_smallest_vocabulary_is_bytes_only(lines):
    tokenizer = _train(lines, vocab_size=265)
    assert tokenizer.encode("fox") == list(b"fox")


@pytest.mark.parametrize("texts", [[], [""], ["ab"]])
def test_too_little_text_is_refused_with_the_size_it_gives(texts):
    with pytest.raises(MissingError) as error:
        _train(texts, vocab_size=300)
    size = int(error.value.hint.rpartition("=")[2])
    assert _train(texts, vocab_size=size).vocab_size == size


def test_text_behind_the_limits_is_not_looked_at():
    assert b"zq" not in _train(["ababab", "zqzqzq"], vocab_size=266, max_train_bytes=6).ranks
    assert b"zq" not in _train(["abab" + "zq" * 50], vocab_size=266, max_doc_bytes=4).ranks


def test_a_limit_in_bytes_counts_bytes_not_characters():
    merges = _train(["é" * 30 + " zq" * 30], vocab_size=269, max_doc_bytes=60).ranks[256:]
    assert {token.decode().strip("é") for token in merges} == {""}


def test_lone_surrogates_do_not_stop_the_training(lines):
    assert _train([*lines, "a\ud800b"]).vocab_size == 300


def test_a_document_of_white_space_does_not_stop_the_training(lines):
    assert _train([*lines, " " * 1_200_000 + "x"], max_train_bytes=10**7, max_doc_bytes=10**7).vocab_size == 300
