"""CORE items per second: prompts written once and prefixes shared, against one item at a time (reference_core.py).

    .venv/bin/python benchmarks/core_eval.py --data FOLDER [--limit 100] [--model REF|random] [--threads 2]

Both sides see the same model, items and threads, benchmark by benchmark in turn; the writing of the prompts counts as
ours. Prints JSON: items/s per benchmark and in total, by the clock and by CPU time (which other processes on the
machine disturb less), and how many answers differ.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import reference_core
import torch

from nanochat_core.base.hardware import describe, pick_device, pick_dtype
from nanochat_core.cli.chat import open_chat
from nanochat_core.data import documentation
from nanochat_core.evals.core.bundle import Bundle
from nanochat_core.evals.core.bundle_source import open_bundle
from nanochat_core.evals.core.prompts import BenchmarkPrompts, Prompts, write_prompts
from nanochat_core.evals.core.scoring import GPTScorer, Score
from nanochat_core.model.gpt import GPT
from nanochat_core.model.host_memory import keep_freed_memory
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.tokenizer import Tokenizer

Seconds = tuple[float, float]


def open_model(ref: str, device: str) -> tuple[GPT, Tokenizer]:
    """A model of the store, or random weights at the shape of `tiny` with a vocabulary of the embedded corpus."""
    if ref != "random":
        engine = open_chat(ref, device=device).engine
        return engine.model, engine.tokenizer
    config = plan_run(load_config("tiny")).pretrain.model
    texts = documentation.documents()
    tokenizer = train_tokenizer(texts, vocab_size=config.vocab_size, max_train_bytes=1 << 23, max_doc_bytes=10_000)
    model = GPT(config)
    model.init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # nothing may be switched off by a zero
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.to(pick_device(device)), tokenizer


def timed(call: Callable[[], Any]) -> tuple[Any, Seconds]:
    """What `call` returns, and its (wall, CPU) seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return value, (time.perf_counter() - wall, time.process_time() - cpu)


def num_differing(scores: list[Score], answers: list[dict[str, Any]], items: list[dict[str, Any]]) -> int:
    """Items with another choice or another verdict."""
    count = 0
    for score, answer, item in zip(scores, answers, items, strict=True):
        is_right = score.is_greedy[0] if "gold" not in item else score.chosen == item["gold"]
        count += score.chosen != answer["chosen"] or is_right != answer["is_right"]
    return count


def added(parts: list[Seconds]) -> Seconds:
    return sum(wall for wall, _ in parts), sum(cpu for _, cpu in parts)


def rates(num_items: int, fast: Seconds, slow: Seconds) -> dict[str, float]:
    """Items per second of both sides, and how many times faster ours is."""
    values = {
        "items_per_s": num_items / fast[0],
        "reference_items_per_s": num_items / slow[0],
        "times_faster": slow[0] / fast[0],
        "times_less_cpu": slow[1] / fast[1],
    }
    return {name: round(value, 2) for name, value in values.items()}


class Comparison:
    """Both sides on the benchmarks of a bundle."""

    def __init__(self, model: GPT, tokenizer: Tokenizer, *, limit: int | None, batch_tokens: int) -> None:
        self.model, self.tokenizer, self.limit = model, tokenizer, limit
        self.scorer = GPTScorer(model, batch_tokens=batch_tokens)

    def run(self, data: str, folder: Path) -> dict[str, Any]:
        """Everything; `folder` takes the prompts."""
        bundle = open_bundle(data, folder)
        _, write_s = timed(lambda: self._write(bundle, folder / "prompts"))
        prompts = Prompts(folder / "prompts")
        tasks = {task["label"]: task for task in reference_core.read_tasks(bundle.root)}
        fast, slow, result = [write_s], [], {}
        for entry in prompts.benchmarks:
            label = entry.benchmark.label
            ours, theirs, differing = self._one(prompts, entry, bundle.root, tasks[label])
            result[label] = {"num_items": entry.num_items, **rates(entry.num_items, ours, theirs)}
            result[label]["num_differing"] = differing
            print(label, result[label], file=sys.stderr, flush=True)
            fast.append(ours)
            slow.append(theirs)
        total: dict[str, Any] = {"num_items": prompts.num_items, **rates(prompts.num_items, added(fast), added(slow))}
        total["num_differing"] = sum(entry["num_differing"] for entry in result.values())
        return {"total": total, "write_prompts_s": round(write_s[0], 2), "benchmarks": result}

    def _write(self, bundle: Bundle, out: Path) -> None:
        write_prompts(bundle, self.tokenizer, out, max_per_benchmark=self.limit, progress=lambda done, total: None)

    def _one(
        self, prompts: Prompts, entry: BenchmarkPrompts, root: Path, task: dict[str, Any]
    ) -> tuple[Seconds, Seconds, int]:
        """Seconds of ours, seconds of the reference, differing answers."""
        items = reference_core.read_task(root, task, self.limit)

        def ours(last: int) -> list[Score]:
            numbers = range(entry.first, entry.first + last)
            return self.scorer.score([prompts.prompt(number) for number in numbers], lambda done: None)

        def theirs(last: int) -> list[dict[str, Any]]:
            return [reference_core.score_item(self.model, self.tokenizer, task, items, i) for i in range(last)]

        ours(1), theirs(1)  # what is made on first use (cast weights, masks, threads) belongs to neither side
        scores, fast = timed(lambda: ours(len(items)))
        answers, slow = timed(lambda: theirs(len(items)))
        return fast, slow, num_differing(scores, answers, items)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="a folder or a zip in the published layout")
    parser.add_argument("--limit", type=int, default=100, help="items of each benchmark; 0: all")
    parser.add_argument("--model", default="random", help="a ref of the store, or: random")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="fp32", choices=["fp32", "bf16"], help="answers are only equal in fp32")
    parser.add_argument("--batch-tokens", type=int, default=16_384)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    model, tokenizer = open_model(options.model, options.device)
    model.compute_dtype = pick_dtype(options.dtype, model.device)
    head = {"machine": describe().record(), "threads": options.threads, "dtype": options.dtype, "model": options.model}
    both = Comparison(model, tokenizer, limit=options.limit or None, batch_tokens=options.batch_tokens)
    with tempfile.TemporaryDirectory() as folder:
        found = both.run(options.data, Path(folder))
    print(json.dumps({**head, **found}, indent=1))


if __name__ == "__main__":
    main()
