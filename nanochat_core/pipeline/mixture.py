"""The fine-tuning mix of a run: conversations to learn and to validate on, and the questions held out from them.

`mix` is nanochat's: SmolTalk, MMLU's auxiliary questions and GSM8K's training questions a few times over, spelling, and
who-the-model-is. `path` takes the user's conversations in the place of SmolTalk. Validation is on conversations alone,
never on a benchmark's test questions. Only `builtin` has questions of its own; the others are measured by benchmarks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nanochat_core.config import SftConfig
from nanochat_core.data import conversations as files
from nanochat_core.data import mixture, sft_mix
from nanochat_core.data.conversations import Conversation
from nanochat_core.data.rows import Mapped, has_split, open_dataset
from nanochat_core.evals.benchmarks import gsm8k, mmlu, spelling_bee
from nanochat_core.evals.benchmarks.protocol import conversation
from nanochat_core.evals.benchmarks.sources import Source, open_source
from nanochat_core.evals.items import Question

if TYPE_CHECKING:
    from nanochat_core.plan import RunPlan

VALIDATION_EVERY = 20  # conversations without a validation set of their own give every 20th to it
MAX_VALIDATION = 2000  # it is looked at every few hundred steps
HELD_OUT_NAMES = ("test", "val")
IDENTITY_REPEATS = 2
Parts = list[tuple[Sequence[Conversation], int]]


@dataclass(frozen=True)
class Mixture:
    train: Sequence[Conversation]
    validation: Sequence[Conversation]
    questions: list[Question]


def load_mixture(plan: "RunPlan") -> Mixture:
    """The mix that `sft.source` names; conversations are read when they are looked at."""
    sft, seed = plan.config.sft, plan.config.seed
    if sft.source == "builtin":
        mix = sft_mix.build_mix(sft, seed=seed, num_questions=plan.config.evaluate.num_questions)
        questions = [Question(name, *item) for name, items in mix.questions.items() for item in items]
        return Mixture(mix.train, mix.validation, questions)
    train, validation = _from_files(sft.path) if sft.source == "path" else _smoltalk(sft, seed=seed)
    added = _additions(sft, open_source(plan.config.benchmarks.source, plan.config.benchmarks.path))
    validation = validation[:MAX_VALIDATION] if sft.source == "mix" else validation
    return Mixture(mixture.mixture([(train, 1), *added], seed=seed), validation or train[:1], [])


def _from_files(path: str | None) -> tuple[Sequence[Conversation], Sequence[Conversation]]:
    """Files named test* or val* are validation; where there is none, every 20th conversation is."""
    chosen = files.list_files(path)
    held_out = [file for file in chosen if file.stem.lower().startswith(HELD_OUT_NAMES)]
    if not held_out:
        return mixture.every(files.read_files(chosen), VALIDATION_EVERY)
    return files.read_files([file for file in chosen if file not in held_out]), files.read_files(held_out)


def _smoltalk(sft: SftConfig, *, seed: int) -> tuple[Sequence[Conversation], Sequence[Conversation]]:
    """So many of SmolTalk's conversations, drawn at the seed, and of its test split."""
    train = Mapped(open_dataset(sft.smoltalk, split="train"), files.conversation_of_row)
    chosen = mixture.Subset(train, mixture.permutation(len(train), seed)[: sft.num_smoltalk])
    if not has_split(sft.smoltalk, "test"):
        return mixture.every(chosen, VALIDATION_EVERY)
    test = Mapped(open_dataset(sft.smoltalk, split="test"), files.conversation_of_row)
    return chosen, mixture.Subset(test, mixture.permutation(len(test), seed))


def _additions(sft: SftConfig, source: Source) -> Parts:
    """What the counts of the configuration add to the conversations."""
    parts: Parts = []
    if sft.identity_path:
        parts.append((files.read_conversations(sft.identity_path), IDENTITY_REPEATS))
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
