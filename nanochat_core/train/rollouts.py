"""Answers that a model learns from: sampled through the batched engine, judged, and marked where it had a choice.

The answers of step s are a pure function of (weights at step s, seed, s): each one draws from a generator of its own,
seeded by (seed, step, question, sample), and the questions of a step come from a seeded permutation. So a checkpoint
needs no sampler's state, and a training that was killed goes on with the same answers. On one machine that is exact to
the bit; another number of ranks decodes in other batches, where rounding may now and then choose another token.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nanochat_core.evals.benchmarks.gsm8k import final_number
from nanochat_core.evals.items import Question
from nanochat_core.evals.questions import is_match
from nanochat_core.inference.engine import Answer, Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.inference.tool_loop import ToolLoop
from nanochat_core.tokenizer.conversation import render_prompt
from nanochat_core.tokenizer.tokenizer import Tokenizer

MAX_ROWS = 128  # decoded together: on a CPU more does not pay, on a GPU a rank's share of a step is seldom more
JUDGES: dict[str, Callable[[str, str], bool]] = {
    "gsm8k": lambda answer, expected: final_number(answer) == expected,
    "arithmetic": is_match,
}


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How answers are sampled."""

    num_samples: int
    temperature: float
    top_k: int | None
    max_answer_tokens: int


@dataclass(frozen=True)
class Rollout:
    """One sampled answer."""

    tokens: list[int]
    """Prompt and answer."""
    is_sampled: list[bool]
    """By token: whether the model chose it. Prompts and forced tool results were not chosen."""
    reward: float
    """1 where the answer is right, else 0."""
    text: str

    @property
    def num_sampled(self) -> int:
        return sum(self.is_sampled)


def prompt_of(tokenizer: Tokenizer, question: Question) -> list[int]:
    """The ids up to where the assistant is to speak."""
    return render_prompt(tokenizer, [{"role": "user", "content": question.question}])


def roll_out(
    engine: Engine,
    questions: Sequence[Question],
    settings: SamplingSettings,
    *,
    key: str,
) -> list[list[Rollout]]:
    """`num_samples` answers to each question; `key` names the occasion (seed and step) that the draws depend on."""
    prompts = [prompt_of(engine.tokenizer, question) for question in questions]
    asked = [number for number in range(len(questions)) for _ in range(settings.num_samples)]
    samplings = [
        Sampling(
            temperature=settings.temperature,
            top_k=settings.top_k,
            max_new_tokens=settings.max_answer_tokens,
            seed=sample_seed(key, question, sample),
        )
        for question in questions
        for sample in range(settings.num_samples)
    ]
    answers = engine.generate([prompts[number] for number in asked], samplings, max_rows=MAX_ROWS)
    rollouts = [
        _judged(engine.tokenizer, questions[number], prompts[number], answer)
        for number, answer in zip(asked, answers, strict=True)
    ]
    return [rollouts[first : first + settings.num_samples] for first in range(0, len(rollouts), settings.num_samples)]


def sample_seed(key: str, question: Question, sample: int) -> int:
    """A seed for one answer, whoever asks for it and whatever is asked beside it."""
    digest = hashlib.sha256(f"{key} {question.benchmark} {question.question} {sample}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _judged(tokenizer: Tokenizer, question: Question, prompt: list[int], answer: Answer) -> Rollout:
    is_right = JUDGES[question.benchmark](answer.text, question.expected)
    is_sampled = [False] * len(prompt) + sampled_mask(tokenizer, answer.tokens)
    return Rollout([*prompt, *answer.tokens], is_sampled, float(is_right), answer.text)


def sampled_mask(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[bool]:
    """Which tokens of an answer the model chose: the tool loop, fed with them again, says which it forces."""
    loop, mask = ToolLoop(tokenizer), []
    for token in tokens:
        mask.append(not loop.forced)
        loop.feed(token)
    return mask
