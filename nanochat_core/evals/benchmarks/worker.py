"""Chat benchmarks of one model in a process of their own: `python -m nanochat_core.evals.benchmarks.worker plan.json`.

Alone or under torchrun; items are dealt to the ranks, the first one gathers the answers and writes benchmarks.json
(scores) and outcomes.jsonl (every single answer, so that each score can be checked).
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nanochat_core.base.distributed import World, to_main
from nanochat_core.base.errors import MissingError
from nanochat_core.base.hardware import num_threads, pick_dtype
from nanochat_core.evals.benchmarks.protocol import ITEMS_NAME, PREPARED_NAME, Item, read_item_file
from nanochat_core.evals.benchmarks.registry import find
from nanochat_core.evals.benchmarks.runner import Answered, Asking, RunPrograms, answer_items
from nanochat_core.evals.benchmarks.scoring import chat_core, score
from nanochat_core.evals.process import Rank, run_ranks
from nanochat_core.inference.engine import Engine
from nanochat_core.model.probe import own_forward
from nanochat_core.model.weights import load_model
from nanochat_core.sandbox import Limits, Sandbox
from nanochat_core.tokenizer.tokenizer import Tokenizer

HEADLINES = (
    "accuracy", "standard_error", "interval_95", "num_right", "num_asked", "num_too_long", "is_limited", "pass_at_k",
)  # fmt: skip
LIMITS = Limits()


@dataclass(frozen=True, kw_only=True)
class BenchmarkJob:
    """What to run; plan.json holds it."""

    model: str
    tokenizer: str
    items: str
    """A folder with items.jsonl and prepared.json."""
    out: str
    work: str
    device: str
    num_threads: int | None
    dtype: str
    batch_tokens: int
    num_samples: int
    temperature: float
    max_answer_tokens: int
    seed: int
    allow_unsafe_code: bool
    kinds: Sequence[str] = ("choice", "generate")
    """Of the benchmarks, those that are asked: a base model does not know where an answer ends."""


def evaluate(plan: dict[str, Any], rank: Rank) -> dict[str, Any]:
    """Everything the plan asks for; returns the headline numbers (on the first rank)."""
    job = BenchmarkJob(**plan)
    model = load_model(Path(job.model)).to(rank.device)
    model.compute_dtype = pick_dtype(job.dtype, rank.device)
    engine = Engine(model, Tokenizer.load(Path(job.tokenizer)))
    asking = Asking(**{name: getattr(job, name) for name in asdict(Asking())})
    items = read_item_file(Path(job.items) / ITEMS_NAME)
    if not items:
        raise MissingError(f"{job.items} holds no item", hint="prepare the benchmarks again")
    answered: list[Answered] = []
    items = [item for item in items if find(item.benchmark).kind in job.kinds]
    for name in dict.fromkeys(item.benchmark for item in items):
        ours = [item for item in items if item.benchmark == name]
        answered += _answer_together(engine, ours, asking, rank=rank, job=job)
    return _write(answered, job) | own_forward(engine.why_plain) if rank.world.is_main else {}


def _answer_together(
    engine: Engine, items: Sequence[Item], asking: Asking, *, rank: Rank, job: BenchmarkJob
) -> list[Answered]:
    """The items of one benchmark, each answered by one rank; on the first rank all of them, in their order."""
    world, title = rank.world, find(items[0].benchmark).title
    rank.progress(0, len(items), title)

    def progress(done: int, total: int, text: str) -> None:
        rank.progress(done, total, f"{title}: {text}")

    ours = items[world.rank :: world.size]
    answered = []
    if ours:
        answered = answer_items(engine, ours, asking, run_programs=sandboxed(job, world), progress=progress)
    return _gather(answered, items, world)


def sandboxed(job: BenchmarkJob, world: World) -> RunPrograms:
    """Runs programs in a sandbox of this rank's own, with its share of the cores."""

    def run(programs: Sequence[str]) -> list[bool]:
        workers = num_threads(job.num_threads, num_processes=world.size)
        with Sandbox(LIMITS, num_workers=workers, allow_unsafe=job.allow_unsafe_code) as sandbox:
            return [outcome.status == "passed" for outcome in sandbox.run_many(programs)]

    return run


def _gather(answered: list[Answered], items: Sequence[Item], world: World) -> list[Answered]:
    """All ranks' answers in the order of the items, on the first rank; nothing on the others."""
    if world.size == 1:
        return answered
    everyone = to_main([[one.answers, one.marks, one.is_too_long] for one in answered], world)
    dealt = enumerate(items if world.is_main else [])
    return [Answered(item, *everyone[number % world.size][number // world.size]) for number, item in dealt]


def _write(answered: Sequence[Answered], job: BenchmarkJob) -> dict[str, Any]:
    """benchmarks.json and outcomes.jsonl; returns their headlines."""
    prepared = json.loads((Path(job.items) / PREPARED_NAME).read_text())["benchmarks"]
    scores = {}
    for name in dict.fromkeys(one.item.benchmark for one in answered):
        ours = [one for one in answered if one.item.benchmark == name]
        scores[name] = score(
            find(name),
            [one.marks for one in ours],
            num_too_long=sum(one.is_too_long for one in ours),
            is_limited=prepared[name]["is_limited"],
        )
    value, error = chat_core(scores)
    headline = {"chat_core": value, "chat_core_standard_error": error}
    out = Path(job.out)
    (out / "benchmarks.json").write_text(json.dumps({**headline, "benchmarks": scores}, indent=1))
    with (out / "outcomes.jsonl").open("w", encoding="utf-8") as file:
        for one in answered:
            file.writelines(json.dumps(outcome) + "\n" for outcome in _outcomes(one))
    brief = {name: {key: value[key] for key in HEADLINES} for name, value in scores.items()}
    return {**headline, "benchmarks": brief}


def _outcomes(answered: Answered) -> list[dict[str, Any]]:
    item = answered.item
    return [
        {
            "benchmark": item.benchmark,
            "id": item.id,
            "sample": sample,
            "question": item.shown,
            "expected": item.expected,
            "answer": answer,
            "is_right": is_right,
        }
        for sample, (answer, is_right) in enumerate(zip(answered.answers, answered.marks, strict=True))
    ]


if __name__ == "__main__":
    run_ranks(evaluate)
