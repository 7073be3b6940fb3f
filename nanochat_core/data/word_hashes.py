"""Words and runs of words of many texts as 64-bit hashes, in a few passes of numpy.

Texts count in lower case without punctuation. What is written without blanks (Han, kana, Thai and the like) has a word
for each letter, or a sentence would be one word and no run of it would ever be found. Prefix sums of a polynomial give
the hash of every word and of every run of words, a megabyte of text at a time.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

MAX_TEXT_BYTES = 1 << 22  # a longer text is cut: the tables below must cover a batch
BATCH_BYTES = 1 << 20

# Powers of odd numbers modulo 2^64, and of their inverses: dividing a difference of prefix sums by the power of its
# start makes the hash independent of where the words stand.
BYTE_BASE, WORD_BASE = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
# Thai, Lao, Myanmar, Khmer; kana and Han with their extensions: a letter each is a word.
BLANKLESS = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]"
)
NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True)
class Runs:
    """(N,) runs of words in a row, each within one text."""

    hashes: np.ndarray
    first_words: np.ndarray
    texts: np.ndarray
    """The text that each run is in."""


@dataclass(frozen=True)
class HashedWords:
    """A batch of texts as hashes of their words. W words in all."""

    content: bytes
    """The texts as they count, a line feed after each."""
    starts: np.ndarray
    """(W,) where each word starts in `content`."""
    ends: np.ndarray
    words: np.ndarray
    """(W,) their hashes."""
    texts: np.ndarray
    """(W,) the text that each word is in."""

    @cached_property
    def _by_text(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.unique(self.texts, return_index=True, return_counts=True)

    @property
    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """(T,) the texts that have words, and (T,) how many."""
        return self._by_text[0], self._by_text[2]

    def runs(self, num_words: int, *, among: np.ndarray | None = None) -> Runs:
        """All runs of so many words; `among`: (W,) in which words they begin."""
        first = np.arange(max(0, len(self.words) - num_words + 1))
        if among is not None:
            first = first[among[: len(first)]]
        first = first[self.texts[first] == self.texts[first + num_words - 1]]
        return Runs(_mixed(_spans(self.words, first, first + num_words, base=WORD_BASE)), first, self.texts[first])

    def wholes(self) -> Runs:
        """(T,) the texts that have words, each as one run."""
        texts, first, counts = self._by_text
        return Runs(_mixed(_spans(self.words, first, first + counts, base=WORD_BASE)), first, texts)

    def said(self, first: int, count: int) -> str:
        """The text from word `first` on, for people."""
        last = min(first + count, len(self.starts)) - 1
        return self.content[self.starts[first] : self.ends[last]].decode("utf-8", errors="replace")


def hash_words(texts: Sequence[str]) -> HashedWords:
    """Hashes of all words of the texts."""
    encoded = [_normalised(text) for text in texts]
    content = b"\n".join(encoded)
    counted = BYTES[np.frombuffer(content, dtype=np.uint8)]
    edges = np.flatnonzero(np.diff((counted != 0).view(np.int8), prepend=np.int8(0), append=np.int8(0)))
    starts, ends = edges[0::2], edges[1::2]
    words = _mixed(_spans(counted.astype(np.uint64), starts, ends, base=BYTE_BASE))
    text_ends = np.cumsum([len(one) + 1 for one in encoded])
    return HashedWords(content, starts, ends, words, np.searchsorted(text_ends, starts, side="right"))


def _normalised(text: str) -> bytes:
    """ASCII stays (the byte table treats it); the rest becomes lower-case words with blanks between."""
    if "&" in text and ";" in text:
        text = html.unescape(text)  # pages that were written as text
    if text.isascii():
        return text[:MAX_TEXT_BYTES].encode()
    words = NO_WORD.sub(" ", unicodedata.normalize("NFKC", text).lower())
    return BLANKLESS.sub(r" \g<0> ", words).encode("utf-8", errors="replace")[:MAX_TEXT_BYTES]


def _byte_table() -> np.ndarray:
    """(256,) what each byte counts as: itself in lower case for letters, digits and UTF-8, 0 between words."""
    table = np.zeros(256, dtype=np.uint8)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum():
            table[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    return table


BYTES = _byte_table()


def _spans(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, *, base: int) -> np.ndarray:
    """sum of values[start + i] * base^i over each span, modulo 2^64: from prefix sums, so in one pass."""
    sums = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values * _powers(base, len(values)), out=sums[1:])
    return (sums[ends] - sums[starts]) * _powers(pow(base, -1, 1 << 64), len(values) + 1)[starts]


_known_powers: dict[int, np.ndarray] = {}


def _powers(base: int, count: int) -> np.ndarray:
    """(count,) base^0, base^1, ... modulo 2^64; kept, as every batch needs the same."""
    powers = _known_powers.get(base)
    if powers is None or len(powers) < count:
        powers = np.full(max(count, BATCH_BYTES * 2), base, dtype=np.uint64)
        powers[0] = 1
        powers = _known_powers[base] = np.cumprod(powers, dtype=np.uint64)
    return powers[:count]


def _mixed(hashes: np.ndarray) -> np.ndarray:
    """Spread every bit over all others (the finalizer of splitmix64): sums of mixed words do not cancel."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return hashes ^ (hashes >> np.uint64(31))
