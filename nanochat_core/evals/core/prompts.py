"""All prompts of CORE as a few files: tokens.npy, items.npz, index.json.

A prompt is stored as the numbers of its pieces: BOS, the few-shot examples and the item's own prefix, then one suffix
per choice. An example's tokens stand once although ten prompts hold them, so the files are about as large as the text.
The order of the items is that of a shuffle at a fixed seed, and a limited run takes the first ones: the same items
with the same examples as in nanochat.
"""

import json
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from nanochat_core.base.arrays import open_npy
from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.base.process import die_with_parent
from nanochat_core.evals.core.bundle import Benchmark, Bundle
from nanochat_core.evals.core.published import PUBLISHED
from nanochat_core.evals.core.rendering import Renderer, TextEncoder, is_cut_rule_known, shuffled

TOKENS, ITEMS, INDEX = "tokens.npy", "items.npz", "index.json"
FORMAT = "nanochat-core-prompts-1"
BOS_PIECE = 0
MIN_ITEMS_FOR_PROCESSES = 200  # of each benchmark: below this, starting processes costs more than they save
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Prompt:
    """One item: every choice is the tokens prefix + suffix, of which the last `num_scored` are scored."""

    prefix: np.ndarray
    suffixes: list[np.ndarray]
    num_scored: list[int]
    gold: int | None
    """The right choice; None in language modelling, where the one suffix has to be the model's own."""

    @property
    def num_tokens(self) -> int:
        """Of the longest choice."""
        return len(self.prefix) + max(map(len, self.suffixes))


@dataclass(frozen=True)
class BenchmarkPrompts:
    """The items of one benchmark."""

    benchmark: Benchmark
    first: int
    num_items: int


class Prompts:
    """Prompts read back from a folder."""

    def __init__(self, folder: Path) -> None:
        if not (folder / INDEX).is_file():
            raise MissingError(f"there is no {folder / INDEX}", hint="write_prompts makes it")
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        if index.get("format") != FORMAT:
            raise CorruptError(f"{folder / INDEX} is of the format {index.get('format')!r}, not {FORMAT}")
        self.vocab_size: int = index["vocab_size"]
        self.bundle_digest: str = index["bundle_digest"]
        self.max_per_benchmark: int | None = index["max_per_benchmark"]
        self.missing: list[str] = index["missing"]
        self.benchmarks = [
            BenchmarkPrompts(Benchmark(**entry["benchmark"]), entry["first"], entry["num_items"])
            for entry in index["benchmarks"]
        ]
        self._tokens = open_npy(folder / TOKENS)
        with np.load(folder / ITEMS) as arrays:
            self._arrays = {name: arrays[name] for name in arrays.files}
        if len(self._tokens) != self._arrays["piece_starts"][-1]:
            raise CorruptError(f"{folder} holds {len(self._tokens)} tokens, not as many as {ITEMS} says")

    @property
    def num_items(self) -> int:
        return sum(entry.num_items for entry in self.benchmarks)

    def prompt(self, number: int) -> Prompt:
        """The item at a place in all benchmarks, one after the other."""
        arrays = self._arrays
        first, last = arrays["suffix_starts"][number : number + 2]
        prefix_first, prefix_last = arrays["prefix_starts"][number : number + 2]
        prefix = np.concatenate([self._piece(int(p)) for p in arrays["prefix_pieces"][prefix_first:prefix_last]])
        suffixes = [self._piece(int(piece)) for piece in arrays["suffix_pieces"][first:last]]
        gold = int(arrays["golds"][number])
        return Prompt(prefix, suffixes, arrays["num_scored"][first:last].tolist(), gold if gold >= 0 else None)

    def num_choices(self, number: int) -> int:
        first, last = self._arrays["suffix_starts"][number : number + 2]
        return int(last - first)

    def num_tokens(self) -> np.ndarray:
        """For each item the tokens of its prefix and of all its suffixes."""
        arrays = self._arrays
        lengths = np.diff(arrays["piece_starts"])
        prefixes = np.add.reduceat(lengths[arrays["prefix_pieces"]], arrays["prefix_starts"][:-1])
        return prefixes + np.add.reduceat(lengths[arrays["suffix_pieces"]], arrays["suffix_starts"][:-1])

    def _piece(self, piece: int) -> np.ndarray:
        first, last = self._arrays["piece_starts"][piece : piece + 2]
        return self._tokens[first:last]


def write_prompts(
    bundle: Bundle,
    tokenizer: TextEncoder,
    out: Path,
    *,
    max_per_benchmark: int | None,
    progress: Progress,
    num_workers: int | None = None,
) -> dict[str, Any]:
    """Render and tokenize all items into `out`; returns what is in there, as numbers."""
    if max_per_benchmark is not None and max_per_benchmark < 1:
        raise ConfigError(f"core.max_per_benchmark = {max_per_benchmark}", hint="1 or more; leave it out for all items")
    out.mkdir(parents=True, exist_ok=True)
    blocks = []
    for block in _blocks(bundle, tokenizer, max_per_benchmark, num_workers):
        blocks.append(block)
        progress(len(blocks), len(bundle.benchmarks))
    dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
    bos = np.array([tokenizer.bos])
    np.save(out / TOKENS, np.concatenate([bos, *(block.tokens for block in blocks)]).astype(dtype))
    arrays = _joined(blocks)
    np.savez(out / ITEMS, **arrays)  # type: ignore[arg-type]
    missing = _missing(bundle)
    counts = [len(block.golds) for block in blocks]
    entries = [
        {"benchmark": asdict(benchmark), "first": sum(counts[:number]), "num_items": counts[number]}
        for number, benchmark in enumerate(bundle.benchmarks)
    ]
    index = {
        "format": FORMAT,
        "vocab_size": tokenizer.vocab_size,
        "bundle_digest": bundle.digest,
        "max_per_benchmark": max_per_benchmark,
        "missing": missing,
        "benchmarks": entries,
    }
    (out / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    lengths = Prompts(out).num_tokens()
    return {
        "num_benchmarks": len(counts),
        "num_items": sum(counts),
        "num_choices": len(arrays["suffix_pieces"]),
        "num_tokens": int(lengths.sum()),
        "num_stored_tokens": int(arrays["piece_starts"][-1]),
        "longest_item_tokens": int(lengths.max()),
        "max_per_benchmark": max_per_benchmark,
        "missing": missing,
        "bundle_digest": bundle.digest,
    }


def _missing(bundle: Bundle) -> list[str]:
    """What CORE has and this bundle has not, or names without holding it."""
    there = {benchmark.label for benchmark in bundle.benchmarks}
    published = [entry.label for entry in PUBLISHED if entry.label not in there]
    return published + [label for label in bundle.missing if label not in published]


@dataclass(frozen=True)
class _Block:
    """One benchmark's prompts; pieces are counted from 1, for BOS is piece 0 of all."""

    tokens: np.ndarray
    piece_lengths: np.ndarray
    prefix_pieces: np.ndarray
    prefix_counts: np.ndarray
    suffix_pieces: np.ndarray
    suffix_counts: np.ndarray
    num_scored: np.ndarray
    golds: np.ndarray


class _Pieces:
    """Token sequences stored once each."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, ...], int] = {}
        self.lengths: list[int] = []
        self.tokens: list[int] = []

    def add(self, ids: Sequence[int]) -> int:
        key = tuple(ids)
        number = self._numbers.setdefault(key, len(self.lengths) + 1)
        if number > len(self.lengths):
            self.lengths.append(len(key))
            self.tokens.extend(key)
        return number


def _block(benchmark: Benchmark, *, bundle: Bundle, encoder: TextEncoder, max_items: int | None) -> _Block:
    """Render one benchmark."""
    items = shuffled(bundle.items(benchmark), max_items)
    renderer, pieces = Renderer(benchmark, items, encoder), _Pieces()
    examples: dict[int, int] = {}
    prefixes, suffixes, num_scored = [], [], []
    for index in range(len(items)):
        rendered = renderer.render(index)
        for number in rendered.examples:
            if number not in examples:
                examples[number] = pieces.add(renderer.example_ids(number))
        prefixes.append([*(examples[number] for number in rendered.examples), pieces.add(rendered.prefix)])
        suffixes.append([pieces.add(suffix) for suffix in rendered.suffixes])
        num_scored += rendered.num_scored
    return _Block(
        tokens=np.array(pieces.tokens, dtype=np.int64),
        piece_lengths=np.array(pieces.lengths, dtype=np.int64),
        prefix_pieces=np.array([piece for prefix in prefixes for piece in prefix], dtype=np.int32),
        prefix_counts=np.array([len(prefix) for prefix in prefixes], dtype=np.int64),
        suffix_pieces=np.array([piece for suffix in suffixes for piece in suffix], dtype=np.int32),
        suffix_counts=np.array([len(suffix) for suffix in suffixes], dtype=np.int64),
        num_scored=np.array(num_scored, dtype=np.int32),
        golds=np.array([item.get("gold", -1) for item in items], dtype=np.int32),
    )


def _blocks(bundle: Bundle, encoder: TextEncoder, max_items: int | None, num_workers: int | None) -> Iterator[_Block]:
    """Every benchmark's block in order, made by several processes where that is worth it."""
    make = partial(_block, bundle=bundle, encoder=encoder, max_items=max_items)
    workers = min(num_workers or os.cpu_count() or 1, len(bundle.benchmarks))
    # with a known cut rule everything takes less than ten seconds, and processes only add to that
    is_long = not is_cut_rule_known(encoder) and (max_items is None or max_items >= MIN_ITEMS_FOR_PROCESSES)
    if workers == 1 or not is_long:
        yield from map(make, bundle.benchmarks)
        return
    # spawn: forking a process that has threads (Arrow, torch, Prefect) can deadlock the child
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=die_with_parent, initargs=(signal.SIGKILL,)
    ) as pool:
        yield from pool.map(make, bundle.benchmarks, chunksize=1)


def _joined(blocks: list[_Block]) -> dict[str, np.ndarray]:
    """The blocks' arrays one after the other, with pieces numbered over all of them and BOS in front of each item."""
    offsets = np.cumsum([0, *(len(block.piece_lengths) for block in blocks)])
    prefix_pieces, prefix_counts, suffix_pieces = [], [], []
    for block, offset in zip(blocks, offsets, strict=False):
        starts = np.cumsum(block.prefix_counts) - block.prefix_counts
        prefix_pieces.append(np.insert(block.prefix_pieces + offset, starts, BOS_PIECE))
        prefix_counts.append(block.prefix_counts + 1)
        suffix_pieces.append(block.suffix_pieces + offset)
    return {
        "piece_starts": _starts([np.array([1]), *(block.piece_lengths for block in blocks)]),
        "prefix_pieces": np.concatenate(prefix_pieces).astype(np.int32),
        "prefix_starts": _starts(prefix_counts),
        "suffix_pieces": np.concatenate(suffix_pieces).astype(np.int32),
        "suffix_starts": _starts([block.suffix_counts for block in blocks]),
        "num_scored": np.concatenate([block.num_scored for block in blocks]),
        "golds": np.concatenate([block.golds for block in blocks]),
    }


def _starts(counts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
