"""Losses of every choice with a row of its own: works with any causal model, and shares no prefix.

Rows longer than the model takes lose their beginning, each choice by its own length, as in nanochat.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from nanochat_core.evals.core.prompts import Prompt
from nanochat_core.evals.core.scoring import Progress, Score

HEAD_ELEMENTS = 1 << 24  # logits at once


class RowScorer(ABC):
    """What a kind of model adds: its stream at all places, and the logits of some of them."""

    batch_tokens: int
    max_tokens: int
    """Of a row; longer ones lose their beginning."""
    vocab_size: int
    device: torch.device

    @abstractmethod
    def _streams(self, ids: torch.Tensor) -> torch.Tensor:
        """What `_logits` takes, (B T, ...), for ids (B, T)."""

    @abstractmethod
    def _logits(self, stream: torch.Tensor) -> torch.Tensor:
        """fp32 logits (n, V)."""

    def score(self, prompts: Sequence[Prompt], progress: Progress) -> list[Score]:
        """One score per prompt; `progress` hears how many are done."""
        rows = [row for number, prompt in enumerate(prompts) for row in self._rows(number, prompt)]
        losses = [[np.inf] * len(prompt.suffixes) for prompt in prompts]
        greedy = [[False] * len(prompt.suffixes) for prompt in prompts]
        left = np.bincount([row.prompt for row in rows], minlength=len(prompts))
        for batch in self._batches(rows):
            for row, (loss, hits) in zip(batch, self._run(batch), strict=True):
                losses[row.prompt][row.choice], greedy[row.prompt][row.choice] = loss, hits
                left[row.prompt] -= 1
            progress(int((left == 0).sum()))
        return [Score(loss, hits) for loss, hits in zip(losses, greedy, strict=True)]

    def _rows(self, number: int, prompt: Prompt) -> list["_Row"]:
        rows = []
        for choice, (suffix, count) in enumerate(zip(prompt.suffixes, prompt.num_scored, strict=True)):
            if count:  # a choice with nothing to score keeps its infinite loss
                ids = np.concatenate([prompt.prefix, suffix])[-self.max_tokens :].astype(np.int64)
                rows.append(_Row(number, choice, ids, min(count, len(ids) - 1)))
        return rows

    def _batches(self, rows: list["_Row"]) -> list[list["_Row"]]:
        """Rows of similar length together, the longest first."""
        batches: list[list[_Row]] = []
        for row in sorted(rows, key=lambda row: -len(row.ids)):
            if not batches or (len(batches[-1]) + 1) * len(batches[-1][0].ids) > self.batch_tokens:
                batches.append([])
            batches[-1].append(row)
        return batches

    @torch.no_grad()
    def _run(self, batch: list["_Row"]) -> list[tuple[float, bool]]:
        """(mean loss, all most likely) of each row. Padding stands behind, where a causal model does not look."""
        device = self.device
        ids = torch.zeros(len(batch), len(batch[0].ids) - 1, dtype=torch.long)
        for number, row in enumerate(batch):
            ids[number, : len(row.ids) - 1] = torch.from_numpy(row.ids[:-1])
        places = np.concatenate(
            [
                np.arange(len(row.ids) - 1 - row.num_scored, len(row.ids) - 1) + i * ids.size(1)
                for i, row in enumerate(batch)
            ]
        )
        targets = torch.from_numpy(np.concatenate([row.ids[-row.num_scored :] for row in batch])).to(device)
        streams = self._streams(ids.to(device))[torch.from_numpy(places).to(device)]
        losses, hits = [], []
        step = max(1, HEAD_ELEMENTS // self.vocab_size)
        for part, target in zip(streams.split(step), targets.split(step), strict=True):
            logits = self._logits(part)
            losses.append(logits.logsumexp(1) - logits.gather(1, target.unsqueeze(1)).squeeze(1))
            hits.append(logits.argmax(1) == target)
        counts = [row.num_scored for row in batch]
        by_row = zip(torch.cat(losses).double().cpu().split(counts), torch.cat(hits).cpu().split(counts), strict=True)
        return [(float(loss.mean()), bool(hit.all())) for loss, hit in by_row]


@dataclass(frozen=True)
class _Row:
    """One choice of one prompt, cropped."""

    prompt: int
    choice: int
    ids: np.ndarray
    num_scored: int
