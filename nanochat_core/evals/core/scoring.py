"""Losses of every choice under a `GPT`: what all choices share goes through the model once.

Items are sorted by length and batched by a token budget; a row is an item's prefix and its choices as branches
(model/branches.py), without each choice's last token, which nothing follows. So where every choice is one token only
the prompt itself is computed. The head runs at scored places alone.
A prompt may be longer than the context that the model was trained with: rotary positions and windows go on, up to ten
times the context as in nanochat, whose tables end there; beyond that the prompt loses its beginning.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from nanochat_core.base.errors import NanochatError
from nanochat_core.evals.core.prompts import Prompt
from nanochat_core.model.branches import PADDING, BranchRows, branch_hidden, visible_tokens
from nanochat_core.model.gpt import GPT

MAX_CONTEXTS = 10  # nanochat's rotary tables are ten times the trained context
CPU_BATCH_TOKENS = 4096  # more than this falls out of the caches
HEAD_ELEMENTS_CPU, HEAD_ELEMENTS_GPU = 1 << 21, 1 << 26  # logits at once
FAIR_SHARE, MIN_FILL = 0.25, 0.9  # a batch of at least this share of the budget is not filled up with padding
LENGTH_STEP = 16  # prefixes within this many tokens count as equally long; their branches then sort them
Progress = Callable[[int], None]


@dataclass(frozen=True)
class Score:
    """What a model makes of the choices of one item."""

    losses: list[float]
    """Mean loss of the scored tokens in nats; infinite for a choice that has none."""
    is_greedy: list[bool]
    """Every scored token is the model's most likely one."""

    @property
    def chosen(self) -> int:
        """The choice with the lowest loss; the first of equals.

        A choice that is the beginning of another has no token of its own. nanochat's mean is then NaN, and wins when
        it stands first; here it never wins while another choice has a loss.
        """
        return int(np.argmin(self.losses))


class Scorer(Protocol):
    """What scores prompts: a model of ours or somebody else's."""

    def score(self, prompts: Sequence[Prompt], progress: Progress) -> list[Score]: ...


class GPTScorer:
    """Scores with one of our models, in its compute dtype."""

    def __init__(self, model: GPT, *, batch_tokens: int) -> None:
        self.model = model.eval()
        is_cpu = model.device.type == "cpu"
        self.batch_tokens = min(batch_tokens, CPU_BATCH_TOKENS) if is_cpu else batch_tokens
        self.head_rows = max(1, (HEAD_ELEMENTS_CPU if is_cpu else HEAD_ELEMENTS_GPU) // model.config.vocab_size)
        self.max_tokens = MAX_CONTEXTS * model.config.sequence_len

    def score(self, prompts: Sequence[Prompt], progress: Progress) -> list[Score]:
        """One score per prompt; `progress` hears how many are done."""
        scores: list[Score | None] = [None] * len(prompts)
        window = visible_tokens(self.model)
        rows = [
            _Row(number, prompt, max_tokens=self.max_tokens, window=window) for number, prompt in enumerate(prompts)
        ]
        for row in rows:
            scores[row.number] = row.unscored
        done = sum(score is not None for score in scores)
        waiting: Iterator[tuple[_Row, Score]] = iter(())
        # one batch is always in the queue of the device while the results of the one before are read
        for batch in [*_batches(rows, self.batch_tokens), []]:
            running = self._run(batch) if batch else iter(())
            for row, score in waiting:
                scores[row.number] = score
                done += 1
            progress(done)
            waiting = running
        return [score for score in scores if score is not None]

    def _run(self, batch: list["_Row"]) -> Iterator[tuple["_Row", Score]]:
        """Start a batch; its scores are there as soon as they are read."""
        packed = _pack(batch)
        return _read(batch, packed, self._losses(packed))

    @torch.no_grad()
    def _losses(self, packed: "_Packed") -> Tensor:
        """(2, pairs): the loss of each scored token, and 1 where it is the most likely one."""
        device = self.model.device
        hidden = branch_hidden(self.model, packed.rows.to(device)).flatten(0, 1)[packed.places.to(device)]  # (N, C)
        place, target = packed.place_of_pair.to(device), packed.targets.to(device)
        bounds = torch.searchsorted(packed.place_of_pair, torch.arange(0, len(hidden), self.head_rows)).tolist()
        parts = []
        for number, part in enumerate(hidden.split(self.head_rows)):
            pairs = slice(bounds[number], bounds[number + 1] if number + 1 < len(bounds) else None)
            logits = self.model.logits(part)  # (n, V)
            at, wanted = place[pairs] - number * self.head_rows, target[pairs]
            losses = logits.logsumexp(1)[at] - logits[at, wanted]
            parts.append(torch.stack([losses, (logits.argmax(1)[at] == wanted).float()]))
        return torch.cat(parts, dim=1)


class _Row:
    """One item as a row: its prefix without what cannot be seen, its distinct choices as branches, what is scored."""

    def __init__(self, number: int, prompt: Prompt, *, max_tokens: int, window: int) -> None:
        self.number = number
        self.choices, suffixes, num_scored = _distinct(prompt)
        prefix = prompt.prefix[min(max(0, prompt.num_tokens - max_tokens), len(prompt.prefix) - 1) :]
        self.targets = [suffix[len(suffix) - count :] for suffix, count in zip(suffixes, num_scored, strict=True)]
        if not suffixes:
            return
        if len(suffixes) == 1:  # nothing branches: one sequence, scored at its end
            prefix = np.concatenate([prefix, suffixes[0][:-1]])
            self.branches: list[np.ndarray] = []
            first = len(prefix) - len(self.targets[0])
            self.wanted = np.arange(first, len(prefix))
            self.places = [np.arange(len(self.targets[0]))]
        else:
            self.branches = [suffix[:-1] for suffix in suffixes]
            self.wanted = np.array([len(prefix) - 1])
            first = len(prefix) - 1
            self.places = self._places(num_scored)
        self.offset = max(0, first - window)
        self.prefix, self.wanted = prefix[self.offset :], self.wanted - self.offset

    def _places(self, num_scored: list[int]) -> list[np.ndarray]:
        """Which wanted place predicts each scored token: 0 is the prefix's last, then come the branches' tokens."""
        places, before = [], 1
        for branch, count in zip(self.branches, num_scored, strict=True):
            place = np.arange(len(branch) + 1 - count, len(branch) + 1) + before - 1
            place[place == before - 1] = 0  # a branch's first token follows the prefix
            places.append(place)
            before += len(branch)
        return places

    @property
    def unscored(self) -> Score | None:
        """The score of an item of which nothing can be scored, so that its first choice is taken."""
        return None if self.targets else Score([np.inf] * len(self.choices), [False] * len(self.choices))

    @property
    def num_branch_tokens(self) -> int:
        return sum(map(len, self.branches))

    @property
    def num_tokens(self) -> int:
        return len(self.prefix) + self.num_branch_tokens

    @property
    def num_wanted(self) -> int:
        return len(self.wanted) + self.num_branch_tokens


def _distinct(prompt: Prompt) -> tuple[list[int | None], list[np.ndarray], list[int]]:
    """Equal choices are scored once, so that rounding cannot part them; empty ones (None) are not scored."""
    numbers: dict[bytes, int] = {}
    choices: list[int | None] = []
    suffixes: list[np.ndarray] = []
    scored: list[int] = []
    for suffix, count in zip(prompt.suffixes, prompt.num_scored, strict=True):
        key = suffix.tobytes()
        if count and key not in numbers:
            numbers[key] = len(suffixes)
            suffixes.append(suffix)
            scored.append(count)
        choices.append(numbers[key] if count else None)
    return choices, suffixes, scored


@dataclass(frozen=True)
class _Packed:
    """A batch of rows, and pairs of a place where something is predicted and the token that should come there."""

    rows: BranchRows
    places: Tensor
    """(N,): the wanted places that are not padding, in the flattened (B, Q)."""
    place_of_pair: Tensor
    """(pairs,), ascending: which of `places` predicts."""
    targets: Tensor
    """(pairs,)"""
    order: np.ndarray
    """Where each pair stands among the rows' targets one after the other."""


def _batches(rows: list[_Row], batch_tokens: int) -> Iterator[list[_Row]]:
    """Rows of similar length together, the longest first, each batch within the budget or of one row."""
    ordered = sorted(
        (row for row in rows if row.targets),
        key=lambda row: (-(len(row.prefix) // LENGTH_STEP), -row.num_branch_tokens, row.number),
    )
    batch: list[_Row] = []
    prefix = branches = num_tokens = 0
    for row in ordered:
        prefix, branches = max(prefix, len(row.prefix)), max(branches, row.num_branch_tokens)
        num_tokens += row.num_tokens
        padded = (len(batch) + 1) * (prefix + branches)
        is_wasteful = padded > batch_tokens * FAIR_SHARE and num_tokens < padded * MIN_FILL
        if batch and (padded > batch_tokens or is_wasteful):
            yield batch
            batch, prefix, branches, num_tokens = [], len(row.prefix), row.num_branch_tokens, row.num_tokens
        batch.append(row)
    if batch:
        yield batch


def _pack(batch: list[_Row]) -> _Packed:
    num_prefix = max(len(row.prefix) for row in batch)
    num_columns = num_prefix + max(row.num_branch_tokens for row in batch)
    num_wanted = max(row.num_wanted for row in batch)
    ids = np.zeros((len(batch), num_columns), dtype=np.int64)
    positions, branches = np.zeros_like(ids), np.full_like(ids, PADDING)
    wanted = np.zeros((len(batch), num_wanted), dtype=np.int64)
    is_wanted = np.zeros(wanted.shape, dtype=bool)
    starts: list[tuple[int, int, int]] = []
    place_of_pair, num_places = [], 0
    for number, row in enumerate(batch):
        length = len(row.prefix)
        ids[number, :length] = row.prefix
        positions[number, :length] = np.arange(row.offset, row.offset + length)
        branches[number, :length] = 0
        column = num_prefix
        for branch, tokens in enumerate(row.branches, start=1):
            span = slice(column, column + len(tokens))
            ids[number, span], branches[number, span] = tokens, branch
            positions[number, span] = np.arange(row.offset + length, row.offset + length + len(tokens))
            if len(tokens):
                starts.append((number, column, length - 1))
            column = span.stop
        columns = np.concatenate([row.wanted, np.arange(num_prefix, column)])
        wanted[number] = columns[0]
        wanted[number, : len(columns)] = columns
        is_wanted[number, : len(columns)] = True
        place_of_pair.append(np.concatenate(row.places) + num_places)
        num_places += len(columns)
    places = np.concatenate(place_of_pair)
    order = np.argsort(places, kind="stable")
    targets = np.concatenate([target for row in batch for target in row.targets]).astype(np.int64)
    rows = BranchRows(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        branches=torch.from_numpy(branches),
        num_prefix=num_prefix,
        starts=torch.tensor(starts, dtype=torch.long).reshape(-1, 3).T,
        wanted=torch.from_numpy(wanted),
        first_wanted=min(int(row.wanted[0]) for row in batch),
        max_position=int(positions.max()),
    )
    return _Packed(
        rows,
        torch.from_numpy(np.flatnonzero(is_wanted)),
        torch.from_numpy(places[order]),
        torch.from_numpy(targets[order]),
        order,
    )


def _read(batch: list[_Row], packed: _Packed, values: Tensor) -> Iterator[tuple[_Row, Score]]:
    """Scores of a batch from the values of its pairs."""
    in_order = np.empty(values.shape, dtype=np.float64)
    in_order[:, packed.order] = values.double().cpu().numpy()
    first = 0
    for row in batch:
        means: list[float] = []
        greedy: list[bool] = []
        for target in row.targets:
            losses, hits = in_order[:, first : first + len(target)]
            means.append(float(losses.mean()))
            greedy.append(bool(hits.all()))
            first += len(target)
        if not np.isfinite(means).all():
            raise NanochatError(
                f"the model's losses are not finite: {means}", hint="its weights are damaged: retrain it"
            )
        yield (
            row,
            Score(
                [np.inf if choice is None else means[choice] for choice in row.choices],
                [choice is not None and greedy[choice] for choice in row.choices],
            ),
        )
