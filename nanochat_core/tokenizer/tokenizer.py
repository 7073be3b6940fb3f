"""Encode and decode with tiktoken; stored as JSON, never pickle.

Special tokens get their ids only by name (`special`); `encode` treats text that spells one as plain text, so nothing
a user types can become one. The split pattern is GPT-4's, but numbers go in groups of at most two digits: small
vocabularies then spend fewer tokens on digits.
"""

import itertools
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tiktoken

from nanochat_core.base.errors import CorruptError, MissingError

SPLIT_PATTERN = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)
BOS = "<|bos|>"
USER_START, USER_END = "<|user_start|>", "<|user_end|>"
ASSISTANT_START, ASSISTANT_END = "<|assistant_start|>", "<|assistant_end|>"
PYTHON_START, PYTHON_END = "<|python_start|>", "<|python_end|>"
OUTPUT_START, OUTPUT_END = "<|output_start|>", "<|output_end|>"
SPECIAL_TOKENS = (
    BOS, USER_START, USER_END, ASSISTANT_START, ASSISTANT_END, PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END,
)  # fmt: skip
MAX_RUN_CHARS = 50_000
LONG_RUN = re.compile(rf"\s{{{MAX_RUN_CHARS}}}")
FILE_NAME = "tokenizer.json"
FORMAT = "nanochat-bpe-1"


def cut_runs(text: str) -> list[str]:
    """The text in pieces without a longer run of white space than the split pattern's engine can take.

    Above about a million blanks its backtracking overflows and the native code panics; decoding joins the pieces again.
    """
    ends = [match.end() for match in LONG_RUN.finditer(text)]
    return [text[start:end] for start, end in itertools.pairwise([0, *ends, len(text)]) if start < end]


class Tokenizer:
    """A byte-level BPE vocabulary: `ranks[i]` is the byte string of token i; special tokens follow."""

    def __init__(self, ranks: Sequence[bytes], pattern: str = SPLIT_PATTERN) -> None:
        self.ranks = list(ranks)
        self.pattern = pattern
        self._special = {name: len(self.ranks) + i for i, name in enumerate(SPECIAL_TOKENS)}
        self._encoding = tiktoken.Encoding(
            "nanochat",
            pat_str=pattern,
            mergeable_ranks={token: i for i, token in enumerate(self.ranks)},
            special_tokens=self._special,
        )

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read folder/tokenizer.json."""
        path = folder / FILE_NAME
        if not path.is_file():
            raise MissingError(f"there is no {path}", hint="the tokenizer step makes it")
        try:
            stored = json.loads(path.read_text(encoding="ascii"))
            if stored["format"] != FORMAT or stored["special_tokens"] != list(SPECIAL_TOKENS):
                raise ValueError(f"format {stored['format']!r}")
            tokens = [bytes.fromhex(token) for token in stored["tokens"]]
            if len(set(tokens)) != len(tokens) or not {bytes([value]) for value in range(256)} <= set(tokens):
                raise ValueError("a token is there twice, or a byte is missing")
            return cls(tokens, stored["pattern"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptError(
                f"{path} is not a tokenizer of ours: {error}", hint="remake it: --fresh tokenizer"
            ) from error

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stored = {
            "format": FORMAT,
            "pattern": self.pattern,
            "special_tokens": list(SPECIAL_TOKENS),
            "tokens": [token.hex() for token in self.ranks],
        }
        (folder / FILE_NAME).write_text(json.dumps(stored), encoding="ascii")

    @property
    def vocab_size(self) -> int:
        """Byte tokens, merges and special tokens."""
        return len(self.ranks) + len(SPECIAL_TOKENS)

    def special(self, name: str) -> int:
        """The id of a special token."""
        return self._special[name]

    @cached_property
    def bos(self) -> int:
        return self._special[BOS]

    def encode(self, text: str) -> list[int]:
        """Ids of plain text. Text that spells a special token is encoded like any other; lone surrogates become
        U+FFFD.
        """
        if len(text) <= MAX_RUN_CHARS:
            return self._encoding.encode_ordinary(text)
        return [token for piece in cut_runs(text) for token in self._encoding.encode_ordinary(piece)]

    def encode_to_numpy(self, text: str) -> np.ndarray:
        """As `encode`, as a (num_tokens,) uint32 array; saves a Python list per document."""
        try:
            if len(text) <= MAX_RUN_CHARS:
                return self._encoding.encode_to_numpy(text, disallowed_special=())
            return np.concatenate([self._encoding.encode_to_numpy(p, disallowed_special=()) for p in cut_runs(text)])
        except UnicodeEncodeError:  # a lone surrogate; encode_ordinary replaces it
            return np.array(self.encode(text), dtype=np.uint32)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids; bytes that are no UTF-8 become U+FFFD."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self._encoding.decode_bytes(list(ids))

    def token_bytes(self) -> np.ndarray:
        """(vocab_size,) int64: how many bytes each token stands for; 0 for special tokens (bits per byte leaves them
        out).
        """
        return np.array([len(token) for token in self.ranks] + [0] * len(SPECIAL_TOKENS), dtype=np.int64)
