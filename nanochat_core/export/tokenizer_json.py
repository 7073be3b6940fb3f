"""Our vocabulary in the format of Hugging Face's `tokenizers` library; the way back is `tokenizer_import.py`.

tiktoken merges whatever pair of neighbours spells a token, lowest rank first; `tokenizers` merges listed pairs only, in
the order of the list. One pair per token is enough: while nothing has merged across the ends of a stretch of text, the
merges inside it are those of that stretch alone, so the two halves that last become a token are always the same. A
token that no merge arrives at is found only when it is a whole piece of the split; `ignore_merges` is that rule.
"""

from collections.abc import Mapping
from typing import Any

from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

MODEL_TYPE = "BPE"


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in byte-level vocabularies, since GPT-2.

    Bytes that print in Latin-1 stand for themselves, the others get the code points from 256 on, in order.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def tokenizers_json(tokenizer: Tokenizer) -> dict[str, Any]:
    """What `tokenizers.Tokenizer.from_str` reads; ids are equal on any text."""
    alphabet = byte_alphabet()
    words = ["".join(alphabet[byte] for byte in token) for token in tokenizer.ranks]
    ranks = {token: rank for rank, token in enumerate(tokenizer.ranks)}
    pairs = (last_pair(token, ranks) for token in tokenizer.ranks if len(token) > 1)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": tokenizer.special(name), "content": name, "special": is_special, **_ADDED, "normalized": is_late}
            for name, is_special, is_late in (
                *((token.content, token.is_special, token.is_late) for token in tokenizer.added),
                *((name, True, False) for name in SPECIAL_TOKENS),
            )
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": tokenizer.pattern}, "behavior": "Isolated", "invert": False},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {
            "type": MODEL_TYPE,
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {word: rank for rank, word in enumerate(words, sum(token.is_first for token in tokenizer.added))},
            # "left right" is read by every version; no byte-level word holds a blank
            "merges": [f"{words[ranks[pair[0]]]} {words[ranks[pair[1]]]}" for pair in pairs if pair],
        },
    }


_ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def last_pair(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes] | None:
    """The two tokens that `token` is made of when it is merged from its bytes; None where merging does not reach it."""
    pieces = [token[i : i + 1] for i in range(len(token))]
    while len(pieces) > 2:
        found = [
            (rank, i) for i in range(len(pieces) - 1) if (rank := ranks.get(pieces[i] + pieces[i + 1])) is not None
        ]
        if not found:
            return None
        _, first = min(found)
        pieces[first : first + 2] = [pieces[first] + pieces[first + 1]]
    return pieces[0], pieces[1]
