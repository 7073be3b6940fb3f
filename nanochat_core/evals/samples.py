"""What a model says to fixed prompts at fixed seeds: the part of an evaluation that people read first."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nanochat_core.inference.engine import Answer, Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.inference.tool_loop import Text, ToolCall, ToolError, ToolResult
from nanochat_core.tokenizer.conversation import render_prompt

BASE_PROMPTS = (
    "The capital of France is",
    "The chemical symbol of gold is",
    "If yesterday was Friday, then tomorrow will be",
    "Return a list of",
    "import os\n",
)
CHAT_PROMPTS = (
    "Who are you?",
    "What is 37 + 58?",
    "How many r are in strawberry?",
    "What does math.gcd do?",
    "How do you spell python?",
)
SEED = 1234


@dataclass(frozen=True)
class Sample:
    """One prompt and what came back."""

    prompt: str
    answer: str
    """With tool calls as [expression = result]."""
    temperature: float

    def record(self) -> dict[str, Any]:
        return asdict(self)


def continuations(engine: Engine, *, num_tokens: int, temperature: float) -> list[Sample]:
    """How the base model goes on from BASE_PROMPTS."""
    sampling = Sampling(temperature=temperature, max_new_tokens=num_tokens, seed=SEED)
    prompts = [[engine.tokenizer.bos, *engine.tokenizer.encode(prompt)] for prompt in BASE_PROMPTS]
    answers = engine.generate(prompts, [sampling] * len(prompts))
    return [Sample(p, show(answer), temperature) for p, answer in zip(BASE_PROMPTS, answers, strict=True)]


def conversations(engine: Engine, *, num_tokens: int, prompts: Sequence[str] = CHAT_PROMPTS) -> list[Sample]:
    """Greedy answers of the chat model."""
    sampling = Sampling(max_new_tokens=num_tokens, seed=SEED)
    rendered = [render_prompt(engine.tokenizer, [{"role": "user", "content": prompt}]) for prompt in prompts]
    answers = engine.generate(rendered, [sampling] * len(prompts))
    return [Sample(prompt, show(answer), 0.0) for prompt, answer in zip(prompts, answers, strict=True)]


def show(answer: Answer) -> str:
    """An answer on one line, tool calls in brackets."""
    parts = []
    for event in answer.events:
        if isinstance(event, Text):
            parts.append(event.text)
        elif isinstance(event, ToolCall):
            parts.append(f"[{event.expression}")
        elif isinstance(event, ToolResult):
            parts.append(f" = {event.text}] ")
        elif isinstance(event, ToolError):
            parts.append(" = ?] ")
    return "".join(parts)
