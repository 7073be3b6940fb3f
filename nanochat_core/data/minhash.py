"""Documents as fingerprints: of their bytes, of their words, and MinHash signatures of their runs of words.

The Jaccard index of two documents is the share of runs of words (n-grams of lower-case words) that both have, of those
that either has. Equal places of two MinHash signatures estimate it (Broder 1997), with a standard error of
sqrt(j (1 - j) / permutations). A signature is cut into bands; documents that agree in a whole band are compared.
Signatures are rensa's, in Rust.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nanochat_core.data.cleaning import documents_of, read_table
from nanochat_core.data.shards import document_key
from nanochat_core.data.word_hashes import HashedWords, hash_words
from nanochat_core.data.workers import Unit

SEED = 42
MISSED_AT_LINE = 0.02  # of pairs that are just alike enough; above the line far fewer
NONE = np.uint64(0)


class Prints(NamedTuple):
    """Of the N documents of a row group."""

    exact: np.ndarray
    """(N,) uint64 of the bytes."""
    words: np.ndarray
    """(N,) uint64 of the words; 0 where there are none."""
    bands: np.ndarray
    """(B, N) uint64 of each band."""
    signatures: np.ndarray
    """(N, P) uint32, P permutations; 0 where a document has too few words for a run."""
    is_signed: np.ndarray
    """(N,) whether it has a signature."""


class Shape(NamedTuple):
    """How signatures are made and cut."""

    ngram_words: int
    permutations: int
    bands: int
    rows: int
    """Of a band; bands x rows are at most the permutations."""


def shape_of(jaccard: float, *, ngram_words: int, permutations: int) -> Shape:
    """The fewest bands that miss few of the pairs at this Jaccard index, which share one at 1 - (1 - j^rows)^bands."""
    fits = [
        Shape(ngram_words, permutations, bands, permutations // bands)
        for bands in range(1, permutations + 1)
        if (1 - jaccard ** (permutations // bands)) ** bands <= MISSED_AT_LINE
    ]
    return fits[0] if fits else Shape(ngram_words, permutations, permutations, 1)


def printer(shape: Shape | None) -> Callable[[Unit], Prints]:
    """What makes the prints of a row group; without a shape those of the bytes alone."""
    return functools.partial(_prints, shape)


def _prints(shape: Shape | None, unit: Unit) -> Prints:
    texts = documents_of(read_table(unit), unit).texts
    exact = np.array([int.from_bytes(document_key(text)[:8], "little") for text in texts], dtype=np.uint64)
    if shape is None:
        num = len(texts)
        nothing = np.empty((0, num), np.uint64), np.empty((num, 0), np.uint32), np.zeros(num, bool)
        return Prints(exact, np.zeros(num, np.uint64), *nothing)
    batch = hash_words(texts)
    words = np.zeros(len(texts), dtype=np.uint64)
    wholes = batch.wholes()
    words[wholes.texts] = wholes.hashes
    signatures, is_signed = signatures_of(batch, len(texts), shape)
    return Prints(exact, words, bands_of(signatures, shape), signatures, is_signed)


def signatures_of(batch: HashedWords, num_texts: int, shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    """((N, P) uint32, (N,) whether a text has a run of words at all)."""
    from rensa import RMinHash

    runs = batch.runs(shape.ngram_words)
    offsets = np.searchsorted(runs.texts, np.arange(num_texts + 1)).astype(np.uint64)
    is_signed = offsets[1:] > offsets[:-1]
    rows = np.concatenate([offsets[:1], offsets[1:][is_signed]])
    signatures = np.zeros((num_texts, shape.permutations), dtype=np.uint32)
    if is_signed.any():
        found = RMinHash.digest_matrix_from_flat_token_hashes(runs.hashes, rows, shape.permutations, SEED)
        signatures[is_signed] = np.array(found.to_rows(), dtype=np.uint32)
    return signatures, is_signed


def bands_of(signatures: np.ndarray, shape: Shape) -> np.ndarray:
    """(B, N) uint64: the rows of each band as one number."""
    used = signatures[:, : shape.bands * shape.rows].reshape(len(signatures), shape.bands, shape.rows)  # (N, B, R)
    hashes = np.zeros((shape.bands, len(signatures)), dtype=np.uint64)
    for row in range(shape.rows):
        hashes = (hashes ^ used[:, :, row].T.astype(np.uint64)) * np.uint64(0xFF51AFD7ED558CCD)
        hashes ^= hashes >> np.uint64(32)
    return hashes


def alike(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(K,) the estimated Jaccard index of K pairs of signatures, (K, P) each."""
    return (one == other).mean(axis=1)
