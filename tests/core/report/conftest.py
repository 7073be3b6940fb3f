"""Artifacts of a small run, written by hand: what the steps before the report leave in their folders."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config

HOSTILE = "<script>alert('x')</script> & \"quotes\""
BENCHMARKS = {
    "arithmetic": {"accuracy": 0.97, "standard_error": 0.017, "num_right": 97, "num_asked": 100},
    "spelling": {"accuracy": 0.42, "standard_error": 0.049, "num_right": 42, "num_asked": 100},
}


def _write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = value if isinstance(value, tuple) else (value,)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _log(num_steps: int, *, every: int, start: float, end: float) -> tuple[dict[str, Any], ...]:
    records: list[dict[str, Any]] = [{"event": "start", "step": 0, "num_steps": num_steps, "world_size": 1}]
    for step in range(1, num_steps + 1):
        wobble = math.sin(step * 12.9898) * 43758.5453 % 1 - 0.5
        loss = end + (start - end) * math.exp(-6 * step / num_steps) + 0.25 * wobble
        step_ms = (900.0 if step == 1 else 190.0) + 12 * wobble
        records.append(
            {
                "event": "step", "step": step, "loss": loss, "smooth_loss": loss - 0.2 * wobble, "lr_multiplier": 1.0,
                "step_ms": step_ms, "tokens_per_s": 8192e3 / step_ms, "tokens": step * 8192, "train_s": step * 0.19,
                "memory_gib": 1.21,
            }
        )  # fmt: skip
        if step % every == 0 or step == num_steps:
            bpb = loss / 2.2 - 0.11 * wobble
            records.append(
                {"event": "validate", "step": step, "bits_per_byte": bpb, "validation_loss": loss, "validate_s": 0.5}
            )
    return (*records, {"event": "end", "step": num_steps, "train_s": num_steps * 0.19})


def _outcomes() -> tuple[dict[str, Any], ...]:
    return tuple(
        {
            "benchmark": name, "question": f"{name} {number}? {HOSTILE}", "expected": str(number),
            "answer": f"The answer is {number if is_right else HOSTILE}.", "is_right": is_right, "used_tool": True,
        }
        for name, score in BENCHMARKS.items()
        for number in range(score["num_asked"])
        for is_right in [number >= score["num_asked"] - score["num_right"]]
    )  # fmt: skip


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    """The inputs of the report step."""
    names = ("tokenizer", "pretrain", "evaluate_base", "sft", "evaluate_chat")
    made = {name: tmp_path / "artifacts" / name for name in names}
    bpb = {"bits_per_byte": 1.9, "nats_per_token": 4.0, "num_bytes": 1000, "num_tokens": 330}
    _write(made["tokenizer"] / "domains.json", {"validation text": 3.3, "English": 3.1, "emoji": 1.2})
    _write(made["pretrain"] / "log/metrics.jsonl", _log(416, every=100, start=7.6, end=4.1))
    _write(made["sft"] / "log/metrics.jsonl", _log(230, every=200, start=4.0, end=0.6))
    _write(made["evaluate_base"] / "bpb.json", bpb)
    _write(made["evaluate_base"] / "samples.json", [
        {"prompt": "The capital of France is", "answer": " the same as the\nfirst argument.", "temperature": 0.0},
        {"prompt": "import os\n", "answer": f"import sys {HOSTILE}", "temperature": 0.8},
    ])  # fmt: skip
    _write(made["evaluate_chat"] / "bpb.json", bpb | {"bits_per_byte": 2.1})
    _write(made["evaluate_chat"] / "samples.json", [
        {"prompt": "Who are you?", "answer": "I am a small language model.", "temperature": 0.0},
        {"prompt": "What is 37 + 58?", "answer": "[37 + 58 = 95] The answer is 95.", "temperature": 0.0},
        {"prompt": HOSTILE, "answer": HOSTILE, "temperature": 0.0},
    ])  # fmt: skip
    _write(made["evaluate_chat"] / "outcomes.jsonl", _outcomes())
    return made


@pytest.fixture
def plan() -> RunPlan:
    return plan_run(load_config("tiny", ["sft.epochs=2"]))


METRICS: dict[str, dict[str, Any]] = {
    "corpus": {"train_docs": 12_345, "train_bytes": 9_876_543},
    "tokenizer": {"vocab_size": 2048, "bytes_per_token": 3.31},
    "tokens": {"train_tokens": 3_400_000, "train_rows": 13_000},
    "pretrain": {"num_steps": 416, "bits_per_byte": 1.93, "device": "cpu", "dtype": "bfloat16", "train_s": 79.0},
    "evaluate_base": {"bits_per_byte": 1.9},
    "conversations": {"conversations": 17_000, "rows": 3_000},
    "sft": {"num_steps": 230, "bits_per_byte": 0.5},
    "evaluate_chat": {"bits_per_byte": 2.1, "benchmarks": BENCHMARKS},
    "report": {"num_figures": 8, "samples": [{"prompt": "What is 37 + 58?", "answer": "[37 + 58 = 95] 95 | <b>"}]},
}


@pytest.fixture
def ref() -> Callable[..., Ref]:
    def make(step: str, **changes: Any) -> Ref:
        fields: dict[str, Any] = {"fingerprint": "ab" * 32, "digest": "d", "content": "c", "seconds": 12.5}
        made = {"metrics": dict(METRICS[step]), "is_cached": step in ("corpus", "tokenizer")}
        return Ref(step=step, **(fields | made | changes))

    return make


@pytest.fixture
def refs(ref: Callable[..., Ref]) -> list[Ref]:
    return [ref(step) for step in METRICS]
