"""A training's numbers and charts: loss, held-out bits per byte against tokens and against time, and speed.

From metrics.jsonl alone. Where a curve would be a single point there is none: the loss chart has it as a dot.
"""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nanochat_core.base.records import read_records
from nanochat_core.base.units import count, duration
from nanochat_core.report.canvas import SERIES_A, SERIES_B, SERIES_C, Chart, label_end, name_axes

RECORDS_FILE = "log/metrics.jsonl"
MAX_POINTS = 600  # of a line: more than a screen shows only makes the page heavy
SMOOTHING_FRAC = 0.02  # of the run, on either side of a point
RECENT_STEPS = 100
FARTHEST = 3.0  # medians: a step beyond is drawn at the edge, or one stall would flatten the rest
MARKED_VALIDATIONS = 40  # up to so many are dots on their line
NUMBERED_VALIDATIONS = 4  # up to so few each says its value
MEASURED = ("step", "validation_loss", "bits_per_byte")  # of a validation's record, which says when it was as well
NAMES = {"pretrain": "Pretraining", "sft": "Fine-tuning", "rl": "Reinforcement learning"}
TIME_UNITS = ((2 * 3600, 3600, "hours"), (120, 60, "minutes"), (0, 1, "seconds"))  # from, seconds per unit, name


@dataclass(frozen=True)
class TrainingLog:
    """The records of one training that figures are made of."""

    records: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    validations: list[dict[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> "TrainingLog":
        records = read_records(folder / RECORDS_FILE)
        steps = [record for record in records if record["event"] == "step" and "loss" in record]
        return cls(records, steps, [r for r in records if r["event"] == "validate" and "bits_per_byte" in r])

    def column(self, name: str) -> np.ndarray:
        return np.array([record[name] for record in self.steps], dtype=np.float64)

    @property
    def tokens_per_step(self) -> float:
        return float(self.steps[-1]["tokens"] / self.steps[-1]["step"])

    def validation_s(self) -> list[float]:
        """Seconds in training steps at each validation; those records may lack it, and then the steps have it."""
        at_step = {record["step"]: record["train_s"] for record in self.steps}
        known = sorted(at_step)
        return [
            float(r["train_s"] if "train_s" in r else np.interp(r["step"], known, [at_step[step] for step in known]))
            for r in self.validations
        ]


def training_numbers(log: TrainingLog) -> dict[str, Any]:
    """What report.json says of a training: the same wherever and however often it is made."""
    if not log.steps:
        return {"num_records": 0}
    last = log.steps[-1]
    validation = (
        {name: log.validations[-1][name] for name in MEASURED if name in log.validations[-1]}
        if log.validations
        else None
    )
    return {
        "num_records": len(log.steps) + len(log.validations),
        "num_steps": last["step"],
        "num_tokens": last["tokens"],
        "smooth_loss": last["smooth_loss"],
        "validation": validation,
    }


def training_times(log: TrainingLog) -> dict[str, Any]:
    """What times.json says of a training: how fast it was and how much memory it took, which is the machine's."""
    if not log.steps:
        return {}
    recent = log.steps[-RECENT_STEPS:]
    return {
        "train_s": log.steps[-1]["train_s"],
        "step_ms": statistics.median(record["step_ms"] for record in recent),
        "tokens_per_s": statistics.median(record["tokens_per_s"] for record in recent),
        "peak_memory_gib": max(record["memory_gib"] for record in log.steps),
    }


def training_charts(step: str, log: TrainingLog) -> list[Chart]:
    """Loss and held-out curves."""
    if not log.steps:
        return []
    loss = [record["smooth_loss"] for record in log.steps]
    about = f"falls from {loss[0]:.2f} to {loss[-1]:.2f} nats over {count(log.steps[-1]['tokens'])} tokens"
    curves = _validation_charts(step, log) if len(log.validations) > 1 else []
    return [*curves, Chart(f"{step}_loss", step, f"{NAMES[step]} loss", about, lambda axes: _draw_loss(axes, log))]


def _validation_charts(step: str, log: TrainingLog) -> list[Chart]:
    first, last = (log.validations[place]["bits_per_byte"] for place in (0, -1))
    about = f"{len(log.validations)} validations, from {first:.3f} to {last:.3f}"
    title = f"{NAMES[step]}: bits per byte on held-out {'text' if step == 'pretrain' else 'conversations'}"
    tokens = [record["step"] * log.tokens_per_step for record in log.validations]
    charts = [Chart(f"{step}_bpb", step, title, about, lambda axes: _draw_validation(axes, log, tokens, x="tokens"))]
    if step != "pretrain":
        return charts
    spent_s = log.validation_s()
    unit_s, unit = next((size, name) for least, size, name in TIME_UNITS if spent_s[-1] >= least)
    times = [seconds / unit_s for seconds in spent_s]
    title, about = f"{NAMES[step]}: the same against training time", f"{about} in {duration(spent_s[-1])}"
    x = f"{unit} in training steps"
    return [
        *charts,
        Chart(
            f"{step}_bpb_time", step, title, about, lambda axes: _draw_validation(axes, log, times, x=x), is_timed=True
        ),
    ]


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


def _draw_validation(axes: Axes, log: TrainingLog, places: list[float], *, x: str) -> None:
    values = [record["bits_per_byte"] for record in log.validations]
    size = 4.5 if len(values) < MARKED_VALIDATIONS else 0
    axes.plot(places, values, color=SERIES_B, linewidth=2.0, marker="o", markersize=size)
    axes.margins(y=0.16)
    name_axes(axes, x=x, y="bits per byte", x_end=places[-1])
    label_end(axes, f"{values[-1]:.3f}", at=(places[-1], values[-1]), colour=SERIES_B)
    if len(values) <= NUMBERED_VALIDATIONS:
        _number_points(axes, places, values)


def _number_points(axes: Axes, places: list[float], values: list[float]) -> None:
    """Each value above its point; not those that stand under the label of the last one."""
    clear = 0.86 * places[-1]
    for place, value in zip(places[:-1], values[:-1], strict=True):
        if place < clear:
            axes.annotate(f"{value:.3f}", (place, value), xytext=(0, 7), textcoords="offset points", ha="center",
                          color=SERIES_B, annotation_clip=False)  # fmt: skip


def speed_charts(log: TrainingLog) -> list[Chart]:
    """Step time and throughput of the pretraining."""
    if not log.steps:
        return []
    step_ms, tokens_per_s = log.column("step_ms"), log.column("tokens_per_s")
    return [
        Chart("step_time", "pretrain", "Time per pretraining step", f"median {np.median(step_ms):.0f} ms",
              lambda axes: _draw_speed(axes, log, step_ms, y="ms; line: median"), is_timed=True),
        Chart("throughput", "pretrain", "Pretraining throughput",
              f"median {count(round(float(np.median(tokens_per_s))))} tokens per second",
              lambda axes: _draw_speed(axes, log, tokens_per_s, y="tokens per second; line: median"), is_timed=True),
    ]  # fmt: skip


def _draw_speed(axes: Axes, log: TrainingLog, values: np.ndarray, *, y: str) -> None:
    """From zero, so that a wobble looks as small as it is; what is far off sits on the upper edge."""
    x, raw = _thinned(log.column("step"), values)
    middle = float(np.median(values))
    top = min(max(float(np.quantile(values, 0.98)) * 1.15, middle * 1.35), middle * FARTHEST)
    num_beyond = int((values > top).sum())
    beyond = f" ({num_beyond} step{'s' if num_beyond > 1 else ''} beyond the edge)" if num_beyond else ""
    axes.scatter(x, np.minimum(raw, top), color=SERIES_C, s=7, alpha=0.55, linewidths=0, clip_on=False)
    axes.plot([0, x[-1]], [middle, middle], color=SERIES_C, linewidth=1.6)
    axes.set_ylim(0, top)
    name_axes(axes, x="step", y=y + beyond, x_end=x[-1])
    label_end(axes, count(round(middle)), at=(x[-1], middle), colour=SERIES_C)


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
