"""Encode and decode with tiktoken; stored as JSON, never pickle.

Special tokens get their ids only by name (`special`); `encode` treats text that spells one as plain text, so nothing
a user types can become one. How text is cut before it is merged is a pattern of `patterns.py`.
"""

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.base.foreign import NO_VALUES, loads, read_bounded
from nanochat_core.tokenizer.long_runs import WINDOW_CHARS, cut, cut_runs, encode_windows, whole
from nanochat_core.tokenizer.patterns import EQUAL_PATTERN as EQUAL_PATTERN
from nanochat_core.tokenizer.patterns import SPLIT_PATTERN as SPLIT_PATTERN
from nanochat_core.tokenizer.patterns import compiled_pattern

BOS = "<|bos|>"
USER_START, USER_END = "<|user_start|>", "<|user_end|>"
ASSISTANT_START, ASSISTANT_END = "<|assistant_start|>", "<|assistant_end|>"
PYTHON_START, PYTHON_END = "<|python_start|>", "<|python_end|>"
OUTPUT_START, OUTPUT_END = "<|output_start|>", "<|output_end|>"
SPECIAL_TOKENS = (
    BOS, USER_START, USER_END, ASSISTANT_START, ASSISTANT_END, PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END,
)  # fmt: skip
FILE_NAME = "tokenizer.json"
FORMAT = "nanochat-bpe-1"
FORMAT_WITH_ADDED = "nanochat-bpe-2"  # one that knows no added tokens would give other ids without a word


@dataclass(frozen=True)
class Added:
    """A token that somebody else's vocabulary has beside its merges."""

    content: str
    is_special: bool
    """A mark as ours are: text that spells it is plain text. Others are found in any text, before it is split."""
    is_late: bool = False
    """It is looked for in what the others leave (`normalized` in the `tokenizers` library)."""
    is_first: bool = False
    """Its id is before those of the vocabulary, from 0 on; such tokens stand before the others."""


def id_type(vocab_size: int) -> type[np.unsignedinteger[Any]]:
    """What token ids are kept as in files: 16 bits while they are enough."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


class Tokenizer:
    """A byte-level BPE vocabulary: `ranks[i]` is the byte string of token i, or of i + n where n added tokens are
    first; other added and the special tokens follow.
    """

    def __init__(self, ranks: Sequence[bytes], pattern: str = SPLIT_PATTERN, added: Sequence[Added] = ()) -> None:
        self.ranks = list(ranks)
        self.pattern = pattern
        self.added = tuple(added)
        self.longest_bytes = max(map(len, self.ranks))
        # another pattern may cut letters or marks where ours does not; a token of a window's length may be the window
        self._cut_above = (
            2 * WINDOW_CHARS if pattern == SPLIT_PATTERN and self.longest_bytes < WINDOW_CHARS else math.inf
        )
        self._first = sum(token.is_first for token in self.added)
        names = [*(token.content for token in self.added), *SPECIAL_TOKENS]
        self._special = {name: i if i < self._first else len(self.ranks) + i for i, name in enumerate(names)}
        plain = [token for token in self.added if not token.is_special]
        passes = (_any_of([each.content for each in plain if each.is_late == is_late]) for is_late in (False, True))
        self._in_text = [found for found in passes if found]
        import tiktoken  # whoever needs the ids of special tokens alone need not wait for it

        self._encoding = tiktoken.Encoding(
            "nanochat",
            pat_str=compiled_pattern(pattern),
            mergeable_ranks={token: i for i, token in enumerate(self.ranks, self._first)},
            special_tokens=self._special,
        )

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """Read folder/tokenizer.json."""
        path = folder / FILE_NAME
        if not path.is_file():
            raise MissingError(f"there is no {path}", hint="the tokenizer step makes it")
        try:
            stored = loads(read_bounded(path).decode("ascii"))
            is_known = stored["format"] == (FORMAT_WITH_ADDED if stored.get("added_tokens") else FORMAT)
            if not is_known or stored["special_tokens"] != list(SPECIAL_TOKENS):
                raise ValueError(f"format {stored['format']!r}")
            tokens = [bytes.fromhex(token) for token in stored["tokens"]]
            if len(set(tokens)) != len(tokens) or not {bytes([value]) for value in range(256)} <= set(tokens):
                raise ValueError("a token is there twice, or a byte is missing")
            return cls(tokens, stored["pattern"], [Added(**token) for token in stored.get("added_tokens", [])])
        except NO_VALUES as error:
            raise CorruptError(
                f"{path} is not a tokenizer of ours: {error}", hint="remake it: --fresh tokenizer"
            ) from error

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stored = {
            "format": FORMAT_WITH_ADDED if self.added else FORMAT,
            **({"added_tokens": [asdict(token) for token in self.added]} if self.added else {}),
            "pattern": self.pattern,
            "special_tokens": list(SPECIAL_TOKENS),
            "tokens": [token.hex() for token in self.ranks],
        }
        (folder / FILE_NAME).write_text(json.dumps(stored), encoding="ascii")

    @property
    def vocab_size(self) -> int:
        """Byte tokens, merges, added and special tokens."""
        return len(self.ranks) + len(self._special)

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
        if self._in_text:
            return [token for part in self._parted(text) for token in ([part] if isinstance(part, int) else
                                                                       self._encode_text(part))]  # fmt: skip
        return self._encode_text(text)

    def _parted(self, text: str) -> Iterator[int | str]:
        """Ids of added tokens, and the text between them."""
        parts: list[int | str] = [text]
        for pattern in self._in_text:
            parts = [piece for part in parts for piece in ([part] if isinstance(part, int) else
                                                           self._found(pattern, part))]  # fmt: skip
        return (part for part in parts if part != "")

    def _found(self, pattern: re.Pattern[str], text: str) -> Iterator[int | str]:
        end = 0
        for match in pattern.finditer(text):
            yield text[end : match.start()]
            yield self._special[match[0]]
            end = match.end()
        yield text[end:]

    def _encode_text(self, text: str) -> list[int]:
        pieces = cut_runs(text)
        if len(pieces) == 1:
            return self._encode_piece(text)
        return [token for piece in pieces for token in self._encode_piece(piece)]

    def _encode_piece(self, text: str) -> list[int]:
        if len(text) <= self._cut_above:
            return self._encoding.encode_ordinary(text)
        return [token for windows, is_piece in cut(whole(text)) for token in self._encode_windows(windows, is_piece)]

    def _encode_windows(self, windows: Sequence[str], is_piece: bool) -> list[int]:
        merge = self._encoding._encode_single_piece
        encode = merge if is_piece else self._encoding.encode_ordinary
        ids = encode_windows(windows, encode=encode, merge=merge, bytes_of=self._bytes_of)
        return encode("".join(windows)) if ids is None else ids

    def _bytes_of(self, token: int) -> bytes:
        return self.ranks[token - self._first]

    def encode_with_special(self, text: str) -> list[int]:
        """Ids of text in which a special token's name is that token; for what our own code writes, never for a user's
        words.
        """
        if self.added:  # the longest of those at a place, as the library finds them; tiktoken takes any
            named = _any_of(list(self._special))
            assert named
            parts = (piece for piece in self._found(named, text) if piece != "")
            return [token for part in parts for token in ([part] if isinstance(part, int) else self.encode(part))]
        return [token for piece in cut_runs(text) for token in self._encoding.encode(piece, allowed_special="all")]

    def encode_to_numpy(self, text: str) -> np.ndarray:
        """As `encode`, as a (num_tokens,) uint32 array; saves a Python list per document."""
        try:
            if (
                self._in_text or len(text) > 4 * WINDOW_CHARS
            ):  # a Python list is short beside what encoding a long text takes
                return np.array(self.encode(text), dtype=np.uint32)
            return self._encoding.encode_to_numpy(text, disallowed_special=())
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
        added = [0 if token.is_special else len(token.content.encode()) for token in self.added]
        sizes = [*added[: self._first], *map(len, self.ranks), *added[self._first :], *[0] * len(SPECIAL_TOKENS)]
        return np.array(sizes, dtype=np.int64)


def _any_of(names: Sequence[str]) -> re.Pattern[str] | None:
    """Finds the longest of these at the first place that has one; None for none."""
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None
