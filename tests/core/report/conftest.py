"""Artifacts of a small run, written by hand: what the steps before the report leave in their folders."""

import hashlib
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.report.figures import draw_figures

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


def core_json() -> dict[str, Any]:
    """CORE over three benchmarks, one of which GPT-2 has a published score in, and one that no bundle has."""
    chosen = {"piqa": (0.72, 50, 1838, "commonsense reasoning"), "jeopardy": (0.05, 0, 2117, "world knowledge"),
              f"own_{HOSTILE}": (0.2, 25, 100, f"own {HOSTILE}")}  # fmt: skip
    benchmarks = {}
    for label, (accuracy, baseline, num_items, category) in chosen.items():
        error = math.sqrt(accuracy * (1 - accuracy) / num_items)
        benchmarks[label] = {
            "accuracy": accuracy, "standard_error": error, "baseline_percent": baseline, "num_items": num_items,
            "interval_95": [accuracy - 1.96 * error, accuracy + 1.96 * error], "num_fewshot": 10,
            "centered": (accuracy - baseline / 100) / (1 - baseline / 100), "type": "x", "category": category,
        }  # fmt: skip
    core = sum(score["centered"] for score in benchmarks.values()) / len(benchmarks)
    return {
        "core": core, "standard_error": 0.01, "interval_95": [core - 0.02, core + 0.02], "num_items": 4055,
        "max_per_benchmark": None, "is_complete": True, "missing": [], "bundle_digest": "5a" * 32,
        "benchmarks": benchmarks,
    }  # fmt: skip


def benchmarks_json(right: int) -> dict[str, Any]:
    """Two chat benchmarks: one with chance and no samples, one generative with pass@8."""
    scores = {
        name: {
            "title": f"{name} {HOSTILE}", "kind": kind, "accuracy": right / 100, "standard_error": 0.04,
            "interval_95": [max(0, right / 100 - 0.08), right / 100 + 0.08], "baseline": baseline, "num_right": right,
            "centered": (right / 100 - baseline) / (1 - baseline), "num_asked": 100, "num_too_long": 2,
            "pass_at_k": {"1": right / 100, "8": 0.875} if kind == "generate" else None, "is_limited": True,
        }
        for name, kind, baseline in (("mmlu", "choice", 0.25), ("gsm8k", "generate", 0.0))
    }  # fmt: skip
    mean = sum(score["centered"] for score in scores.values()) / 2
    return {"chat_core": mean, "chat_core_standard_error": 0.02, "benchmarks": scores}


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


@pytest.fixture(scope="session")
def draw_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Path], Path], None]:
    """Draws the report of some inputs into a folder; the same inputs again are a copy, since drawing takes a second."""
    known: dict[str, Path] = {}

    def drawn(folders: dict[str, Path], out: Path) -> None:
        contents = [
            (step, path.name, path.read_bytes())
            for step, folder in folders.items()
            for path in sorted(folder.rglob("*.*"))
        ]
        key = hashlib.sha256(repr(contents).encode()).hexdigest()
        if key not in known:
            known[key] = tmp_path_factory.mktemp("drawn")
            draw_figures(folders, known[key])
        shutil.copytree(known[key], out, dirs_exist_ok=True)

    return drawn


@pytest.fixture
def more_folders(folders: dict[str, Path]) -> dict[str, Path]:
    """The inputs of a run that also measured CORE and asked chat benchmarks of two stages."""
    made = {name: folders["sft"].with_name(name) for name in ("evaluate_core", "benchmark_base", "benchmark_chat")}
    _write(made["evaluate_core"] / "core.json", core_json())
    for step, right in (("benchmark_base", 26), ("benchmark_chat", 61)):
        _write(made[step] / "benchmarks.json", benchmarks_json(right))
        _write(made[step] / "outcomes.jsonl", tuple(
            {"benchmark": name, "id": str(number), "sample": 0, "question": f"{step} {HOSTILE}", "expected": "B",
             "answer": f"A {HOSTILE}" * 50, "is_right": number > 0}
            for name in ("mmlu", "gsm8k") for number in range(2)
        ))  # fmt: skip
    return folders | made


@pytest.fixture
def plan() -> RunPlan:
    return plan_run(load_config("tiny", ["sft.epochs=2"]))


# a clock of the ranks' own, which says more seconds than the step took
TRY = {"world_size": 1, "started_at_s": 0.0, "ended_at_s": 100.0, "queue_s": 0.0,
       "buckets": {"start": 0.0, "train": 96.0, "evaluate": 4.0}}  # fmt: skip
METRICS: dict[str, dict[str, Any]] = {
    "corpus": {"train_docs": 12_345, "train_bytes": 9_876_543},
    "tokenizer": {"vocab_size": 2048, "bytes_per_token": 3.31},
    "tokens": {"train_tokens": 3_400_000, "train_rows": 13_000},
    "pretrain": {
        "num_steps": 416,
        "bits_per_byte": 1.93,
        "device": "cpu",
        "dtype": "bfloat16",
        "train_s": 79.0,
        "tries": [TRY],
    },
    "evaluate_base": {"bits_per_byte": 1.9},
    "conversations": {"conversations": 17_000, "rows": 3_000},
    "sft": {"num_steps": 230, "bits_per_byte": 0.5, "tries": [TRY]},
    "evaluate_chat": {"bits_per_byte": 2.1, "benchmarks": BENCHMARKS},
    "report": {"num_figures": 8, "samples": [{"prompt": "What is 37 + 58?", "answer": "[37 + 58 = 95] 95 | <b>"}]},
}


MORE_METRICS: dict[str, dict[str, Any]] = {
    "core_prompts": {},
    "evaluate_core": {
        "core": 0.24, "core_standard_error": 0.005, "num_benchmarks": 22, "num_items": 4055, "is_complete": True,
        "max_per_benchmark": None, "benchmarks": {"piqa": {"accuracy": 0.72, "centered": 0.44}},
    },
    **{
        step: {
            "chat_core": score, "chat_core_standard_error": 0.02,
            "benchmarks": {"mmlu": {"accuracy": score, "standard_error": 0.04, "num_right": 1, "num_asked": 100}},
        }
        for step, score in (("benchmark_base", 0.26), ("benchmark_chat", 0.61))
    },
    "a_step_of_tomorrow": {},
}  # fmt: skip


@pytest.fixture
def more_refs(ref: Callable[..., Ref], refs: list[Ref]) -> list[Ref]:
    """The refs of such a run, and of a step that this version does not know."""
    return [*refs[:-1], *(ref(step, metrics=metrics) for step, metrics in MORE_METRICS.items()), refs[-1]]


@pytest.fixture
def ref() -> Callable[..., Ref]:
    def make(step: str, **changes: Any) -> Ref:
        fields: dict[str, Any] = {"fingerprint": "ab" * 32, "digest": "d", "content": "c", "seconds": 12.5}
        made = {"metrics": dict(METRICS.get(step, {})), "is_cached": step in ("corpus", "tokenizer")}
        return Ref(step=step, **(fields | made | changes))

    return make


@pytest.fixture
def refs(ref: Callable[..., Ref]) -> list[Ref]:
    return [ref(step) for step in METRICS]
