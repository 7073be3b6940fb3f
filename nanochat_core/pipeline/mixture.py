"""The fine-tuning mix of a run: conversations to learn and to validate on, and the questions held out from them.

`mix` is nanochat's: SmolTalk, MMLU's auxiliary questions and GSM8K's training questions a few times over, spelling, and
who-the-model-is. `path` takes the user's conversations in the place of SmolTalk. Validation is on conversations alone,
never on a benchmark's test questions. Only `builtin` has questions of its own; the others are measured by benchmarks.
"""

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nanochat_core.base.errors import MissingError
from nanochat_core.config import SftConfig
from nanochat_core.data import conversations as files
from nanochat_core.data import mixture, sft_mix
from nanochat_core.data.asked import Asked, asked
from nanochat_core.data.conversations import Conversation
from nanochat_core.data.files import held_out, listing
from nanochat_core.data.rows import FileRows, Mapped, Row, has_split, open_dataset
from nanochat_core.data.turns import Unfit
from nanochat_core.evals.benchmarks import gsm8k, mmlu, spelling_bee
from nanochat_core.evals.benchmarks.protocol import conversation
from nanochat_core.evals.benchmarks.sources import Source, open_source
from nanochat_core.evals.items import Question

if TYPE_CHECKING:
    from nanochat_core.plan import RunPlan

VALIDATION_EVERY = 20  # conversations without a validation set of their own give every 20th to it
MAX_VALIDATION = 2000  # it is looked at every few hundred steps
IDENTITY_REPEATS = 2
Parts = list[tuple[Sequence[Conversation], int]]


@dataclass(frozen=True)
class Mixture:
    train: Sequence[Conversation]
    validation: Sequence[Conversation]
    questions: list[Question]
    notes: list[str] = field(default_factory=list)
    """What a person is told of what was read, held out and dropped."""


def load_mixture(plan: "RunPlan", *, scratch: Path | None = None) -> Mixture:
    """The mix that `sft.source` names; conversations are read when they are looked at."""
    sft, seed = plan.config.sft, plan.config.seed
    if sft.source == "builtin":
        mix = sft_mix.build_mix(sft, seed=seed, num_questions=plan.config.evaluate.num_questions)
        questions = [Question(name, *item) for name, items in mix.questions.items() for item in items]
        train, validation = (mix.train, mix.validation) if mix.validation else _some(mix.train)
        return Mixture(train, validation, questions)
    notes: list[str] = []
    if sft.source == "path":
        train, validation = _from_files(sft.path, notes, scratch=scratch, form=asked(sft.form, sft.columns))
    else:
        train, validation = _smoltalk(sft, seed=seed)
        validation = validation[:MAX_VALIDATION]
    added = _additions(sft, open_source(plan.config.benchmarks.source, plan.config.benchmarks.path), notes)
    return Mixture(mixture.mixture([(train, 1), *added], seed=seed), validation, [], notes)


def _from_files(
    path: str | None, notes: list[str], *, scratch: Path | None, form: Asked = files.AS_IT_IS
) -> tuple[Sequence[Conversation], Sequence[Conversation]]:
    """Files whose names say so are validation; where there is none, every 20th conversation is."""
    found = files.select(path, asked=form)
    by_name = dict(zip(found.names, found.files, strict=True))
    chosen = held_out(found.names)
    others = {name: by_name[name] for name in by_name if name not in chosen}
    train, keys = _fit(others, notes, scratch=scratch, form=form)
    if chosen:
        held = {name: by_name[name] for name in chosen}
        validation, their_keys = _fit(held, notes, scratch=scratch, form=form)
        notes.append(f"validation is {listing(chosen)}, by name")
    else:
        is_chosen = _is_held_out(len(train), notes)
        validation, their_keys = mixture.Subset(train, np.flatnonzero(is_chosen)), keys[is_chosen]
        notes.append(f"validation is {len(validation):,} of {len(train):,} conversations, spread over all")
        train, keys = mixture.Subset(train, np.flatnonzero(~is_chosen)), keys[~is_chosen]
    is_new = ~np.isin(keys, their_keys)
    if not is_new.all():
        notes.append(f"left out: {(~is_new).sum():,} conversations for training that are the same as one of validation")
    if not is_new.any():
        raise MissingError(
            f"sft.path = {path} leaves no conversation for training: all are the same as one of validation",
            hint="give it different ones",
        )
    return mixture.Subset(train, np.flatnonzero(is_new)), validation


def _fit(
    chosen: Mapping[str, Path], notes: list[str], *, scratch: Path | None = None, form: Asked = files.AS_IT_IS
) -> tuple[Sequence[Conversation], np.ndarray]:
    """The conversations that teach something, and what tells each from others; the rest is counted in `notes`."""
    rows, names = FileRows(list(chosen.values()), scratch=scratch), list(chosen)

    def placed(row: Row, index: int) -> Conversation:
        place = {"file": names[rows.file_of(index)], "line": rows.line_of(index)}
        return {**files.conversation_of_row(row, index, form), **place}

    talks = Mapped(rows, placed)
    numbers, keys = array("q"), array("q")
    left_out, noticed = _Counted(rows), _Counted(rows)
    forms: list[dict[str, None]] = [{} for _ in rows.files]
    for number in range(len(rows)):  # in order, so that a wrong line is named at once
        try:
            talk = talks[number]
        except Unfit as error:
            left_out.add(str(error.__cause__), number)
            continue
        forms[rows.file_of(number)][talk["form"]] = None
        if reason := files.unfit(talk):
            left_out.add(reason, number)
            continue
        for remark in talk["remarks"]:
            noticed.add(remark, number)
        numbers.append(number)
        keys.append(files.key_of(talk))
    counted = zip(chosen, rows.counts(), forms, strict=True)
    told = [f"{num:,} of {name}" + (f" ({' and '.join(form)})" if form else "") for name, num, form in counted]
    notes.append(f"conversations: {listing(told)}")
    lost = left_out.told()
    if not numbers:
        raise MissingError(
            f"not one of {len(rows):,} conversations has an answer to learn from" + (f": {lost}" if lost else ""),
            hint="what the assistant says is learnt; is its column in the export?",
        )
    if lost:
        notes.append(f"left out: of {len(rows):,} conversations {lost}")
    if noticed.counts:
        notes.append(f"of these {noticed.told()}")
    if num_again := len(keys) - len(set(keys)):
        notes.append(f"{num_again:,} conversations are the same as an earlier one; they stay")
    return mixture.Subset(talks, np.array(numbers)), np.array(keys)


class _Counted:
    """How many conversations something is said of, and where the first is."""

    def __init__(self, rows: FileRows) -> None:
        self.rows, self.counts, self.first = rows, Counter[str](), dict[str, str]()

    def add(self, what: str, number: int) -> None:
        self.counts[what] += 1
        if what not in self.first:
            self.first[what] = self.rows.where(number)

    def told(self) -> str:
        return listing([f"{num:,} {what} (the first: {self.first[what]})" for what, num in self.counts.items()])


def _is_held_out(count: int, notes: Sequence[str] = ()) -> np.ndarray:
    """(count,) bool: every 20th, or the last of fewer."""
    if count < 2:
        raise MissingError(
            f"{count} conversation{'s' * (count != 1)} cannot be learnt from and held out for validation"
            + "".join(f"; {note}" for note in notes),
            hint="give it more, or a file valid.jsonl beside them",
        )
    return (np.arange(count) + 1) % min(count, VALIDATION_EVERY) == 0


def _some(source: Sequence[Conversation]) -> tuple[Sequence[Conversation], Sequence[Conversation]]:
    """(training, validation) of a source that has no validation."""
    is_chosen = _is_held_out(len(source))
    return mixture.Subset(source, np.flatnonzero(~is_chosen)), mixture.Subset(source, np.flatnonzero(is_chosen))


def _smoltalk(sft: SftConfig, *, seed: int) -> tuple[Sequence[Conversation], Sequence[Conversation]]:
    """So many of SmolTalk's conversations, drawn at the seed, and of its test split."""
    train = Mapped(open_dataset(sft.smoltalk, split="train"), files.conversation_of_row)
    chosen = mixture.Subset(train, mixture.permutation(len(train), seed)[: sft.num_smoltalk])
    if not has_split(sft.smoltalk, "test"):
        return _some(chosen)
    test = Mapped(open_dataset(sft.smoltalk, split="test"), files.conversation_of_row)
    return chosen, mixture.Subset(test, mixture.permutation(len(test), seed))


def _additions(sft: SftConfig, source: Source, notes: list[str]) -> Parts:
    """What the counts of the configuration add to the conversations."""
    parts: Parts = []
    if sft.identity_path:
        found = files.select(sft.identity_path, setting="sft.identity_path")
        parts.append((_fit(dict(zip(found.names, found.files, strict=True)), notes)[0], IDENTITY_REPEATS))
    if sft.mmlu_repeats:
        parts.append((mmlu.read_items(source, "train").then(conversation), sft.mmlu_repeats))
    if sft.gsm8k_repeats:
        parts.append((gsm8k.read_items(source, "train").then(conversation), sft.gsm8k_repeats))
    if sft.num_spellings:
        parts.append((spelling_bee.spellings(source, count=sft.num_spellings).then(conversation), 1))
    if sft.num_letter_counts:
        counts = spelling_bee.letter_counts(source, "train", count=sft.num_letter_counts)
        parts.append((counts.then(conversation), 1))
    return parts
