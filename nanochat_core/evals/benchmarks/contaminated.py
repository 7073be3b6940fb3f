"""Documents of a corpus that hold benchmark items, as `contamination.py` finds them in conversations.

The items' hashes are written once and mapped by every process that looks. CORE's items count as their question: the
query, the context with its continuation, of a schema what follows each option.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat_core.data.cleaning import Documents, Judge, Judged
from nanochat_core.data.word_hashes import MAX_TEXT_BYTES, hash_words
from nanochat_core.evals.benchmarks.contamination import NGRAM_WORDS, Hit, ItemIndex, Report, report_of
from nanochat_core.evals.benchmarks.protocol import Item
from nanochat_core.evals.core.bundle import Bundle

NAMES = "names.json"
FRAME = f"{NGRAM_WORDS} words that many items share"
PIECE_CHARS = MAX_TEXT_BYTES // 4  # a letter has four bytes at most
OVERLAP_CHARS = 400  # more than thirteen words have


@dataclass
class ItemNames:
    """Which items there are, and which were found in documents."""

    items: Sequence[Item]
    found: dict[int, dict[str, str]] = field(default_factory=dict)
    num_documents: int = 0

    def noted(self, judged: Iterator[list[Judged]]) -> Iterator[list[Judged]]:
        """What the judge said, with the items that it names in it noted."""
        numbers = {name_of(item): number for number, item in enumerate(self.items)}
        for group in judged:
            for one in group:
                if not one.is_kept:
                    self.num_documents += 1
                    for name in one.twin.split("; "):
                        if (number := numbers.get(name)) is not None:
                            self.found.setdefault(number, {"match": one.rule})
            yield group

    def report(self) -> Report:
        """Per benchmark: how many items there are, how many were found, and examples."""
        return report_of(self.items, self.found)

    def told(self) -> str:
        """The report in a line."""
        each = self.report().items()
        found = ", ".join(f"{name} {one['num_contaminated']:,} of {one['num_items']:,}" for name, one in each)
        return f"items found in the text: {found or 'none, for there are no items'}"


def name_of(item: Item) -> str:
    return f"{item.benchmark} {item.id}"


def save_items(items: Iterable[Item], folder: Path) -> ItemNames:
    """Write what `item_judge` maps."""
    known = list(items)
    ItemIndex.of(known).save(folder)
    (folder / NAMES).write_text(json.dumps([name_of(item) for item in known]))
    return ItemNames(known)


def item_judge(folder: Path) -> Judge:
    """What takes documents out that hold an item; those with words that many items share stay, and are named."""
    index, names = ItemIndex.load(folder), json.loads((folder / NAMES).read_text())

    def judge(documents: Documents) -> list[Judged]:
        pieces, rows = _pieces(documents.texts)
        batch = hash_words(pieces)
        hits: dict[int, dict[int, Hit]] = {}
        for hit in index.hits(batch):
            hits.setdefault(rows[hit.text], {}).setdefault(hit.item, hit)
        framed = {rows[text] for text in index.framed(batch)} - hits.keys()
        found = [_judged(row, held, names) for row, held in sorted(hits.items())]
        return found + [Judged(row, FRAME, NGRAM_WORDS, is_kept=True) for row in sorted(framed)]

    return judge


MAX_NAMED = 20  # items of one document: a whole benchmark may be in it


def _judged(row: int, held: dict[int, Hit], names: list[str]) -> Judged:
    shown = "; ".join(names[item] for item in list(held)[:MAX_NAMED])
    return Judged(row, f"benchmark item by its {next(iter(held.values())).match}", len(held), twin=shown)


def _pieces(texts: Sequence[str]) -> tuple[list[str], list[int]]:
    """Texts of a length that can be hashed whole, and the number of the document that each is of."""
    pieces, rows = [], []
    for row, text in enumerate(texts):
        for start in range(0, max(1, len(text)), PIECE_CHARS):
            pieces.append(text[max(0, start - OVERLAP_CHARS) : start + PIECE_CHARS])
            rows.append(row)
    return pieces, rows


def core_items(bundle: Bundle) -> Iterator[Item]:
    """CORE's items as those of the chat benchmarks are: what may not be in a training text."""
    for benchmark in bundle.benchmarks:
        for number, item in enumerate(bundle.items(benchmark)):
            for question in _questions(item):
                yield Item(benchmark=benchmark.label, id=str(number), messages=[], expected="", solution="",
                           question=question)  # fmt: skip


def _questions(item: dict[str, Any]) -> list[str]:
    if "query" in item:
        return [item["query"]]
    if "context_options" in item:
        return [f"{option} {item['continuation']}" for option in item["context_options"]]
    return [f"{item['context']} {item['continuation']}"]
