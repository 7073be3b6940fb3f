"""nanochat's tokenizer.pkl without running what a pickle may hold.

The file is a pickled tiktoken.Encoding: one class and a dictionary of plain values. The reader below knows that class
only, as an empty shell that keeps the dictionary; any other name in the stream ends it. nanochat's token_bytes.pt
follows from the vocabulary, so it is not needed; where it lies beside the pickle it has to agree.
"""

import io
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import MissingError
from nanochat_core.base.foreign import NO_VALUES, PlainUnpickler
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

PICKLE, TOKEN_BYTES = "tokenizer.pkl", "token_bytes.pt"
MAX_PICKLE_BYTES = 64 << 20  # of a vocabulary of 65,536 it is about one megabyte
ENCODING_CLASS = ("tiktoken.core", "Encoding")


class _Encoding:
    """The shell that takes the pickled values."""

    def __init__(self) -> None:
        self.values: Any = None

    def __setstate__(self, values: Any) -> None:
        self.values = values


class _Reader(PlainUnpickler):
    """Knows one name; everything else that a pickle could call is refused."""

    def find_class(self, module: str, name: str) -> Any:
        return _Encoding if (module, name) == ENCODING_CLASS else super().find_class(module, name)


def load_peer_tokenizer(folder: Path) -> Tokenizer:
    """Our tokenizer from a folder with nanochat's tokenizer.pkl."""
    path = folder / PICKLE
    if not path.is_file():
        raise MissingError(f"there is no {path}", hint="nanochat keeps it in ~/.cache/nanochat/tokenizer")
    try:
        if path.stat().st_size > MAX_PICKLE_BYTES:
            raise ValueError(f"{path.stat().st_size:,} bytes are too many for a vocabulary")
        read = _Reader(io.BytesIO(path.read_bytes())).load()
        if not isinstance(read, _Encoding) or not isinstance(read.values, dict):
            raise ValueError("it holds no tiktoken encoding with a vocabulary")
        tokenizer = _tokenizer(read.values)
    except NO_VALUES as error:
        raise MissingError(
            f"{path} is not nanochat's tokenizer: {error}",
            hint="only a pickled tiktoken.Encoding is read, and nothing in it is run; GPT-2's or GPT-4's is not ours",
        ) from error
    _check_token_bytes(folder / TOKEN_BYTES, tokenizer)
    return tokenizer


def _tokenizer(values: dict[Any, Any]) -> Tokenizer:
    ranks = dict(values["mergeable_ranks"])
    if not all(isinstance(token, bytes) and isinstance(rank, int) for token, rank in ranks.items()):
        raise ValueError("its tokens are no bytes with ranks")
    tokens = sorted(ranks, key=lambda token: ranks[token])
    if [ranks[token] for token in tokens] != list(range(len(tokens))):
        raise ValueError("its ranks are not 0, 1, 2, ...")
    if not {bytes([byte]) for byte in range(256)} <= set(tokens):
        raise ValueError("a byte has no token")
    expected = {name: len(tokens) + i for i, name in enumerate(SPECIAL_TOKENS)}
    if values["special_tokens"] != expected:
        raise ValueError(f"its special tokens are {str(values['special_tokens'])[:200]}")
    return Tokenizer(tokens, str(values["pat_str"]))


def _check_token_bytes(path: Path, tokenizer: Tokenizer) -> None:
    if not path.is_file():
        return
    import torch

    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
        is_same = isinstance(stored, torch.Tensor) and stored.shape == (tokenizer.vocab_size,)
        is_same = is_same and stored.tolist() == tokenizer.token_bytes().tolist()
    except NO_VALUES as error:
        raise MissingError(f"{path} cannot be read: {error}", hint="copy it again, or remove it") from error
    if not is_same:
        raise MissingError(f"{path} does not belong to the {PICKLE} beside it", hint="copy both from one folder")
