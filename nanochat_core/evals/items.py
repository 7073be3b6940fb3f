"""The items of a benchmark as they are stored: questions.jsonl, one JSON object a line.

Apart from questions.py so that who only writes questions does not depend on the engine that answers them.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Question:
    """One item of a benchmark."""

    benchmark: str
    question: str
    expected: str
    needs_tool: bool = False


def read_questions(path: Path) -> list[Question]:
    return [Question(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def write_questions(path: Path, questions: Sequence[Question]) -> None:
    path.write_text("".join(json.dumps(asdict(question)) + "\n" for question in questions), encoding="utf-8")
