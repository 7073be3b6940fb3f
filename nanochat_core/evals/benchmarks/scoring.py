"""From marks to scores: accuracy with its standard error and interval, pass@k, the centred accuracy, ChatCORE.

ChatCORE is nanochat's: the mean over benchmarks of (accuracy - baseline) / (1 - baseline), so guessing gives 0 and
perfection 1. pass@k is the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, section 2.1).
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from nanochat_core.base.intervals import wilson_interval
from nanochat_core.evals.benchmarks.protocol import Benchmark

Marks = Sequence[Sequence[bool]]  # per item, per sample
Scores = dict[str, Any]


def score(benchmark: Benchmark, marks: Marks, *, num_too_long: int, is_limited: bool) -> Scores:
    """What benchmarks.json says of one benchmark."""
    num_asked = sum(len(samples) for samples in marks)
    accuracy = statistics.fmean(mean_of(samples) for samples in marks)
    error = standard_error(marks)
    return {
        "title": benchmark.title,
        "kind": benchmark.kind,
        "accuracy": accuracy,
        "standard_error": error,
        "interval_95": list(wilson_interval(accuracy, len(marks))),
        "baseline": benchmark.baseline,
        "centered": centered(accuracy, benchmark.baseline),
        "num_right": sum(sum(samples) for samples in marks),
        "num_asked": num_asked,
        "num_too_long": num_too_long,
        "pass_at_k": pass_at_ks(marks) if benchmark.kind == "generate" and num_asked > len(marks) else None,
        "is_limited": is_limited,
    }


def mean_of(samples: Sequence[bool]) -> float:
    return sum(samples) / len(samples)


def standard_error(marks: Marks) -> float:
    """Of the accuracy over items: samples of one item are no independent draws, so the items' means are what varies."""
    means = [mean_of(samples) for samples in marks]
    return statistics.pstdev(means) / math.sqrt(len(means))


def pass_at_ks(marks: Marks) -> dict[str, float]:
    """pass@k for k = 1, 2, 4, ... and all samples, averaged over items."""
    most = min(len(samples) for samples in marks)
    ks = sorted({*(1 << i for i in range(most.bit_length())), most})
    return {str(k): statistics.fmean(pass_at_k(len(s), sum(s), k) for s in marks) for k in ks}


def pass_at_k(num_samples: int, num_right: int, k: int) -> float:
    """The chance that one of k answers, drawn from the samples without replacement, is right."""
    return 1.0 - math.comb(num_samples - num_right, k) / math.comb(num_samples, k)


def centered(accuracy: float, baseline: float) -> float:
    return (accuracy - baseline) / (1.0 - baseline)


def chat_core(scores: Mapping[str, Scores]) -> tuple[float, float] | tuple[None, None]:
    """ChatCORE over the benchmarks that were run, and its standard error; None where none was."""
    if not scores:
        return None, None
    errors = [score["standard_error"] / (1.0 - score["baseline"]) for score in scores.values()]
    value = statistics.fmean(score["centered"] for score in scores.values())
    return value, math.sqrt(sum(error**2 for error in errors)) / len(errors)
