"""ARC: science questions of grade schools, an easy and a challenging set (Clark et al. 2018, arXiv 1803.05457).

Labels are the data set's own: mostly A to D, sometimes 1 to 4, and three or five choices in a few items.
"""

import functools

from nanochat_core.base.errors import MissingError
from nanochat_core.data.rows import Mapped, Row, text_field
from nanochat_core.evals.benchmarks.choice import CHANCE, choice_item
from nanochat_core.evals.benchmarks.protocol import Benchmark, Item, is_expected
from nanochat_core.evals.benchmarks.sources import Dataset, Source


def read_items(source: Source, split: str, *, subset: str, name: str) -> Mapped[Item]:
    dataset = Dataset(hub="allenai/ai2_arc", folder="arc", subset=subset)
    return Mapped(source.rows(dataset, split), functools.partial(_item, name=name))


def _item(row: Row, index: int, *, name: str) -> Item:
    choices = row.get("choices")
    texts, labels = (choices.get("text"), choices.get("label")) if isinstance(choices, dict) else (None, None)
    if not _are_texts(texts) or not _are_texts(labels):
        raise MissingError(f"'choices' should hold lists of texts `text` and `label`: {choices!r:.80}")
    return choice_item(
        name,
        str(row.get("id") or index),
        question=text_field(row, "question"),
        choices=texts or [],
        letters=labels or [],
        right=text_field(row, "answerKey"),
    )


def _are_texts(values: object) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _benchmark(name: str, subset: str) -> Benchmark:
    read = functools.partial(read_items, subset=subset, name=name)
    return Benchmark(name=name, title=subset, kind="choice", baseline=CHANCE, read=read, is_right=is_expected)


EASY = _benchmark("arc_easy", "ARC-Easy")
CHALLENGE = _benchmark("arc_challenge", "ARC-Challenge")
