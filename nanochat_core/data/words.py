"""Words to spell: a list of the user's, the list that nanochat takes, or the words of installed documentation.

A tenth of the words, chosen by their digest alone, is held out: it is asked for in benchmarks and spelled in no
training conversation. So a list may grow or be sorted anew without a word changing sides.
"""

import functools
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nanochat_core.base.errors import MissingError
from nanochat_core.base.text import read_text
from nanochat_core.data import documentation
from nanochat_core.data.rows import DatasetRows

FILE_NAME = "words_alpha.txt"
LIST_URL = "https://raw.githubusercontent.com/dwyl/english-words/refs/heads/master/words_alpha.txt"  # 370,000 words
MIN_CHARS, MAX_CHARS = 3, 20
NUM_DOCUMENTATION_WORDS = 6000
HELD_OUT_OF_256 = 26


@dataclass(frozen=True)
class Words:
    """Lower-case words a to z in alphabetical order, each once."""

    train: list[str]
    held_out: list[str]
    origin: str
    """Where they are from, for the record."""


def words_of_file(path: Path) -> Words:
    """A list with one word per line; what is no plain word is left out."""
    try:
        lines = read_text(path).splitlines()
    except OSError as error:
        raise MissingError(f"{path} cannot be read as a list of words: {error}", hint="one word per line") from error
    return _split(lines, str(path))


def words_of_url(url: str = LIST_URL) -> Words:
    """The list that nanochat spells from; fetched once, by the `datasets` library's cache."""
    import datasets

    try:
        fetched = datasets.load_dataset("text", data_files=url, split="train")
    except Exception as error:  # the library and its network each have exceptions of their own: all mean "not there"
        raise MissingError(
            f"{url} cannot be fetched: {str(error).splitlines()[0]}",
            hint=f"put a list of words into a folder as {FILE_NAME} and set benchmarks.path to it",
        ) from error
    return _split(DatasetRows(fetched, url).dataset["text"], url)


@functools.lru_cache(maxsize=1)
def words_of_documentation() -> Words:
    """The most frequent words of the installed documentation: there without a network."""
    counts = documentation.word_counts()
    fitting = (word for word in counts if MIN_CHARS <= len(word) <= MAX_CHARS)
    frequent = sorted(fitting, key=lambda word: (-counts[word], word))[:NUM_DOCUMENTATION_WORDS]
    return _split(frequent, "documentation")


def is_held_out(word: str) -> bool:
    """Whether a word belongs to the tenth that no training conversation spells."""
    return hashlib.sha256(word.encode()).digest()[0] < HELD_OUT_OF_256


def _split(lines: Iterable[str], origin: str) -> Words:
    is_plain = re.compile(rf"[a-z]{{{MIN_CHARS},{MAX_CHARS}}}").fullmatch
    words = sorted({word for line in lines if is_plain(word := line.strip().lower())})
    train: list[str] = []
    held_out: list[str] = []
    for word in words:
        (held_out if is_held_out(word) else train).append(word)
    if not held_out or not train:
        raise MissingError(f"{origin} holds {len(words)} words of {MIN_CHARS} to {MAX_CHARS} letters, too few to use")
    return Words(train, held_out, origin)
