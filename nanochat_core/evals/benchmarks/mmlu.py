"""MMLU: 57 subjects from elementary mathematics to law, four choices each (Hendrycks et al. 2020, arXiv 2009.03300).

The auxiliary training questions (about 100,000, from other exams) are what fine-tuning learns the form from.
"""

from nanochat_core.base.errors import MissingError
from nanochat_core.data.rows import Mapped, Row, text_field
from nanochat_core.evals.benchmarks.choice import CHANCE, LETTERS, choice_item
from nanochat_core.evals.benchmarks.protocol import Benchmark, Item, is_expected
from nanochat_core.evals.benchmarks.sources import Dataset, Source

DATASET = Dataset(hub="cais/mmlu", folder="mmlu", subset="all")
NUM_CHOICES = 4
SPLITS = {"train": "auxiliary_train", "test": "test"}


def read_items(source: Source, split: str) -> Mapped[Item]:
    return Mapped(source.rows(DATASET, SPLITS[split]), _item)


def _item(row: Row, index: int) -> Item:
    choices, answer = row.get("choices"), row.get("answer")
    if not isinstance(choices, list) or len(choices) != NUM_CHOICES or not all(isinstance(c, str) for c in choices):
        raise MissingError(f"'choices' should be {NUM_CHOICES} texts: {choices!r:.80}")
    if not isinstance(answer, int) or not 0 <= answer < NUM_CHOICES:
        raise MissingError(f"'answer' should be a number from 0 to {NUM_CHOICES - 1}: {answer!r:.40}")
    letters = LETTERS[:NUM_CHOICES]
    return choice_item(
        BENCHMARK.name,
        f"{row.get('subject') or 'auxiliary'}/{index}",
        question=text_field(row, "question"),
        choices=choices,
        letters=letters,
        right=letters[answer],
    )


BENCHMARK = Benchmark(name="mmlu", title="MMLU", kind="choice", baseline=CHANCE, read=read_items, is_right=is_expected)
