"""CORE the plain way, as an oracle.

One item at a time: its few-shot examples drawn, one jinja template compiled and rendered per prompt, every choice
encoded whole, all choices padded into one batch, the training forward, fp32 log-softmax over all logits, and then
nanochat's rules. It shares no code with nanochat_core.evals.core and reads the bundle by itself. Two rules go beyond
nanochat's, where that would fail: a choice without a token of its own has an infinite loss (there NaN), and prompts
longer than ten times the trained context lose their beginning (there an assertion).
"""

import json
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from jinja2 import Template

EXAMPLES = "{% for example in examples %}%EXAMPLE%\n\n{% endfor %}"
MULTIPLE_CHOICE = "{{ THIS.query }}{{ delimiter }}{{ CHOICE }}"
SCHEMA = "{{ CONTEXT }}{{ delimiter }}{{ THIS.continuation }}"
LANGUAGE_MODELING = (
    "{{ THIS.context | trim }}{{ delimiter }}{% if with_continuation %}{{ THIS.continuation }}{% endif %}"
)


def read_task(folder: Path, task: dict[str, Any], limit: int | None) -> list[dict[str, Any]]:
    """The items in the order of the seeded shuffle, as many as wanted."""
    lines = (folder / "eval_data" / task["dataset_uri"]).read_text(encoding="utf-8").splitlines()
    items = [json.loads(line) for line in lines]
    random.Random(1337).shuffle(items)
    return items if limit is None else items[:limit]


def read_tasks(folder: Path) -> list[dict[str, Any]]:
    """The benchmarks of core.yaml whose data file is there."""
    tasks = yaml.safe_load((folder / "core.yaml").read_text(encoding="utf-8"))["icl_tasks"]
    return [task for task in tasks if (folder / "eval_data" / task["dataset_uri"]).is_file()]


def prompts_of(task: dict[str, Any], items: list[dict[str, Any]], index: int) -> list[str]:
    """The texts of one item: one per choice; in language modelling without and with the continuation."""
    others = [number for number in range(len(items)) if number != index]
    shots = min(task["num_fewshot"][0], len(others))
    examples = [items[number] for number in random.Random(1234 + index).sample(others, shots)]
    values = {"examples": examples, "item": items[index], "delimiter": task.get("continuation_delimiter", " ")}
    kind = task["icl_task_type"]
    if kind == "multiple_choice":
        example = MULTIPLE_CHOICE.replace("THIS", "example").replace("CHOICE", "example.choices[example.gold]")
        body = MULTIPLE_CHOICE.replace("THIS", "item").replace("CHOICE", "choice")
        return [_render(example, body, **values, choice=choice) for choice in items[index]["choices"]]
    if kind == "schema":
        example = SCHEMA.replace("THIS", "example").replace("CONTEXT", "example.context_options[example.gold]")
        body = SCHEMA.replace("THIS", "item").replace("CONTEXT", "context")
        return [_render(example, body, **values, context=context) for context in items[index]["context_options"]]
    example = LANGUAGE_MODELING.replace("THIS", "example").replace("with_continuation", "true")
    body = LANGUAGE_MODELING.replace("THIS", "item")
    without, whole = (_render(example, body, **values, with_continuation=wanted) for wanted in (False, True))
    return [without.strip(), whole]


def _render(example: str, body: str, **values: Any) -> str:
    return Template(EXAMPLES.replace("%EXAMPLE%", example) + body).render(**values)


def spans_of(kind: str, prompts: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """The sequences to run and where the scored part of each begins."""
    if kind == "language_modeling":
        without, whole = prompts
        assert whole[: len(without)] == without, "the prompt is not how the whole text begins"
        return [whole], [len(without)]
    if kind == "multiple_choice":
        return prompts, [_common_length(prompts)] * len(prompts)
    length = _common_length([prompt[::-1] for prompt in prompts])
    return prompts, [len(prompt) - length for prompt in prompts]


def _common_length(sequences: list[list[int]]) -> int:
    for place in range(min(map(len, sequences))):
        if len({sequence[place] for sequence in sequences}) > 1:
            return place
    return min(map(len, sequences))


def score_item(model: Any, tokenizer: Any, task: dict[str, Any], items: list[dict[str, Any]], index: int) -> Any:
    """Answer one item: {"is_right", "chosen", "losses", "is_greedy"} with one mean loss per choice."""
    kind = task["icl_task_type"]
    prompts = [[tokenizer.bos, *tokenizer.encode(text)] for text in prompts_of(task, items, index)]
    rows, starts = spans_of(kind, prompts)
    crop = min(max(0, max(map(len, rows)) - 10 * model.config.sequence_len), min(starts) - 1)
    rows, starts = [row[crop:] for row in rows], [start - crop for start in starts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.bos] * (width - len(row)) for row in rows], device=model.device)
    with torch.no_grad():
        log_probs = torch.log_softmax(model(ids).float(), dim=-1)  # (choices, T, V)
    losses = -log_probs[:, :-1].gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2)
    best = log_probs.argmax(2)
    means, greedy = [], []
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        span = slice(start - 1, len(row) - 1)
        means.append(losses[number, span].mean().item() if start < len(row) else float("inf"))
        greedy.append(bool((best[number, span] == ids[number, start : len(row)]).all()))
    chosen = means.index(min(means))
    is_right = greedy[0] if kind == "language_modeling" else chosen == items[index]["gold"]
    return {"is_right": is_right, "chosen": chosen, "losses": means, "is_greedy": greedy}
