"""Log-probabilities in OpenAI's two shapes: four parallel lists for completions, a list of objects for chat.

Different tokens must have different names, or two entries of `top_logprobs` overwrite each other. A token whose bytes
are no UTF-8 of their own is therefore written as OpenAI did, `bytes:\\xe2\\x82`; a special token by its name. No text
token looks like either, since the split pattern never joins letters and punctuation that way.
"""

import codecs
import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from nanochat_core.inference.logprobs import TokenLogprobs
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.tokenizer import Tokenizer

LEAST = -9999.0  # JSON has no minus infinity; vLLM's substitute
ENTRY_BYTES = 40  # of one token and its log-prob, written


@lru_cache(maxsize=1 << 17)
def token_name(tokenizer: Tokenizer, token: int) -> str:
    """A token as text that no other token has."""
    raw = tokenizer.decode_bytes([token])
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{value:02x}" for value in raw)


def completion_logprobs(
    tokenizer: Tokenizer, entries: Sequence[TokenLogprobs | int], *, first_offset: int = 0
) -> dict[str, Any]:
    """`tokens`, `token_logprobs`, `top_logprobs` and `text_offset`; a bare id is a token that nothing came before."""
    ids = [entry if isinstance(entry, int) else entry.token for entry in entries]
    return {
        "tokens": [token_name(tokenizer, token) for token in ids],
        "token_logprobs": [None if isinstance(entry, int) else finite(entry.logprob) for entry in entries],
        "top_logprobs": [None if isinstance(entry, int) else _top(tokenizer, entry) for entry in entries],
        "text_offset": [first_offset + offset for offset in _offsets(tokenizer, ids)],
    }


def _top(tokenizer: Tokenizer, entry: TokenLogprobs) -> dict[str, float]:
    """The likeliest tokens, and the chosen one where it is not among them."""
    likeliest = {token_name(tokenizer, token): finite(value) for token, value in entry.top}
    return {**likeliest, token_name(tokenizer, entry.token): finite(entry.logprob)} if entry.top else {}


def _offsets(tokenizer: Tokenizer, ids: Iterable[int]) -> list[int]:
    """Where in the text each token starts, in characters; the bytes of one character all start where it does."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    special = {tokenizer.special(name) for name in tk.SPECIAL_TOKENS}
    offsets, length = [], 0
    for token in ids:
        offsets.append(length)
        if token not in special:
            length += len(decoder.decode(tokenizer.decode_bytes([token])))
    return offsets


def chat_logprobs(tokenizer: Tokenizer, entries: Iterable[TokenLogprobs]) -> list[dict[str, Any]]:
    """`logprobs.content`: the tokens that the model chose, those of tool calls and the end token included."""
    return [
        {
            **_chat_entry(tokenizer, entry.token, entry.logprob),
            "top_logprobs": [_chat_entry(tokenizer, token, value) for token, value in entry.top],
        }
        for entry in entries
        if not entry.is_forced
    ]


def _chat_entry(tokenizer: Tokenizer, token: int, value: float) -> dict[str, Any]:
    return {
        "token": token_name(tokenizer, token),
        "logprob": finite(value),
        "bytes": list(tokenizer.decode_bytes([token])),
    }


def num_bytes_of(entries: Sequence[TokenLogprobs]) -> int:
    """About what they take as JSON."""
    return ENTRY_BYTES * sum(1 + len(entry.top) for entry in entries)


def finite(value: float) -> float:
    return value if math.isfinite(value) else LEAST
