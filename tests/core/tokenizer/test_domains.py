"""Bytes per token by kind of text."""

import pytest

from nanochat_core.tokenizer.domains import SAMPLES, bytes_per_token


def test_a_byte_vocabulary_has_one_byte_per_token_everywhere(byte_tokenizer):
    assert bytes_per_token(byte_tokenizer, ["some", "text"]) == dict.fromkeys(["validation text", *SAMPLES], 1.0)


def test_a_trained_vocabulary_is_best_at_what_it_was_trained_on(trained, lines):
    domains = bytes_per_token(trained, lines)
    assert domains["validation text"] == max(domains.values())
    assert min(domains.values()) >= 1.0


def test_no_validation_text_is_no_division_by_zero(trained):
    assert bytes_per_token(trained, [])["validation text"] == pytest.approx(0.0)
