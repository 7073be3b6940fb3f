"""Looking for benchmark items among training conversations: the same question, or thirteen of its words in a row.

Overlap of 13 words is GPT-3's rule (Brown et al. 2020, arXiv 2005.14165, appendix C). Texts are compared in lower case
without punctuation, as 64-bit hashes: prefix sums of a polynomial give the hash of every word and of every run of words
in a few passes of numpy over a megabyte of text at a time, so half a million conversations take about a minute.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nanochat_core.evals.benchmarks.protocol import Item

NGRAM_WORDS = 13
MAX_SHARED = 10  # a run of words that more items than this share is the benchmark's frame, and tells nothing
MAX_EXAMPLES = 5
MAX_EXAMPLE_CHARS = 200
BATCH_BYTES = 1 << 20
TEXTS_AT_ONCE = 1000
MAX_TEXT_BYTES = 1 << 22  # a longer text is cut: the tables below must cover a batch
FILTER_BITS = 24
Report = dict[str, dict[str, Any]]

# Powers of odd numbers modulo 2^64, and of their inverses: dividing a difference of prefix sums by the power of its
# start makes the hash independent of where the words stand.
BYTE_BASE, WORD_BASE, GOLDEN = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93


@dataclass(frozen=True)
class Contamination:
    """What conversations have in common with benchmark items."""

    report: Report
    """Per benchmark: num_items, num_contaminated (found in a conversation), and examples of those."""
    conversations: list[int]
    """The numbers of the conversations that hold an item, ascending."""


def find_contamination(items: Iterable[Item], conversations: Iterable[Mapping[str, Any]]) -> Contamination:
    """Look for every item in every conversation."""
    known = list(items)
    index = _Index(known)
    for texts, owners in _batches(conversations):
        index.look_at(_hashed(texts), owners)
    report: Report = {}
    for number, item in enumerate(known):
        entry = report.setdefault(item.benchmark, {"num_items": 0, "num_contaminated": 0, "examples": []})
        entry["num_items"] += 1
        if number in index.found:
            entry["num_contaminated"] += 1
            if len(entry["examples"]) < MAX_EXAMPLES:
                entry["examples"].append({"id": item.id, **index.found[number]})
    return Contamination(report, sorted(index.conversations))


@dataclass(frozen=True)
class _Hashed:
    """A batch of texts as hashes."""

    content: bytes
    word_starts: np.ndarray
    """(W,) where each word starts in `content`."""
    word_ends: np.ndarray
    runs: np.ndarray
    """(N,) hashes of NGRAM_WORDS words in a row within one text."""
    run_words: np.ndarray
    """(N,) the first word of each run."""
    run_texts: np.ndarray
    """(N,) the text that each run is in."""
    wholes: np.ndarray
    """(T,) hashes of the texts that have words at all."""
    whole_texts: np.ndarray
    """(T,) which texts those are."""
    first_words: np.ndarray
    """(T,) and the first word of each."""

    def words(self, first: int, count: int) -> str:
        """The text from word `first` on, for people."""
        last = min(first + count, len(self.word_starts)) - 1
        text = self.content[self.word_starts[first] : self.word_ends[last]].decode("utf-8", errors="replace")
        return text[:MAX_EXAMPLE_CHARS]


@dataclass
class _Index:
    """The hashes of the items, and what was found of them."""

    items: Sequence[Item]
    found: dict[int, dict[str, str]] = field(default_factory=dict)
    """Item number -> why: "match" is question or 13 words, "text" is what the conversation says."""
    conversations: set[int] = field(default_factory=set)
    """Those that hold an item."""

    def __post_init__(self) -> None:
        # The choices belong to a choice's question: "Which of the following is true?" alone is no item.
        asked = [item.shown if item.letters else item.question for item in self.items]
        wholes, whole_items = _collected(asked, is_runs=False)
        runs, run_items = _collected([item.question for item in self.items], is_runs=True)
        counts = np.unique(runs, return_inverse=True, return_counts=True)
        is_telling = counts[2][counts[1]] <= MAX_SHARED
        self._wholes = _Table(wholes, whole_items)
        self._runs = _Table(runs[is_telling], run_items[is_telling])

    def look_at(self, batch: _Hashed, owners: Sequence[int]) -> None:
        """Note the items that a batch of training texts contains; `owners` says which conversation each text is of."""
        texts = [batch.whole_texts[self._wholes.places(batch.wholes)], batch.run_texts[self._runs.places(batch.runs)]]
        self.conversations.update(owners[text] for text in np.unique(np.concatenate(texts)).tolist())
        for at, item in self._wholes.matches(batch.wholes):
            self._note(item, "question", batch, int(batch.first_words[at]))
        for at, item in self._runs.matches(batch.runs):
            self._note(item, f"{NGRAM_WORDS} words", batch, int(batch.run_words[at]))

    def _note(self, item: int, match: str, batch: _Hashed, first_word: int) -> None:
        if item not in self.found:
            self.found[item] = {"match": match, "text": batch.words(first_word, NGRAM_WORDS)}


class _Table:
    """From hashes to items: a bitmap turns nearly everything away, a binary search decides the rest."""

    def __init__(self, hashes: np.ndarray, items: np.ndarray) -> None:
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.items = hashes[order], items[order]
        self.filter = np.zeros(1 << FILTER_BITS, dtype=bool)
        self.filter[_slot(hashes)] = True

    def places(self, hashes: np.ndarray) -> np.ndarray:
        """Positions in `hashes` of all that are in the table."""
        maybe = np.flatnonzero(self.filter[_slot(hashes)])
        found = np.searchsorted(self.hashes, hashes[maybe], side="left")
        is_there = found < len(self.hashes)
        is_there[is_there] = self.hashes[found[is_there]] == hashes[maybe[is_there]]
        return maybe[is_there]

    def matches(self, hashes: np.ndarray) -> Iterator[tuple[int, int]]:
        """(position in `hashes`, item) of what is in the table, each distinct hash once."""
        maybe = np.flatnonzero(self.filter[_slot(hashes)])
        distinct, first = np.unique(hashes[maybe], return_index=True)
        left, right = (np.searchsorted(self.hashes, distinct, side=side) for side in ("left", "right"))
        for number in np.flatnonzero(right > left).tolist():
            for item in self.items[left[number] : right[number]].tolist():
                yield int(maybe[first[number]]), item


def _slot(hashes: np.ndarray) -> np.ndarray:
    return ((hashes * np.uint64(GOLDEN)) >> np.uint64(64 - FILTER_BITS)).astype(np.int64)


def _collected(texts: Sequence[str], *, is_runs: bool) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, text numbers) of all texts: of their runs of words, each once per text, or of them as wholes."""
    hashes, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        hashed = _hashed(texts[first : first + TEXTS_AT_ONCE])
        if is_runs:
            order = np.lexsort((hashed.runs, hashed.run_texts))
            found, owner = hashed.runs[order], hashed.run_texts[order]
            is_new = np.ones(len(found), dtype=bool)
            is_new[1:] = (found[1:] != found[:-1]) | (owner[1:] != owner[:-1])
            found, owner = found[is_new], owner[is_new]
        else:
            found, owner = hashed.wholes, hashed.whole_texts
        hashes.append(found)
        owners.append(owner + first)
    return np.concatenate(hashes), np.concatenate(owners)


def _batches(conversations: Iterable[Mapping[str, Any]]) -> Iterator[tuple[list[str], list[int]]]:
    """The texts of all messages, about BATCH_BYTES at a time, and the number of each one's conversation."""
    texts: list[str] = []
    owners: list[int] = []
    size = 0
    for number, conversation in enumerate(conversations):
        for message in conversation["messages"]:
            content = message["content"]
            text = content if isinstance(content, str) else "".join(part["text"] for part in content)
            texts.append(text)
            owners.append(number)
            size += len(text)
        if size >= BATCH_BYTES:
            yield texts, owners
            texts, owners, size = [], [], 0
    if texts:
        yield texts, owners


def _normalised(text: str) -> bytes:
    """ASCII stays (the byte table treats it); the rest becomes lower-case words with blanks between."""
    if text.isascii():
        return text[:MAX_TEXT_BYTES].encode()
    words = re.sub(r"[\W_]+", " ", unicodedata.normalize("NFKC", text).lower())
    return words.encode("utf-8", errors="replace")[:MAX_TEXT_BYTES]


def _byte_table() -> np.ndarray:
    """(256,) what each byte counts as: itself in lower case for letters, digits and UTF-8, 0 between words."""
    table = np.zeros(256, dtype=np.uint8)
    for byte in range(256):
        if byte >= 128 or chr(byte).isalnum():
            table[byte] = ord(chr(byte).lower()) if byte < 128 else byte
    return table


BYTES = _byte_table()


def _hashed(texts: Sequence[str]) -> _Hashed:
    """Hashes of the texts, of all their words and of all runs of words."""
    encoded = [_normalised(text) for text in texts]
    content = b"\n".join(encoded)
    counted = BYTES[np.frombuffer(content, dtype=np.uint8)]
    edges = np.flatnonzero(np.diff((counted != 0).view(np.int8), prepend=np.int8(0), append=np.int8(0)))
    starts, ends = edges[0::2], edges[1::2]  # (W,) of each word
    words = _mixed(_spans(counted.astype(np.uint64), starts, ends, base=BYTE_BASE))
    text_ends = np.cumsum([len(one) + 1 for one in encoded])
    owners = np.searchsorted(text_ends, starts, side="right")  # (W,) the text that each word is in
    first_of_run = np.arange(max(0, len(words) - NGRAM_WORDS + 1))
    first_of_run = first_of_run[owners[first_of_run] == owners[first_of_run + NGRAM_WORDS - 1]]
    whole_texts, first_words, counts = np.unique(owners, return_index=True, return_counts=True)
    runs = _spans(words, first_of_run, first_of_run + NGRAM_WORDS, base=WORD_BASE)
    wholes = _spans(words, first_words, first_words + counts, base=WORD_BASE)
    run_texts = owners[first_of_run]
    return _Hashed(
        content, starts, ends, _mixed(runs), first_of_run, run_texts, _mixed(wholes), whole_texts, first_words
    )


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
