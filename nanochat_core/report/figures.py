"""The report's figures and numbers: the cached `report` step, made from the artifacts of the steps before it.

Nothing here knows the run's configuration or how long it took: the same artifacts give the same figures, byte for byte.
report.json holds what the page shows besides the figures. What an artifact lacks (the questions, when the conversations
are a user's own; a training log) is left out, and the page leaves it out as well.
"""

import json
import math
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nanochat_core.base.records import read_records
from nanochat_core.base.units import count
from nanochat_core.report.canvas import (
    HEIGHT_IN,
    SERIES_A,
    SERIES_B,
    SERIES_C,
    draw_bars,
    draw_chart,
    label_end,
    name_axes,
)

RECORDS_FILE = "log/metrics.jsonl"
MAX_POINTS = 600  # of a line: more than a screen shows only makes the page heavy
SMOOTHING_FRAC = 0.02  # of the run, on either side of a point
WRONG_ANSWERS = 3
SAMPLES_IN_METRICS = 3
RECENT_STEPS = 100
FARTHEST = 3.0  # medians: a step beyond is drawn at the edge, or one stall would flatten the rest
Scores = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class TrainingLog:
    """The records of one training that figures are made of."""

    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> "TrainingLog":
        records = read_records(folder / RECORDS_FILE)
        chosen = {event: [r for r in records if r["event"] == event] for event in ("step", "validate")}
        return cls(chosen["step"], chosen["validate"])

    def column(self, name: str) -> np.ndarray:
        return np.array([record[name] for record in self.steps], dtype=np.float64)

    @property
    def tokens_per_step(self) -> float:
        return float(self.steps[-1]["tokens"] / self.steps[-1]["step"])


@dataclass(frozen=True)
class Chart:
    """One figure and the words around it."""

    name: str
    section: str
    """Where on the page: pretrain, sft, benchmarks or tokenizer."""
    title: str
    draw: Callable[[Axes], None]
    height_in: float = HEIGHT_IN

    def record(self) -> dict[str, str]:
        return {"file": f"{self.name}.svg", "section": self.section, "title": self.title}


def draw_figures(inputs: Mapping[str, Path], out: Path) -> dict[str, Any]:
    """Fill `out` with the figures and report.json; returns the headline numbers."""
    pretrain, sft = TrainingLog.read(inputs["pretrain"]), TrainingLog.read(inputs["sft"])
    domains = _read_json(inputs["tokenizer"] / "domains.json", {})
    outcomes = _read_lines(inputs["evaluate_chat"] / "outcomes.jsonl")
    scores = _scores(outcomes)
    charts = [
        *_training_charts("pretrain", pretrain),
        *_speed_charts(pretrain),
        *_training_charts("sft", sft),
        *_benchmark_charts(scores),
        *_tokenizer_charts(domains),
    ]
    for chart in charts:
        draw_chart(out / f"{chart.name}.svg", chart.draw, height_in=chart.height_in)
    report = {
        "figures": [chart.record() for chart in charts],
        "pretrain": _training_numbers(pretrain),
        "sft": _training_numbers(sft),
        "base": _read_json(inputs["evaluate_base"] / "bpb.json", {}),
        "chat": _read_json(inputs["evaluate_chat"] / "bpb.json", {}),
        "base_samples": _read_json(inputs["evaluate_base"] / "samples.json", []),
        "chat_samples": _read_json(inputs["evaluate_chat"] / "samples.json", []),
        "benchmarks": scores,
        "wrong_answers": _wrong_answers(outcomes),
        "domains": domains,
    }
    (out / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    return {"num_figures": len(charts), **_headline(report)}


def _headline(report: dict[str, Any]) -> dict[str, Any]:
    """Few numbers and answers that travel with the ref, so that a summary needs no file."""
    samples = [{name: sample[name] for name in ("prompt", "answer")} for sample in report["chat_samples"]]
    numbers = {
        "base_bits_per_byte": report["base"].get("bits_per_byte"),
        "chat_bits_per_byte": report["chat"].get("bits_per_byte"),
        "tokens_per_s": report["pretrain"].get("tokens_per_s"),
        "peak_memory_gib": report["pretrain"].get("peak_memory_gib"),
    }
    known = {name: value for name, value in numbers.items() if value is not None}
    return known | {"samples": samples[:SAMPLES_IN_METRICS]}


def _read_json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else default


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return [json.loads(line) for line in lines if line]


# --- numbers ---


def _training_numbers(log: TrainingLog) -> dict[str, Any]:
    if not log.steps:
        return {"num_records": 0}
    last = log.steps[-1]
    recent = log.steps[-RECENT_STEPS:]
    return {
        "num_records": len(log.steps) + len(log.validations),
        "num_steps": last["step"],
        "num_tokens": last["tokens"],
        "train_s": last["train_s"],
        "smooth_loss": last["smooth_loss"],
        "step_ms": statistics.median(record["step_ms"] for record in recent),
        "tokens_per_s": statistics.median(record["tokens_per_s"] for record in recent),
        "peak_memory_gib": max(record["memory_gib"] for record in log.steps),
        "validation": log.validations[-1] if log.validations else None,
    }


def _scores(outcomes: list[dict[str, Any]]) -> Scores:
    # evals.questions has the same sums, but importing it would put the whole model into this step's fingerprint.
    result: Scores = {}
    for name in sorted({outcome["benchmark"] for outcome in outcomes}):
        marks = [bool(outcome["is_right"]) for outcome in outcomes if outcome["benchmark"] == name]
        accuracy = sum(marks) / len(marks)
        error = math.sqrt(accuracy * (1 - accuracy) / len(marks))
        result[name] = {"accuracy": accuracy, "standard_error": error, "num_right": sum(marks), "num_asked": len(marks)}
    return result


def _wrong_answers(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Examples, from as many benchmarks as possible: the first wrong one of each, then the second ones."""
    ranked: list[tuple[int, dict[str, Any]]] = []
    seen: dict[str, int] = {}
    for outcome in outcomes:
        if not outcome["is_right"]:
            rank = seen[outcome["benchmark"]] = seen.get(outcome["benchmark"], 0) + 1
            ranked.append((rank, outcome))
    return [outcome for _, outcome in sorted(ranked, key=lambda pair: pair[0])[:WRONG_ANSWERS]]


def smoothed(values: np.ndarray) -> np.ndarray:
    """Centred mean, which does not lag behind a fall as a running average does.

    The window shrinks on both sides at the start, where losses fall steeply, and is cut off at the end, where they are
    flat and a number is read off: the last value is a mean too.
    """
    half = max(2, round(len(values) * SMOOTHING_FRAC))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    first = places - np.minimum(half, places)
    after = np.minimum(places + np.minimum(half, places), len(values) - 1) + 1
    return (sums[after] - sums[first]) / (after - first)


def _thinned(*columns: np.ndarray) -> list[np.ndarray]:
    """At most about MAX_POINTS of each column, the last one among them."""
    size = len(columns[0])
    chosen = np.unique(np.linspace(0, size - 1, min(size, MAX_POINTS)).round().astype(int))
    return [column[chosen] for column in columns]


# --- charts ---


def _training_charts(step: str, log: TrainingLog) -> list[Chart]:
    what = {"pretrain": "Pretraining", "sft": "Fine-tuning"}[step]
    charts = []
    if log.steps:
        charts.append(Chart(f"{step}_loss", step, f"{what} loss", lambda axes: _draw_loss(axes, log)))
    if log.steps and len(log.validations) > 1:  # a single one is a dot in the loss chart
        title = f"{what}: bits per byte on held-out {'text' if step == 'pretrain' else 'conversations'}"
        charts.append(Chart(f"{step}_bpb", step, title, lambda axes: _draw_validation(axes, log)))
    return charts


def _draw_loss(axes: Axes, log: TrainingLog) -> None:
    """Each step pale, their mean strong, and the same loss on held-out rows as dots."""
    tokens, loss = log.column("tokens"), log.column("loss")
    x, raw, mean = _thinned(tokens, loss, smoothed(loss))
    axes.plot(x, raw, color=SERIES_A, alpha=0.35, linewidth=0.9)
    axes.plot(x, mean, color=SERIES_A, linewidth=2.0)
    held_out = [
        (r["step"] * log.tokens_per_step, r["validation_loss"]) for r in log.validations if "validation_loss" in r
    ]
    if held_out:
        axes.plot(*zip(*held_out, strict=True), color=SERIES_B, linestyle="", marker="o", markersize=4.5)
        axes.text(
            0.9, 0.9, "dots: held out", color=SERIES_B, ha="right", transform=axes.transAxes
        )  # losses leave it free
    name_axes(axes, x="tokens", y="loss, nats per token", x_end=tokens[-1])
    label_end(axes, f"{mean[-1]:.2f}", at=(x[-1], mean[-1]), colour=SERIES_A)


def _draw_validation(axes: Axes, log: TrainingLog) -> None:
    tokens = [record["step"] * log.tokens_per_step for record in log.validations]
    values = [record["bits_per_byte"] for record in log.validations]
    axes.plot(tokens, values, color=SERIES_B, linewidth=2.0, marker="o", markersize=4.5 if len(values) < 40 else 0)
    axes.margins(y=0.12)
    name_axes(axes, x="tokens", y="bits per byte", x_end=tokens[-1])
    label_end(axes, f"{values[-1]:.3f}", at=(tokens[-1], values[-1]), colour=SERIES_B)


def _speed_charts(log: TrainingLog) -> list[Chart]:
    if not log.steps:
        return []
    step_ms, tokens_per_s = log.column("step_ms"), log.column("tokens_per_s")
    return [
        Chart("step_time", "pretrain", "Time per pretraining step",
              lambda axes: _draw_speed(axes, log, step_ms, y="ms; line: median")),
        Chart("throughput", "pretrain", "Pretraining throughput",
              lambda axes: _draw_speed(axes, log, tokens_per_s, y="tokens per second; line: median")),
    ]  # fmt: skip


def _draw_speed(axes: Axes, log: TrainingLog, values: np.ndarray, *, y: str) -> None:
    """From zero, so that a wobble looks as small as it is; what is far off sits on the upper edge."""
    x, raw = _thinned(log.column("step"), values)
    middle = float(np.median(values))
    top = min(max(float(np.quantile(values, 0.98)) * 1.15, middle * 1.35), middle * FARTHEST)
    num_beyond = int((values > top).sum())
    axes.scatter(x, np.minimum(raw, top), color=SERIES_C, s=7, alpha=0.55, linewidths=0, clip_on=False)
    axes.plot([0, x[-1]], [middle, middle], color=SERIES_C, linewidth=1.6)
    axes.set_ylim(0, top)
    name_axes(axes, x="step", y=y + (f" ({num_beyond} steps beyond the edge)" if num_beyond else ""), x_end=x[-1])
    label_end(axes, count(round(middle)), at=(x[-1], middle), colour=SERIES_C)


def _benchmark_charts(scores: Scores) -> list[Chart]:
    if not scores:
        return []

    def draw(axes: Axes) -> None:
        ranked = sorted(scores.items(), key=lambda item: -item[1]["accuracy"])
        values = {name: 100 * score["accuracy"] for name, score in ranked}
        errors = [100 * score["standard_error"] for _, score in ranked]
        labels = [f"{value:.0f}%" for value in values.values()]
        draw_bars(axes, values, labels=labels, colour=SERIES_A, errors=errors)
        axes.set_xlim(0, 112)  # room for the label of a bar that reaches 100
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_xlabel("right answers, % (bars: one standard error)")

    title = "Right answers by benchmark"
    return [Chart("benchmarks", "benchmarks", title, draw, height_in=1.0 + 0.52 * len(scores))]


def _tokenizer_charts(domains: dict[str, float]) -> list[Chart]:
    if not domains:
        return []

    def draw(axes: Axes) -> None:
        draw_bars(axes, domains, labels=[f"{value:.2f}" for value in domains.values()], colour=SERIES_B)
        axes.set_xlim(0, max(domains.values()) * 1.15)
        axes.set_xlabel("bytes per token")

    title = "Bytes per token by kind of text"
    return [Chart("tokenizer", "tokenizer", title, draw, height_in=1.0 + 0.42 * len(domains))]
