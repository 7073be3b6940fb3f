"""How much each document of a step added to its loss, the most first.

Measured with the run's own model as it is at its end: it has seen the document since, so one that is still far above
the others is one that stays hard. Where that takes too long (the model or the step is large), or the weights are gone,
with how often each token is in the text at all. Which of the two it was is said with the list.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from nanochat_core.base.errors import NanochatError
from nanochat_core.look.rows import Stretch

if TYPE_CHECKING:
    from nanochat_core.look.run_data import RunData

MOST_FLOPS = 2e13  # of one pass over the rows: about a minute on a few cores
COUNTED_TOKENS = 20_000_000  # of the text, for the frequencies
ROWS_AT_ONCE = 8
Measure = Literal["the run's model", "token frequencies"]


class Rows(Protocol):
    """Rows with what is learnt, and what they are of."""

    def read(self, row: int) -> tuple[np.ndarray, np.ndarray | None]: ...

    def stretches(self, row: int) -> list[Stretch]: ...


@dataclass(frozen=True, kw_only=True)
class ScoredDocument:
    """A document of a step, or the parts of it that the step had."""

    document: int
    file: str
    line: int
    rows: list[int]
    num_tokens: int
    """Learnt in this step."""
    loss: float
    """Nats per token."""
    adds: float
    """How much higher the step's mean loss is than without it."""


def scored(
    run: "RunData", rows: Rows, numbers: Sequence[int], *, training: str
) -> tuple[list[ScoredDocument], Measure]:
    """The documents of these rows by what they add to the loss, and how that was measured."""
    measure: Measure = "the run's model"
    nats = _by_model(run, rows, numbers, training=training)
    if nats is None:
        measure, nats = "token frequencies", _by_frequency(run, rows, numbers)
    sums, counts = defaultdict[int, float](float), defaultdict[int, int](int)
    places: dict[int, Stretch] = {}
    in_rows = defaultdict[int, list[int]](list)
    for row, of_row in zip(numbers, nats, strict=True):
        for stretch in rows.stretches(row):
            values = of_row[stretch.start : stretch.start + stretch.length]
            values = values[~np.isnan(values)]
            sums[stretch.document] += float(values.sum())
            counts[stretch.document] += len(values)
            places.setdefault(stretch.document, stretch)
            if row not in in_rows[stretch.document]:
                in_rows[stretch.document].append(row)
    total, num = sum(sums.values()), sum(counts.values())

    def one(document: int) -> ScoredDocument:
        place, its_num = places[document], counts[document]
        others = (total - sums[document]) / max(1, num - its_num)
        return ScoredDocument(
            document=document, file=place.file, line=place.line, rows=in_rows[document], num_tokens=its_num,
            loss=sums[document] / max(1, its_num), adds=total / max(1, num) - others if its_num < num else 0.0,
        )  # fmt: skip

    return sorted(map(one, sums), key=lambda each: -each.adds), measure


def _by_frequency(run: "RunData", rows: Rows, numbers: Sequence[int]) -> list[np.ndarray]:
    """(row_len,) nats of each token of each row, by how often it is in the text; NaN where it is not learnt."""
    from nanochat_core.data.loader import PackedDocuments, open_text

    size = run.tokenizer.vocab_size
    counts = np.ones(size)
    if "tokens" in run.artifacts:
        left = COUNTED_TOKENS
        text = open_text(run.folder(run.of("tokens")), "train", vocab_size=size)
        parts = [text] if isinstance(text, PackedDocuments) else text.parts.values()
        for shard in (shard for part in parts for shard in part.shards.tokens):
            counts += np.bincount(shard[:left], minlength=size)
            left -= min(left, len(shard))
    surprise = -np.log(counts / counts.sum())
    return [np.where(learnt, surprise[ids], np.nan) for ids, learnt in map(rows_learnt(rows), numbers)]


def rows_learnt(rows: Rows) -> Callable[[int], tuple[np.ndarray, np.ndarray]]:
    """Reads a row as (ids, (row_len,) bool of what is learnt of it)."""

    def read(number: int) -> tuple[np.ndarray, np.ndarray]:
        ids, mask = rows.read(number)
        learnt = np.ones(len(ids), dtype=bool) if mask is None else mask.astype(bool)
        return ids, learnt & (np.arange(len(ids)) > 0)

    return read


def _by_model(run: "RunData", rows: Rows, numbers: Sequence[int], *, training: str) -> list[np.ndarray] | None:
    """(row_len,) nats of each token under the model that the training ended with; None where that cannot be had."""
    import torch

    from nanochat_core.config import GPTConfig
    from nanochat_core.model.documents import Documents
    from nanochat_core.model.shape import count_params
    from nanochat_core.model.weights import load_model
    from nanochat_core.pipeline.training import MODEL_FILES

    if training not in run.artifacts:
        return None  # it goes on, or broke off
    made = run.of(training)
    settings = made.config
    try:
        folder = run.store.fetch(made, MODEL_FILES)
        model = load_model(folder)
    except NanochatError:
        return None
    assert isinstance(model.config, GPTConfig)
    read = rows_learnt(rows)
    first = read(numbers[0])[0]
    if 2.0 * count_params(model.config).total * len(numbers) * len(first) > MOST_FLOPS:
        return None
    bos = run.tokenizer.bos if settings.get("document_mask") else None
    found: list[np.ndarray] = []
    with torch.no_grad():
        for at in range(0, len(numbers), ROWS_AT_ONCE):
            pairs = [read(number) for number in numbers[at : at + ROWS_AT_ONCE]]
            ids = torch.from_numpy(np.stack([each for each, _ in pairs]).astype(np.int64))
            documents = Documents.of(ids[:, :-1], bos=bos)
            nats = model.loss(ids[:, :-1], ids[:, 1:], reduction="none", documents=documents).float().numpy()
            for (_, learnt), of_row in zip(pairs, nats, strict=True):
                found.append(np.where(learnt, np.concatenate([[np.nan], of_row]), np.nan))
    return found
