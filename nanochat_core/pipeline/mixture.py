"""The fine-tuning mix of a run: conversations to learn and to validate on, and the questions held out from them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nanochat_core.data import conversations as files
from nanochat_core.data import sft_mix
from nanochat_core.evals.items import Question

if TYPE_CHECKING:
    from nanochat_core.plan import RunPlan

VALIDATION_EVERY = 20  # a file of conversations gives every 20th to validation
HELD_OUT_NAMES = ("test", "val")


@dataclass(frozen=True)
class Mixture:
    train: list[dict[str, Any]]
    validation: list[dict[str, Any]]
    questions: list[Question]


def load_mixture(plan: "RunPlan") -> Mixture:
    """The built-in mix, or the user's conversations (which come without questions)."""
    sft = plan.config.sft
    if sft.source == "path":
        return _from_files(sft.path)
    mix = sft_mix.build_mix(sft, seed=plan.config.seed, num_questions=plan.config.evaluate.num_questions)
    questions = [Question(name, *item) for name, items in mix.questions.items() for item in items]
    return Mixture(mix.train, mix.validation, questions)


def _from_files(path: str | None) -> Mixture:
    """Files named test* or val* are validation; where there is none, every 20th conversation is."""
    chosen = files.list_files(path)
    held_out = [file for file in chosen if file.stem.lower().startswith(HELD_OUT_NAMES)]
    if not held_out:
        return _split(list(files.read_conversations(path)))
    train = [c for file in chosen if file not in held_out for c in files.read_file(file)]
    return Mixture(train, [c for file in held_out for c in files.read_file(file)], [])


def _split(conversations: list[dict[str, Any]]) -> Mixture:
    def chosen(is_validation: bool) -> Iterable[dict[str, Any]]:
        return (c for i, c in enumerate(conversations, start=1) if (i % VALIDATION_EVERY == 0) == is_validation)

    train, validation = list(chosen(False)), list(chosen(True))
    return Mixture(train, validation or train[:1], [])
