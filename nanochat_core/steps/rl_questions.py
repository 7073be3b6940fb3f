"""The questions of reinforcement learning: some to practise on, others to measure on.

An artifact of its own: the training, each of its attempts and every node of it ask the same words, whatever a hub does
in the meantime. GSM8K's test questions are the held-out ones; of generated sums a tenth never enters training
(data/arithmetic.py). A training question that is also held out is left out.
"""

import json
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nanochat_core.base.errors import MissingError
from nanochat_core.pipeline.data_files import stamps
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.plan import RunPlan

if TYPE_CHECKING:
    from nanochat_core.evals.benchmarks.protocol import Item
    from nanochat_core.evals.items import Question


def settings(plan: RunPlan) -> dict[str, Any]:
    """What is asked, not how it is learnt; GSM8K does not depend on how many steps there are."""
    rl, source = plan.config.rl, plan.config.benchmarks
    chosen: dict[str, Any] = {name: getattr(rl, name) for name in ("source", "num_questions", "held_out_questions")}
    chosen["seed"] = plan.config.seed
    if rl.source == "arithmetic":
        return chosen | {"num_questions": num_sums(plan)}
    return chosen | {"read_from": source.source, "files": stamps(source.path) if source.source == "path" else []}


def num_sums(plan: RunPlan) -> int:
    """Generated questions: the number wished for, or as many as the steps ask for."""
    return plan.config.rl.num_questions or (plan.config.rl.num_steps or 0) * plan.config.rl.questions_per_step


def body(run: StepRun) -> Metrics:
    from nanochat_core.evals.items import write_questions

    train, held_out = _sums(run.plan) if run.plan.config.rl.source == "arithmetic" else _gsm8k(run.plan)
    asked = {question.question for question in held_out}
    train = [question for question in train if question.question not in asked]
    for name, questions in (("train", train), ("held_out", held_out)):
        if not questions:
            raise MissingError(
                f"there is no question {'to practise on' if name == 'train' else 'held out to measure on'}",
                hint="look at rl.num_questions, rl.held_out_questions and the files of rl.source",
            )
        write_questions(run.out / f"{name}.jsonl", questions)
    counts = {"train": len(train), "held_out": len(held_out)}
    (run.out / "counts.json").write_text(json.dumps(counts, indent=1))
    return {"train_questions": len(train), "held_out_questions": len(held_out)}


def _sums(plan: RunPlan) -> "tuple[list[Question], list[Question]]":
    from nanochat_core.data.arithmetic import sums
    from nanochat_core.evals.items import Question

    config, seed = plan.config.rl, plan.config.seed
    train = sums("train", count=num_sums(plan), seed=seed)
    held_out = sums("held_out", count=config.held_out_questions, seed=seed)
    return [Question("arithmetic", *one) for one in train], [Question("arithmetic", *one) for one in held_out]


def _gsm8k(plan: RunPlan) -> "tuple[list[Question], list[Question]]":
    from nanochat_core.evals.benchmarks import gsm8k
    from nanochat_core.evals.benchmarks.sources import open_source

    config, benchmarks = plan.config.rl, plan.config.benchmarks
    source = open_source(benchmarks.source, benchmarks.path)
    train = _drawn(gsm8k.read_items(source, "train"), config.num_questions, seed=plan.config.seed)
    return train, _drawn(gsm8k.read_items(source, "test"), config.held_out_questions, seed=plan.config.seed)


def _drawn(items: "Sequence[Item]", most: int | None, *, seed: int) -> "list[Question]":
    """So many of the items, drawn at the seed; all where there are no more."""
    from nanochat_core.evals.items import Question

    numbers = range(len(items))
    if most is not None and most < len(items):
        numbers = sorted(random.Random(f"{seed} questions").sample(numbers, most))  # type: ignore[assignment]
    return [Question("gsm8k", item.question, item.expected) for item in (items[number] for number in numbers)]


rl_questions = Step(
    name="rl_questions",
    description="Get the questions for reinforcement learning.",
    title=lambda plan: {"gsm8k": "GSM8K", "arithmetic": "sums of three numbers"}[plan.config.rl.source],
    headline=lambda metrics: f"{metrics['train_questions']:,} to practise, {metrics['held_out_questions']:,} held out",
    settings=settings,
    packages=("datasets",),
    body=body,
    is_wanted=lambda plan: plan.has_rl,
)
