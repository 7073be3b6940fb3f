"""Benchmarks of held-out questions: greedy answers, right when the expected text is the last thing said.

The questions come with the fine-tuning mix; none of them was trained on (data/sft_mix.py keeps them apart).
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nanochat_core.evals.items import Question
from nanochat_core.inference.engine import Answer, Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.inference.tool_loop import ToolResult
from nanochat_core.tokenizer.conversation import render_prompt

MAX_ANSWER_TOKENS = 64
BATCH_QUESTIONS = 64


@dataclass(frozen=True)
class Outcome:
    """One answered item, kept in the artifact so that a score can be checked."""

    benchmark: str
    question: str
    expected: str
    answer: str
    is_right: bool
    used_tool: bool


def ask(engine: Engine, questions: Sequence[Question], progress: Callable[[int, int], None]) -> list[Outcome]:
    """Answer every question greedily, in batches."""
    outcomes: list[Outcome] = []
    sampling = Sampling(max_new_tokens=MAX_ANSWER_TOKENS)
    for first in range(0, len(questions), BATCH_QUESTIONS):
        batch = questions[first : first + BATCH_QUESTIONS]
        prompts = [render_prompt(engine.tokenizer, [{"role": "user", "content": q.question}]) for q in batch]
        answers = engine.generate(prompts, [sampling] * len(batch))
        outcomes += [_judge(question, answer) for question, answer in zip(batch, answers, strict=True)]
        progress(len(outcomes), len(questions))
    return outcomes


def _judge(question: Question, answer: Answer) -> Outcome:
    used_tool = any(isinstance(event, ToolResult) for event in answer.events)
    is_right = is_match(answer.text, question.expected) and (used_tool or not question.needs_tool)
    return Outcome(question.benchmark, question.question, question.expected, answer.text, is_right, used_tool)


def is_match(answer: str, expected: str) -> bool:
    """A number is right when it is the last number said; other text when it is the whole answer."""
    if re.fullmatch(r"-?\d+(\.\d+)?", expected):
        numbers = re.findall(r"-?\d+(?:\.\d+)?", answer)
        return bool(numbers) and numbers[-1] == expected
    return answer.strip() == expected


def scores(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Per benchmark: accuracy, its standard error, right and asked."""
    result: dict[str, dict[str, Any]] = {}
    for benchmark in sorted({outcome.benchmark for outcome in outcomes}):
        marks = [outcome.is_right for outcome in outcomes if outcome.benchmark == benchmark]
        accuracy = sum(marks) / len(marks)
        error = math.sqrt(accuracy * (1 - accuracy) / len(marks))
        result[benchmark] = {
            "accuracy": accuracy,
            "standard_error": error,
            "num_right": sum(marks),
            "num_asked": len(marks),
        }
    return result
