"""GSM8K: word problems of two to eight steps of arithmetic (Cobbe et al. 2021, arXiv 2110.14168).

The data set marks each calculation as <<48/2=24>>; in training these become calls of the calculator, whose result at
run time is forced. An answer is right when the number after its last "####" is the right one.
"""

import re

from nanochat_core.base.errors import MissingError
from nanochat_core.data.rows import Mapped, Row, text_field
from nanochat_core.evals.benchmarks.protocol import Benchmark, Item
from nanochat_core.evals.benchmarks.sources import Dataset, Source

DATASET = Dataset(hub="openai/gsm8k", folder="gsm8k", subset="main")
FINAL_NUMBER = re.compile(r"#### (-?[0-9][0-9,]*(?:\.[0-9]+)?)")
CALCULATION = re.compile(r"<<([^<>]*)>>")


def read_items(source: Source, split: str) -> Mapped[Item]:
    return Mapped(source.rows(DATASET, split), _item)


def _item(row: Row, index: int) -> Item:
    question, solution = text_field(row, "question"), text_field(row, "answer")
    expected = final_number(solution)
    if expected is None:
        raise MissingError(f"'answer' does not end in \"#### NUMBER\": {solution[-40:]!r}")
    return Item(
        benchmark=BENCHMARK.name,
        id=str(index),
        messages=[{"role": "user", "content": question}],
        expected=expected,
        solution=parts_of(solution),
        question=question,
    )


def parts_of(solution: str) -> list[dict[str, str]]:
    """Text with <<expression=result>> as the parts of an assistant's message."""
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(CALCULATION.split(solution)):  # text, calculation, text, ...
        if number % 2 == 0:
            parts += [{"type": "text", "text": piece}] if piece else []
            continue
        expression, _, result = piece.rpartition("=")
        parts.append({"type": "python", "text": expression})
        parts.append({"type": "python_output", "text": result})
    return parts


def final_number(answer: str) -> str | None:
    """The number after the last "####", without its commas and a fraction of zeros."""
    found = FINAL_NUMBER.findall(answer)
    if not found:
        return None
    number = found[-1].replace(",", "")
    return number.rstrip("0").rstrip(".") if "." in number else number


def is_right(item: Item, answer: str) -> bool:
    return final_number(answer) == item.expected


BENCHMARK = Benchmark(name="gsm8k", title="GSM8K", kind="generate", baseline=0.0, read=read_items, is_right=is_right)
