"""Sampled answers per second for reinforcement learning: the batched engine against one answer at a time.

    .venv/bin/python benchmarks/rollout.py [--ref tiny-chat] [--questions 8] [--samples 16] [--threads 2] [--alone 24]

Both ways ask the same sums of three numbers (data/arithmetic.py) of a chat model of this machine's store
(NANOCHAT_HOME, NANOCHAT_STORE) or, with --random, of a model of that shape with random weights, whose answers are all
of the greatest length. The slow way answers the first `--alone` of them one after the other; rounds alternate, and the
ratio is that of the medians over rounds. Prints JSON, with wall and CPU seconds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from nanochat_core.base.hardware import describe
from nanochat_core.cli.chat import open_chat
from nanochat_core.data.arithmetic import sums
from nanochat_core.evals.items import Question
from nanochat_core.inference.engine import Engine
from nanochat_core.model.host_memory import keep_freed_memory
from nanochat_core.train.rollouts import MAX_ROWS, SamplingSettings, roll_out

ROUNDS = 3
MAX_ANSWER_TOKENS = 64
Timed = dict[str, float]


def timed(work: Callable[[], int]) -> Timed:
    """Seconds of `work`, which returns the tokens it sampled."""
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    num_tokens = work()
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return {"tokens": num_tokens, "wall_s": wall_s, "cpu_s": cpu_s}


def batched(engine: Engine, questions: list[Question], num_samples: int) -> int:
    groups = roll_out(engine, questions, sampling(num_samples), key="bench")
    return sum(rollout.num_sampled for group in groups for rollout in group)


def one_at_a_time(engine: Engine, questions: list[Question], num_samples: int, most: int) -> int:
    """Each sample of each question by itself, as a loop over questions would do it."""
    num_tokens = 0
    for number in range(most):
        question, sample = questions[number // num_samples], number % num_samples
        [[rollout]] = roll_out(engine, [question], sampling(1), key=f"bench {sample}")
        num_tokens += rollout.num_sampled
    return num_tokens


def sampling(num_samples: int) -> SamplingSettings:
    return SamplingSettings(num_samples=num_samples, temperature=1.0, top_k=50, max_answer_tokens=MAX_ANSWER_TOKENS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ref")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--questions", type=int, default=8)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--alone", type=int, default=24)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    engine = open_chat(options.ref).engine
    if options.random:
        engine.model.init_weights(0)
        engine = Engine(engine.model, engine.tokenizer)
    questions = [Question("arithmetic", *one) for one in sums("train", count=options.questions, seed=0)]
    alone = min(options.alone, options.questions * options.samples)
    rounds: dict[str, list[Timed]] = {"batched": [], "one_at_a_time": []}
    for _ in range(ROUNDS):
        rounds["batched"].append(timed(lambda: batched(engine, questions, options.samples)))
        rounds["one_at_a_time"].append(timed(lambda: one_at_a_time(engine, questions, options.samples, alone)))
    result: dict[str, object] = {
        "machine": describe().record(), "threads": options.threads, "questions": options.questions,
        "samples_per_question": options.samples, "max_rows": MAX_ROWS,
    }  # fmt: skip
    for clock in ("wall_s", "cpu_s"):
        speeds = {
            name: statistics.median(one["tokens"] / one[clock] for one in found) for name, found in rounds.items()
        }
        result[clock.replace("_s", "")] = {
            **{f"{name}_tokens_per_s": speed for name, speed in speeds.items()},
            "batched_over_one_at_a_time": speeds["batched"] / speeds["one_at_a_time"],
        }
    print(json.dumps({**result, "rounds": rounds}, indent=1))


if __name__ == "__main__":
    main()
