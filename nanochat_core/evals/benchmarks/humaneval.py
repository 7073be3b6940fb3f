"""HumanEval: 164 functions to write from their signature and docstring (Chen et al. 2021, arXiv 2107.03374).

A chat model writes the whole function, mostly in a fence. The program that decides is the prompt's imports, the code of
the answer, and the data set's tests; it runs in the sandbox, and nothing here executes anything.
"""

import re

from nanochat_core.base.errors import ConfigError
from nanochat_core.data.rows import Mapped, Row, text_field
from nanochat_core.evals.benchmarks.protocol import Benchmark, Item
from nanochat_core.evals.benchmarks.sources import Dataset, Source

DATASET = Dataset(hub="openai/openai_humaneval", folder="humaneval", subset="openai_humaneval")
FENCE = re.compile(r"```\w*[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)


def read_items(source: Source, split: str) -> Mapped[Item]:
    if split != "test":
        raise ConfigError("HumanEval has no training questions")
    return Mapped(source.rows(DATASET, split), _item)


def _item(row: Row, index: int) -> Item:
    prompt = text_field(row, "prompt")
    return Item(
        benchmark=BENCHMARK.name,
        id=str(row.get("task_id") or index),
        messages=[{"role": "user", "content": prompt}],
        expected=prompt + text_field(row, "canonical_solution"),
        solution=prompt + text_field(row, "canonical_solution"),
        question=prompt,
        checks={"test": text_field(row, "test"), "entry_point": text_field(row, "entry_point")},
    )


def program(item: Item, answer: str) -> str:
    """What ends well when the answer is right."""
    check = f"check({item.checks['entry_point']})"
    return "\n\n".join((imports_of(item.shown), code_of(answer), item.checks["test"], check)) + "\n"


def imports_of(prompt: str) -> str:
    """The import lines that the prompt begins with: answers often leave them out."""
    imports = []
    for line in prompt.splitlines():
        if line.startswith(("import ", "from ")):
            imports.append(line)
        elif line.strip() and not line.lstrip().startswith("#"):
            break
    return "\n".join(imports)


def code_of(answer: str) -> str:
    """The first fenced block, also one that is cut off; without a fence the whole answer."""
    found = FENCE.search(answer)
    return (found[1] if found else answer).strip("\n")


BENCHMARK = Benchmark(
    name="humaneval", title="HumanEval", kind="generate", baseline=0.0, read=read_items, program=program
)
