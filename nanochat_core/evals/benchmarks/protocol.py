"""What a benchmark is, and its items as they are stored: items.jsonl, one JSON object a line.

An item is rendered once, before any model is asked, so that every model sees the same words and an answer can be
judged again later from the files alone. The same class gives the conversation to train on (`conversation`).
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.data.rows import Mapped
from nanochat_core.evals.benchmarks.sources import Source

ITEMS_NAME = "items.jsonl"
EVERY_NAME = "every.jsonl"  # all items of the same benchmarks: what may not be trained on, also where few are asked
PREPARED_NAME = "prepared.json"
Kind = Literal["choice", "generate"]
Content = str | list[dict[str, str]]


@dataclass(frozen=True, kw_only=True)
class Item:
    """One question of a benchmark."""

    benchmark: str
    id: str
    messages: list[dict[str, Any]]
    """The conversation up to where the assistant is to speak."""
    expected: str
    """What is right: a letter, a number, a program."""
    solution: Content
    """An answer that is right, as the assistant would write it: what training learns."""
    letters: list[str] = field(default_factory=list)
    """Choice: what the answer is chosen from."""
    question: str = ""
    """What is asked, without the frame around it: what may not be in a training mix."""
    checks: dict[str, str] = field(default_factory=dict)
    """What else the judge needs."""

    @property
    def shown(self) -> str:
        """The last thing said to the model."""
        return str(self.messages[-1]["content"])


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One row of the table in registry.py. An answer is right when `is_right` says so, or when `program` passes."""

    name: str
    title: str
    kind: Kind
    baseline: float
    """The accuracy of guessing."""
    read: Callable[[Source, str], Mapped[Item]]
    """The items of a split ("train" or "test"), each made when it is indexed."""
    is_right: Callable[[Item, str], bool] | None = None
    program: Callable[[Item, str], str] | None = None
    """The Python program that ends well when the answer is right; run in a sandbox."""


def conversation(item: Item) -> dict[str, Any]:
    """The item with its solution, to train on."""
    return {"messages": [*item.messages, {"role": "assistant", "content": item.solution}]}


def is_expected(item: Item, answer: str) -> bool:
    """The judge of choices: the letter itself."""
    return answer == item.expected


def write_item_file(path: Path, items: Iterable[Item]) -> None:
    """One line per item."""
    with path.open("w", encoding="utf-8") as file:
        file.writelines(map(item_line, items))


def item_line(item: Item) -> str:
    """An item as it stands in a file, with the end of the line."""
    return json.dumps(asdict(item)) + "\n"


def read_item_file(path: Path) -> list[Item]:
    """What `write_item_file` wrote."""
    if not path.is_file():
        raise MissingError(f"there is no {path}", hint="the step that prepares the benchmarks makes it")
    items = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                items.append(Item(**json.loads(line)))
            except (ValueError, TypeError) as error:
                raise CorruptError(
                    f"{path}, line {number} is no item: {error}", hint="prepare the items again"
                ) from error
    return items
