"""Ids of a corpus, four times as fast as tiktoken finds them (LOG.md), and the same.

gigatoken cuts text with vector instructions as GPT-4's pattern does, remembers the ids of every piece it has met, and
merges as tiktoken does. It knows no pattern but those of published vocabularies: ours takes numbers in twos where GPT-4
takes threes, so a mark behind every second digit keeps it from seeing a third. Marks are special tokens, and so is what
stands between documents: BOS. It knows a later Unicode than tiktoken.

Wherever equal ids are not certain, `Tokenizer` makes them: for code points that some version of Unicode may lack, for
numbers with digits past ASCII, the two marks, half characters, runs of blanks that are encoded in parts; for other
patterns, vocabularies with added tokens or such that were not learnt by merging. And where gigatoken is not installed.
"""

import itertools
import tempfile
import unicodedata
from base64 import b64encode
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nanochat_core.tokenizer.long_runs import cut_runs
from nanochat_core.tokenizer.patterns import SPLIT_PATTERN, TIKTOKEN_GPT4
from nanochat_core.tokenizer.tokenizer import Tokenizer, id_type

if TYPE_CHECKING:
    from gigatoken.gigatoken_rs import BPETokenizer

DOCUMENT, TWO_DIGITS = "\ufdd0", "\ufdd1"  # no characters, and none of a text that is encoded fast
# Text that one encoder sees: what it remembers grows with every new piece, and 0.10 sets no limit to it.
REMEMBERED_BYTES = 1 << 25
DIGITS = b"0123456789"
IS_DIGIT = bytes(byte in DIGITS for byte in range(256))
JUDGED_CHARS, MOST_DIGITS = 2_000, 0.3  # tiktoken is as fast where three of ten are digits, and twice where all are
UNCERTAIN, CERTAIN, NUMBER = range(3)
NUM_JUDGED = 0x30000  # code points; above are rare ideographs, and planes for private use
# Currency, arrows, signs, emoji and what is kept free for more of them: no letters or numbers in any version.
SIGNS = (range(0x20A0, 0x20C2), range(0x2300, 0x2400), range(0x2600, 0x2800), range(0x2B00, 0x2C00),
         range(0x1F1E6, 0x1F200), range(0x1F300, 0x1FB00))  # fmt: skip


class BulkEncoder:
    """Encodes documents by the hundred."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._dtype = id_type(tokenizer.vocab_size)
        self._has_twos = tokenizer.pattern == SPLIT_PATTERN
        self._num_bytes = 0
        self._fast = self._made()

    def encode(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """(ids of all documents one after the other, each led by BOS; int64 tokens per document).

        The ids are those of `Tokenizer.encode`, in the type that shards have.
        """
        if not texts:
            return np.empty(0, self._dtype), np.empty(0, np.int64)
        is_fast = [self._pays_for(text) and is_certain(text) for text in texts]
        ids, lengths = self._encode_fast([text for text, is_one in zip(texts, is_fast, strict=True) if is_one])
        if all(is_fast):
            return ids, lengths
        fast = iter(np.split(ids, np.cumsum(lengths)[:-1]))
        parts = [next(fast) if is_one else self._encode_one(text) for text, is_one in zip(texts, is_fast, strict=True)]
        return np.concatenate(parts), np.array([len(part) for part in parts])

    def _pays_for(self, text: str) -> bool:
        """Whether a text is worth marking, by its beginning: a mark for every second digit costs more than it gains."""
        if self._fast is None or not self._has_twos:
            return self._fast is not None
        begun = text[:JUDGED_CHARS].encode(errors="replace")
        return len(begun.translate(None, DIGITS)) > (1 - MOST_DIGITS) * len(begun)

    def _encode_one(self, text: str) -> np.ndarray:
        return np.concatenate([[self._tokenizer.bos], self._tokenizer.encode_to_numpy(text)]).astype(self._dtype)

    def _encode_fast(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if not texts:
            return np.empty(0, self._dtype), np.empty(0, np.int64)
        content = b"".join(part for text in texts for part in (DOCUMENT.encode(), text.encode()))
        ids = self._remembering(len(content)).encode(_in_twos(content) if self._has_twos else content)
        if self._has_twos:
            ids = ids[ids != self._tokenizer.vocab_size]
        starts = np.flatnonzero(ids == self._tokenizer.bos)
        return ids.astype(self._dtype), np.diff(starts, append=len(ids))

    def _remembering(self, num_bytes: int) -> "BPETokenizer":
        """The encoder, another one when this one has seen enough."""
        self._num_bytes += num_bytes
        if self._num_bytes > REMEMBERED_BYTES:
            self._fast, self._num_bytes = self._made(), num_bytes
        assert self._fast is not None
        return self._fast

    def _made(self) -> "BPETokenizer | None":
        """gigatoken's encoder; None where it does not do."""
        tokenizer = self._tokenizer
        if tokenizer.added or tokenizer.pattern not in (SPLIT_PATTERN, TIKTOKEN_GPT4):
            return None
        try:
            from gigatoken.gigatoken_rs import BPETokenizer
        except ImportError:
            return None
        marks = {DOCUMENT: tokenizer.bos, TWO_DIGITS: tokenizer.vocab_size}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ranks.tiktoken"
            lines = (b"%s %d\n" % (b64encode(token), rank) for rank, token in enumerate(tokenizer.ranks))
            path.write_bytes(b"".join(lines))
            try:
                return BPETokenizer.from_tiktoken(path, "gpt4", marks)
            except BaseException as error:  # a panic is no Exception
                if type(error).__name__ not in ("PanicException", "ValueError"):
                    raise
                return None  # a token that is not two others


def is_certain(text: str) -> bool:
    """Whether gigatoken and tiktoken are certain to cut a text alike, its numbers marked."""
    if len(cut_runs(text)) != 1:  # encoded in parts, or empty
        return False
    if text.isascii():
        return True
    try:
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    except UnicodeEncodeError:  # half of a character
        return False
    past_ascii = points[points > 127]
    kinds = _judged().take(past_ascii, mode="clip")
    return bool(kinds.all()) and not ((kinds == NUMBER).any() and _has_odd_numbers(points))


def _has_odd_numbers(points: np.ndarray) -> bool:
    """Whether a digit past ASCII stands beside another one."""
    is_number = _judged().take(points, mode="clip") == NUMBER
    is_odd = is_number & (points > 127)
    return bool((is_odd[1:] & is_number[:-1] | is_odd[:-1] & is_number[1:]).any())


@lru_cache(maxsize=1)
def _judged() -> np.ndarray:
    """(NUM_JUDGED,) uint8 kinds of code points. Those of Unicode 3.2 are what they are in every version since."""
    kinds = np.zeros(NUM_JUDGED, np.uint8)
    for points in SIGNS:
        kinds[points] = CERTAIN
    category = unicodedata.ucd_3_2_0.category
    for point in range(NUM_JUDGED - 1):  # the last one stands for all that follow
        if (found := category(chr(point))) not in ("Cn", "Cs"):
            kinds[point] = NUMBER if found[0] == "N" else CERTAIN
    return kinds


def _in_twos(content: bytes) -> bytes:
    """With a mark before the third, fifth, seventh digit of every number in ASCII."""
    is_digit = np.frombuffer(content.translate(IS_DIGIT), bool)
    thirds = 2 + np.flatnonzero(is_digit[2:] & is_digit[1:-1] & is_digit[:-2])  # of digits behind two others
    if not len(thirds):
        return content
    since = np.arange(len(thirds))
    since -= np.maximum.accumulate(np.where(np.diff(thirds, prepend=0) != 1, since, 0))
    places = [0, *thirds[since % 2 == 0].tolist(), len(content)]
    return TWO_DIGITS.encode().join(content[start:end] for start, end in itertools.pairwise(places))
