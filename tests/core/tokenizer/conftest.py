"""Small vocabularies: bytes only, and one trained on a few lines."""

import pytest

from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.tokenizer import Tokenizer

LINES = (
    "The quick brown fox jumps over the lazy dog. It's the fox's 1,234th jump in 2024!\n",
    "def gcd(a, b):\n    while b:\n        a, b = b, a % b\n    return a\n",
    "Ünïcödé, 한국어 and 🙂 emoji\r\n\ttabs   and   spaces\n\n",
    "who are you? i am a small model. what is 37 + 58? the answer is 95.\n",
)


@pytest.fixture(scope="session")
def lines():
    return LINES


@pytest.fixture(scope="session")
def byte_tokenizer():
    """Token i is byte i; special tokens are 256 to 264."""
    return Tokenizer([bytes([value]) for value in range(256)])


@pytest.fixture(scope="session")
def trained():
    return train_tokenizer(LINES * 3, vocab_size=320, max_train_bytes=10**6, max_doc_bytes=10**4)
