"""The table of chat benchmarks, how `benchmarks.names` chooses from it, and the items of a run in a folder.

Items are rendered once, into items.jsonl (with prepared.json saying how many and where from), so that all models see
the same words. Which items a limited look draws depends on the seed alone, so models that are compared answer the same.
"""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.config import BenchmarksConfig
from nanochat_core.evals.benchmarks import arc, gsm8k, humaneval, mmlu, spelling_bee
from nanochat_core.evals.benchmarks.protocol import EVERY_NAME, ITEMS_NAME, PREPARED_NAME, Benchmark, Item, item_line
from nanochat_core.evals.benchmarks.sources import open_source

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        arc.EASY,
        arc.CHALLENGE,
        mmlu.BENCHMARK,
        gsm8k.BENCHMARK,
        humaneval.BENCHMARK,
        spelling_bee.BENCHMARK,
    )
}


def chosen(names: str) -> list[Benchmark]:
    """The benchmarks of a list like "mmlu,gsm8k", in that order."""
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not wanted:
        raise ConfigError("benchmarks.names names no benchmark", hint=f"there are {', '.join(BENCHMARKS)}")
    return [find(name) for name in wanted]


def find(name: str) -> Benchmark:
    """The benchmark of a name."""
    if name not in BENCHMARKS:
        raise ConfigError(f"there is no benchmark {name!r}", hint=f"there are {', '.join(BENCHMARKS)}")
    return BENCHMARKS[name]


def write_items(config: BenchmarksConfig, out: Path, *, seed: int) -> dict[str, Any]:
    """Write the items of all chosen benchmarks; returns how many there are of each and where they are from."""
    source = open_source(config.source, config.path)
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, dict[str, Any]] = {}
    with (
        (out / ITEMS_NAME).open("w", encoding="utf-8") as asked,
        (out / EVERY_NAME).open("w", encoding="utf-8") as every,
    ):
        for benchmark in chosen(config.names):
            available = benchmark.read(source, "test")
            drawn = _draw(benchmark, available, config.max_per_benchmark, seed=seed)
            counts[benchmark.name] = {
                "num_items": len(drawn),
                "num_available": len(available),
                "is_limited": len(drawn) < len(available),
            }
            for number, item in enumerate(available):  # once: a split may be large, or generated
                line = item_line(item)
                every.write(line)
                if number in drawn:
                    asked.write(line)
    metrics = {"benchmarks": counts, "origins": dict(sorted(source.origins.items()))}
    (out / PREPARED_NAME).write_text(json.dumps(metrics, indent=1))
    return {"num_items": sum(count["num_items"] for count in counts.values()), **metrics}


def _draw(benchmark: Benchmark, items: Sequence[Item], most: int | None, *, seed: int) -> set[int]:
    if not items:
        raise MissingError(f"{benchmark.title} has no items", hint="its file is empty")
    if most is None or most >= len(items):
        return set(range(len(items)))
    return set(random.Random(f"{seed} {benchmark.name}").sample(range(len(items)), most))
