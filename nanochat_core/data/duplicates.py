"""Documents that are there more than once: of equal and of nearly equal ones the first stays.

Worker processes make prints of each document (minhash.py), which go to disk; the parent sorts them, a band at a time,
compares those that share one, and walks once through the pairs: a document goes when it is alike to an earlier one that
stays, so no chain of small changes takes out what is far from all that is kept. Training text comes before validation
text: what is nearly in training is taken out of validation, and measures no memory.

In memory is an index of INDEX_BYTES for each document, whatever its size, and 8 bytes for each pair of documents that
share a band; on disk, for the time of the step, 4 bytes for each permutation and 8 for each band.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nanochat_core.data.cleaning import Judged, documents_of, read_table, units_of
from nanochat_core.data.minhash import NONE, Prints, Shape, alike, printer, shape_of
from nanochat_core.data.workers import each_unit

EXACT, WORDS, NEAR = "exact duplicate", "duplicate but for blanks and signs", "near duplicate"
NEAR_MARGIN = 0.1  # a document that stays is near the line when another is alike by so much less
INDEX_BYTES = 64  # of a document while the widest step runs: keys, order, twin, score, one band and its order
NEIGHBOURS = 8  # of a band that many documents share, each is compared with the first and so many before it
PAIRS_AT_ONCE = 1 << 14  # 16 MiB of signatures
ALONE = -1


@dataclass
class Twins:
    """Of N documents, in order."""

    twin: np.ndarray
    """(N,) the earlier document that stays in its place, or that is nearly alike; ALONE for those that have none."""
    rule: np.ndarray
    """(N,) uint8, an index of RULES."""
    score: np.ndarray
    """(N,) float32, the Jaccard index: 1 of equal ones, else estimated."""


RULES = ("", EXACT, WORDS, NEAR)
KEPT, IS_NEAR = 0, RULES.index(NEAR)


def find_duplicates(
    corpus: Path, scratch: Path, settings: Mapping[str, Any], *, num_workers: int | None,
    progress: Callable[[int, int], None],
) -> Iterator[list[Judged]]:  # fmt: skip
    """What goes of each row group of a corpus, in order, as `cleaning.write_cleaned` takes it."""
    shape = None
    if settings["duplicates"] == "near":
        shape = shape_of(
            settings["duplicate_jaccard"],
            ngram_words=settings["duplicate_ngram_words"],
            permutations=settings["minhash_permutations"],
        )
    units = units_of(corpus)
    index = Index(scratch, shape)
    for done, prints in enumerate(each_unit(printer, (shape,), units, num_workers=num_workers), start=1):
        index.add(prints)
        progress(done, len(units))
    return _judged(corpus, index.twins(settings.get("duplicate_jaccard", 1.0)))


def _judged(corpus: Path, twins: Twins) -> Iterator[list[Judged]]:
    """Each row group's documents with their twins, whose names are kept from where they come by."""
    wanted = np.unique(twins.twin[twins.twin != ALONE])
    places: dict[int, str] = {}
    first = 0
    for unit in units_of(corpus):
        documents = documents_of(read_table(unit), unit)
        end = first + len(documents.texts)
        for number in wanted[np.searchsorted(wanted, first) : np.searchsorted(wanted, end)].tolist():
            places[number] = documents.place(number - first)
        rows = np.flatnonzero(twins.twin[first:end] != ALONE)
        yield [
            Judged(
                row,
                RULES[twins.rule[first + row]] or NEAR,
                round(float(twins.score[first + row]), 4),
                is_kept=twins.rule[first + row] == KEPT,
                twin=places[int(twins.twin[first + row])],
            )
            for row in rows.tolist()
        ]
        first = end


class Index:
    """Prints of all documents, and who is alike to whom."""

    def __init__(self, scratch: Path, shape: Shape | None) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self.shape, self.num_docs = shape, 0
        names = [
            "exact",
            "words",
            "signed",
            "signatures",
            *(f"band-{n:03d}" for n in range(shape.bands if shape else 0)),
        ]
        self._paths = {name: scratch / f"{name}.bin" for name in names}
        self._files = {name: path.open("wb") for name, path in self._paths.items()}

    def add(self, prints: Prints) -> None:
        """Of the documents that come next."""
        self.num_docs += len(prints.exact)
        parts = {"exact": prints.exact, "words": prints.words, "signed": prints.is_signed}
        parts["signatures"] = prints.signatures
        parts |= {f"band-{n:03d}": band for n, band in enumerate(prints.bands)}
        for name, part in parts.items():
            self._files[name].write(np.ascontiguousarray(part).data)

    def twins(self, jaccard: float) -> Twins:
        """Who goes because of whom, and who nearly does; the scratch files are gone afterwards."""
        for file in self._files.values():
            file.close()
        twins = Twins(
            np.full(self.num_docs, ALONE, dtype=np.int64),
            np.zeros(self.num_docs, dtype=np.uint8),
            np.zeros(self.num_docs, dtype=np.float32),
        )
        self._equal("exact", EXACT, twins)
        if self.shape is not None:
            self._equal("words", WORDS, twins)
            _decide(*self._compared(self._pairs(twins), jaccard - NEAR_MARGIN), jaccard, twins)
        for path in self._paths.values():
            path.unlink()
        return twins

    def _read(self, name: str, dtype: Any = np.uint64) -> np.ndarray:
        return np.fromfile(self._paths[name], dtype=dtype)

    def _equal(self, name: str, rule: str, twins: Twins) -> None:
        """Those whose print is that of an earlier document."""
        keys = self._read(name)
        here = np.flatnonzero((twins.rule == KEPT) & ((keys != NONE) | (rule == EXACT)))
        keys = keys[here]
        order = np.argsort(keys, kind="stable")
        is_first = np.ones(len(order), dtype=bool)
        is_first[1:] = keys[order[1:]] != keys[order[:-1]]
        firsts = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))]
        gone = here[order[~is_first]]
        twins.twin[gone], twins.rule[gone], twins.score[gone] = here[firsts[~is_first]], RULES.index(rule), 1.0

    def _pairs(self, twins: Twins) -> np.ndarray:
        """(K,) uint64 pairs that share a band, ascending: the later document above, the earlier one below 32 bits."""
        assert self.shape is not None
        here = np.flatnonzero((twins.rule == KEPT) & self._read("signed", bool)).astype(np.uint64)
        pairs = np.empty(0, np.uint64)
        for band in range(self.shape.bands):
            keys = self._read(f"band-{band:03d}")[here]
            order = np.argsort(keys, kind="stable")
            keys = keys[order]
            found = [_neighbours(keys, here[order], distance) for distance in range(1, NEIGHBOURS + 1)]
            found.append(_with_first(keys, here[order]))
            pairs = np.union1d(pairs, np.concatenate(found))
        return pairs

    def _compared(self, pairs: np.ndarray, least: float) -> tuple[np.ndarray, np.ndarray]:
        """The pairs that are at least so much alike, and how much."""
        assert self.shape is not None
        kept, scores = [np.empty(0, np.uint64)], [np.empty(0)]
        for first in range(0, len(pairs), PAIRS_AT_ONCE):
            some = pairs[first : first + PAIRS_AT_ONCE]
            # mapped anew each time: what was read does not stay in this process
            rows = np.memmap(self._paths["signatures"], np.uint32, "r", shape=(self.num_docs, self.shape.permutations))
            score = alike(rows[some >> np.uint64(32)], rows[some & np.uint64(0xFFFFFFFF)])
            kept.append(some[score >= least])
            scores.append(score[score >= least])
        return np.concatenate(kept), np.concatenate(scores)


def _neighbours(keys: np.ndarray, documents: np.ndarray, distance: int) -> np.ndarray:
    """Pairs of documents that stand so far from each other among those with the same key."""
    later = np.flatnonzero(keys[distance:] == keys[: max(0, len(keys) - distance)]) + distance
    return (documents[later] << np.uint64(32)) | documents[later - distance]


def _with_first(keys: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Pairs of each document with the first that has the same key."""
    is_first = np.ones(len(keys), dtype=bool)
    is_first[1:] = keys[1:] != keys[:-1]
    first = np.maximum.accumulate(np.where(is_first, np.arange(len(keys)), 0))
    later = np.flatnonzero(~is_first)
    return (documents[later] << np.uint64(32)) | documents[first[later]]


def _decide(pairs: np.ndarray, scores: np.ndarray, jaccard: float, twins: Twins) -> None:
    """In order: a document goes when an earlier one that stays is alike; the likest of those is its twin."""
    for first in range(0, len(pairs), PAIRS_AT_ONCE):
        some = slice(first, first + PAIRS_AT_ONCE)
        for pair, score in zip(pairs[some].tolist(), scores[some].tolist(), strict=True):
            later, earlier = pair >> 32, pair & 0xFFFFFFFF
            if twins.rule[earlier] != KEPT or score <= twins.score[later]:
                continue
            twins.twin[later], twins.score[later] = earlier, score
            if score >= jaccard:
                twins.rule[later] = IS_NEAR
    gone = np.flatnonzero(twins.rule != KEPT)
    while len(gone := gone[twins.rule[twins.twin[gone]] != KEPT]):  # equal to one that is alike to a third, which stays
        twin = twins.twin[gone]
        twins.twin[gone], twins.score[gone] = twins.twin[twin], twins.score[twin]
