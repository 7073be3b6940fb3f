"""A step's result in a few words, from its metrics: what a run's last column and the report's list of steps say.

Apart from the table of steps, which says what there is; every function takes the metrics and returns one phrase.
"""

from typing import Any

from nanochat_core.base.units import count
from nanochat_core.bounds import BENCHMARKS

Metrics = dict[str, Any]


def corpus(metrics: Metrics) -> str:
    text = f"{count(metrics['train_docs'])} documents, {count(metrics['train_bytes'])}B of text"
    num = len(metrics.get("left_out", []))
    return f"{text}; {num:,} file{'s' if num > 1 else ''} left out" if num else text


def tokens(metrics: Metrics) -> str:
    num, kept = metrics["train_tokens"], metrics.get("train_kept_tokens", metrics["train_tokens"])
    dropped = f", {1 - kept / num:.0%} dropped" if kept < 0.995 * num else ""
    return f"{count(num)} tokens in {metrics['train_rows']:,} rows{dropped}"


def bpb(metrics: Metrics) -> str:
    return f"{metrics['bits_per_byte']:.4f} bits per byte of held-out text"


def training(metrics: Metrics) -> str:
    """Not the evaluation's figure: a training looks at less of the held-out text, fine-tuning at answers only."""
    return f"{metrics['num_steps']:,} steps, validation bpb {metrics['bits_per_byte']:.4f}"


def reward(metrics: Metrics) -> str:
    before, after = metrics["held_out_reward_before"], metrics["held_out_reward"]
    return f"{metrics['num_steps']:,} steps, held-out reward {before:.0%} -> {after:.0%}"


def chat_scores(metrics: Metrics) -> str:
    parts = [f"{name} {score['accuracy']:.0%}" for name, score in metrics.get("benchmarks", {}).items()]
    return ", ".join(parts) or bpb(metrics)


def core(metrics: Metrics) -> str:
    score = f"CORE {metrics['core']:.4f} ± {metrics['core_standard_error']:.4f}"
    whole = metrics["is_complete"] and metrics["max_per_benchmark"] is None
    return score if whole else f"{score} (of {metrics['num_items']:,} items in {metrics['num_benchmarks']} benchmarks)"


def chat_core(metrics: Metrics) -> str:
    score, marks = metrics["chat_core"], metrics["benchmarks"]
    whole = set(marks) == set(BENCHMARKS)
    parts = [] if score is None else [f"{'ChatCORE' if whole else f'mean centred of {len(marks)}'} {score:.4f}"]
    limited = [" (limited)"] if any(mark.get("is_limited") for mark in marks.values()) else []
    return ", ".join([*parts, *(f"{name} {mark['accuracy']:.0%}" for name, mark in marks.items())]) + "".join(limited)
