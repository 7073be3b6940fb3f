"""Our vocabulary in the format of Hugging Face's `tokenizers` library, and back.

tiktoken merges whatever pair of neighbours spells a token, lowest rank first; `tokenizers` merges listed pairs only, in
the order of the list. One pair per token is enough: while nothing has merged across the ends of a stretch of text, the
merges inside it are those of that stretch alone, so the two halves that last become a token are always the same. A
token that no merge arrives at is found only when it is a whole piece of the split; `ignore_merges` is that rule.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.base.foreign import NO_VALUES, loads, read_bounded
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
            {"id": tokenizer.special(name), "content": name, "special": True, **_ADDED} for name in SPECIAL_TOKENS
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
            "vocab": {word: rank for rank, word in enumerate(words)},
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


def tokenizer_from_json(path: Path) -> Tokenizer:
    """Our tokenizer from a tokenizer.json that `tokenizers_json` made; MissingError for any other."""
    try:
        stored = loads(read_bounded(path).decode())
        tokenizer = _from_stored(stored)
        is_same = tokenizers_json(tokenizer)["model"] == {
            **stored["model"],
            "merges": _as_words(stored["model"]["merges"]),
        }
    except (CorruptError, *NO_VALUES) as error:
        raise MissingError(
            f"{path} is not a tokenizer of an exported model: {error}",
            hint="only a tokenizer.json written by nanochat export can be read back",
        ) from error
    if not is_same:
        raise MissingError(f"{path} merges differently from our tokenizer", hint="it was made by another program")
    return tokenizer


def _from_stored(stored: Any) -> Tokenizer:
    if stored["model"]["type"] != MODEL_TYPE:
        raise ValueError(f"its model is {stored['model']['type']}, not {MODEL_TYPE}")
    byte_of = {character: byte for byte, character in enumerate(byte_alphabet())}
    words = sorted(stored["model"]["vocab"].items(), key=lambda item: item[1])
    tokens = [bytes(byte_of[character] for character in word) for word, _ in words]
    if [rank for _, rank in words] != list(range(len(words))) or len(set(tokens)) != len(tokens):
        raise ValueError("its ids are not 0, 1, 2, ...")
    tokenizer = Tokenizer(tokens, stored["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"])
    added = {entry["content"]: entry["id"] for entry in stored["added_tokens"]}
    if added != {name: tokenizer.special(name) for name in SPECIAL_TOKENS}:
        raise ValueError(f"its special tokens are {sorted(added)}")
    return tokenizer


def _as_words(merges: Sequence[str | Sequence[str]]) -> list[str]:
    """Newer libraries write a merge as a list of two."""
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
