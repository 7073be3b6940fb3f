"""Asking a model the items of benchmarks: choices by the logits of their letters, the rest by generation.

Every item's answer depends on the item, the model and the seed alone: not on the batch it is in, nor on how many ranks
share the work. An item that leaves no room for an answer in the context counts as wrong, and is counted.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nanochat_core.base.errors import MissingError
from nanochat_core.evals.benchmarks.protocol import Benchmark, Item
from nanochat_core.evals.benchmarks.registry import find
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.next_token import next_token_logits
from nanochat_core.inference.sampling import Sampling
from nanochat_core.tokenizer.conversation import render_prompt
from nanochat_core.tokenizer.tokenizer import Tokenizer

RunPrograms = Callable[[Sequence[str]], list[bool]]
Progress = Callable[[int, int, str], None]
TOKENS_PER_ROW = 128  # eval_batch_tokens / this many rows decode together: at the default 128 of them
MAX_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How items are asked."""

    batch_tokens: int = 16_384
    num_samples: int = 1
    temperature: float = 0.8
    """Of the samples, where there is more than one."""
    max_answer_tokens: int = 512
    seed: int = 0


@dataclass(frozen=True)
class Answered:
    """One item with what was said to it."""

    item: Item
    answers: list[str]
    """One per sample; one empty text per sample where the prompt was too long."""
    marks: list[bool]
    is_too_long: bool = False


def answer_items(
    engine: Engine, items: Sequence[Item], asking: Asking, *, run_programs: RunPrograms, progress: Progress
) -> list[Answered]:
    """Ask items of one benchmark and judge the answers; in the order of the items."""
    benchmark = find(items[0].benchmark)
    num_samples = asking.num_samples if benchmark.kind == "generate" else 1
    prompts = [render_prompt(engine.tokenizer, item.messages) for item in items]
    limit = engine.model.config.sequence_len - _room(benchmark, asking, engine.model.config.sequence_len)
    fitting = [number for number, prompt in enumerate(prompts) if len(prompt) <= limit]
    chosen, ids = [items[i] for i in fitting], [prompts[i] for i in fitting]
    if benchmark.kind == "choice":
        answers = _choose(engine, chosen, ids, asking, progress)
    else:
        answers = _write(engine, chosen, ids, asking, progress)
    marks = _judge(benchmark, chosen, answers, run_programs)
    said = {number: (texts, right) for number, texts, right in zip(fitting, answers, marks, strict=True)}
    unasked = ([""] * num_samples, [False] * num_samples)
    return [
        Answered(item, *said.get(number, unasked), is_too_long=number not in said) for number, item in enumerate(items)
    ]


def _room(benchmark: Benchmark, asking: Asking, sequence_len: int) -> int:
    """Tokens that must be left for an answer; in a short context a quarter of it."""
    return 1 if benchmark.kind == "choice" else min(asking.max_answer_tokens, sequence_len // 4)


def _choose(
    engine: Engine, items: Sequence[Item], prompts: Sequence[list[int]], asking: Asking, progress: Progress
) -> list[list[str]]:
    """The likeliest letter of each item."""
    candidates = [[_letter_id(engine.tokenizer, letter) for letter in item.letters] for item in items]
    logits = next_token_logits(
        engine.model,
        prompts,
        candidates,
        batch_tokens=asking.batch_tokens,
        on_done=lambda done: progress(done, len(items), "questions"),
    )
    return [
        [item.letters[max(range(len(values)), key=values.__getitem__)]]
        for item, values in zip(items, logits, strict=True)
    ]


def _letter_id(tokenizer: Tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise MissingError(f"the choice {letter!r} is {len(ids)} tokens long", hint="a choice's letter is one token")
    return ids[0]


def _write(
    engine: Engine, items: Sequence[Item], prompts: Sequence[list[int]], asking: Asking, progress: Progress
) -> list[list[str]]:
    """All samples of all items together; the samples of an item follow each other."""
    samplings = [
        Sampling(
            temperature=asking.temperature if asking.num_samples > 1 else 0.0,
            max_new_tokens=asking.max_answer_tokens,
            seed=sample_seed(asking.seed, item, sample),
        )
        for item in items
        for sample in range(asking.num_samples)
    ]
    answers = engine.generate(
        [prompt for prompt in prompts for _ in range(asking.num_samples)],
        samplings,
        max_rows=max(1, min(MAX_ROWS, asking.batch_tokens // TOKENS_PER_ROW)),
        on_done=lambda done: progress(done, len(samplings), "answers"),
    )
    texts = [answer.text for answer in answers]
    return [texts[first : first + asking.num_samples] for first in range(0, len(texts), asking.num_samples)]


def sample_seed(seed: int, item: Item, sample: int) -> int:
    """A seed for one answer, whoever asks for it and whatever is asked beside it."""
    digest = hashlib.sha256(f"{seed} {item.benchmark} {item.id} {sample}".encode()).digest()
    return int.from_bytes(digest[:7], "big")


def _judge(
    benchmark: Benchmark, items: Sequence[Item], answers: Sequence[list[str]], run_programs: RunPrograms
) -> list[list[bool]]:
    pairs = [(item, answer) for item, texts in zip(items, answers, strict=True) for answer in texts]
    if benchmark.program is not None:
        marks = run_programs([benchmark.program(item, answer) for item, answer in pairs]) if pairs else []
    else:
        assert benchmark.is_right is not None
        marks = [benchmark.is_right(item, answer) for item, answer in pairs]
    remaining = iter(marks)
    return [[next(remaining) for _ in texts] for texts in answers]
