"""Looking for benchmark items in training text: the same question, or thirteen of its words in a row.

Overlap of 13 words is GPT-3's rule (Brown et al. 2020, arXiv 2005.14165, appendix C). Texts are compared as
data/word_hashes.py has them, so half a million conversations take about a minute. Conversations and documents of a
corpus are looked through in the same way.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanochat_core.data.word_hashes import HashedWords, hash_words
from nanochat_core.evals.benchmarks.protocol import Item

NGRAM_WORDS = 13
MAX_SHARED = 10  # a run of words that more items than this share is the benchmark's frame, and tells nothing
MAX_EXAMPLES = 5
MAX_EXAMPLE_CHARS = 200
BATCH_BYTES = 1 << 20
TEXTS_AT_ONCE = 1000
LEAST_FILTER_BITS, MOST_FILTER_BITS = 20, 28
GOLDEN = 0xD6E8FEB86659FD93
WHOLE, RUN = "question", f"{NGRAM_WORDS} words"
Report = dict[str, dict[str, Any]]


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
    index = ItemIndex.of(known)
    found: dict[int, dict[str, str]] = {}
    holding: set[int] = set()
    for texts, owners in _batches(conversations):
        batch = hash_words(texts)
        for hit in index.hits(batch):
            holding.add(owners[hit.text])
            if hit.item not in found:
                found[hit.item] = {"match": hit.match, "text": hit.said(batch)}
    return Contamination(report_of(known, found), sorted(holding))


def report_of(items: Sequence[Item], found: Mapping[int, Mapping[str, str]]) -> Report:
    """Per benchmark: how many items there are and were found; `found`: item number -> what to show of it."""
    report: Report = {}
    for number, item in enumerate(items):
        entry = report.setdefault(item.benchmark, {"num_items": 0, "num_contaminated": 0, "examples": []})
        entry["num_items"] += 1
        if number in found:
            entry["num_contaminated"] += 1
            if len(entry["examples"]) < MAX_EXAMPLES:
                entry["examples"].append({"id": item.id, **found[number]})
    return report


@dataclass(frozen=True)
class Hit:
    """An item that a text of a batch holds."""

    text: int
    item: int
    match: str
    """The question, or 13 words."""
    first_word: int
    """Of the batch, where it is."""

    def said(self, batch: HashedWords) -> str:
        """What the text says there."""
        return batch.said(self.first_word, NGRAM_WORDS)[:MAX_EXAMPLE_CHARS]


@dataclass(frozen=True)
class ItemIndex:
    """The hashes of the items."""

    wholes: "_Table"
    runs: "_Table"
    """Of words that tell: few items share them."""
    frames: "_Table"
    """Of words that many share."""

    @classmethod
    def of(cls, items: Sequence[Item]) -> "ItemIndex":
        """All runs of words of the questions, and the questions as wholes."""
        # The choices belong to a choice's question: "Which of the following is true?" alone is no item.
        asked = [item.shown if item.letters else item.question for item in items]
        wholes, whole_items = _collected(asked, is_runs=False)
        runs, run_items = _collected([item.question for item in items], is_runs=True)
        _, which, counts = np.unique(runs, return_inverse=True, return_counts=True)
        is_telling = counts[which] <= MAX_SHARED
        return cls(
            _Table.of(wholes, whole_items),
            _Table.of(runs[is_telling], run_items[is_telling]),
            _Table.of(runs[~is_telling], run_items[~is_telling]),
        )

    def hits(self, batch: HashedWords) -> Iterator[Hit]:
        """The items that texts of a batch hold: each place of a whole question, then of each run of words."""
        for table, runs, match in ((self.wholes, batch.wholes(), WHOLE), (self.runs, batch.runs(NGRAM_WORDS), RUN)):
            for at, item in table.matches(runs.hashes):
                yield Hit(int(runs.texts[at]), item, match, int(runs.first_words[at]))

    def framed(self, batch: HashedWords) -> set[int]:
        """The texts that hold thirteen words which many items share."""
        runs = batch.runs(NGRAM_WORDS)
        return set(runs.texts[self.frames.places(runs.hashes)].tolist())

    def save(self, folder: Path) -> None:
        """As files that several processes map."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("wholes", "runs", "frames"):
            table = getattr(self, name)
            for part in ("hashes", "items", "filter"):
                np.save(folder / f"{name}.{part}.npy", getattr(table, part))

    @classmethod
    def load(cls, folder: Path) -> "ItemIndex":
        """What `save` wrote, mapped: processes of a machine share its pages."""
        names, parts = ("wholes", "runs", "frames"), ("hashes", "items", "filter")
        return cls(*(_Table(*(np.load(folder / f"{n}.{p}.npy", mmap_mode="r") for p in parts)) for n in names))


@dataclass(frozen=True)
class _Table:
    """From hashes to items: a bitmap turns nearly everything away, a binary search decides the rest."""

    hashes: np.ndarray
    """(N,) ascending."""
    items: np.ndarray
    """(N,) the item of each."""
    filter: np.ndarray
    """(2^bits,) whether a hash that falls there is known."""

    @classmethod
    def of(cls, hashes: np.ndarray, items: np.ndarray) -> "_Table":
        order = np.argsort(hashes, kind="stable")
        bits = min(MOST_FILTER_BITS, max(LEAST_FILTER_BITS, (16 * len(hashes)).bit_length()))
        seen = np.zeros(1 << bits, dtype=bool)
        seen[_slots(hashes, bits)] = True
        return cls(hashes[order], items[order], seen)

    def places(self, hashes: np.ndarray) -> np.ndarray:
        """Positions in `hashes` of all that are in the table."""
        maybe = np.flatnonzero(self.filter[_slots(hashes, len(self.filter).bit_length() - 1)])
        found = np.searchsorted(self.hashes, hashes[maybe], side="left")
        is_there = found < len(self.hashes)
        is_there[is_there] = self.hashes[found[is_there]] == hashes[maybe[is_there]]
        return maybe[is_there]

    def matches(self, hashes: np.ndarray) -> Iterator[tuple[int, int]]:
        """(position in `hashes`, item) of all that are in the table."""
        places = self.places(hashes)
        left, right = (np.searchsorted(self.hashes, hashes[places], side=side) for side in ("left", "right"))
        for place, first, end in zip(places.tolist(), left.tolist(), right.tolist(), strict=True):
            for item in self.items[first:end].tolist():
                yield place, item


def _slots(hashes: np.ndarray, bits: int) -> np.ndarray:
    return ((hashes * np.uint64(GOLDEN)) >> np.uint64(64 - bits)).astype(np.int64)


def _collected(texts: Sequence[str], *, is_runs: bool) -> tuple[np.ndarray, np.ndarray]:
    """(hashes, text numbers) of all texts: of their runs of words, each once per text, or of them as wholes."""
    hashes, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for first in range(0, len(texts), TEXTS_AT_ONCE):
        batch = hash_words(texts[first : first + TEXTS_AT_ONCE])
        runs = batch.runs(NGRAM_WORDS) if is_runs else batch.wholes()
        order = np.lexsort((runs.hashes, runs.texts))
        found, owner = runs.hashes[order], runs.texts[order]
        is_new = np.ones(len(found), dtype=bool)
        is_new[1:] = (found[1:] != found[:-1]) | (owner[1:] != owner[:-1])
        hashes.append(found[is_new])
        owners.append(owner[is_new] + first)
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
