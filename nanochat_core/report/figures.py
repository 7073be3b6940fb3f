"""The report's figures and numbers: the cached `report` step, made from the artifacts of the steps before it.

Nothing here knows the run's configuration. A run made again elsewhere ends with the same figures and report.json, byte
for byte, since what a machine's speed decides is kept apart, in the artifact's log: times.json, and the charts against
time. Both files hold what the page shows besides the figures. What an artifact lacks (the questions, when the
conversations are a user's own; a training log) is left out, and the page leaves it out as well; so are whole inputs
that a run does not have (CORE, chat benchmarks, reinforcement learning).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from nanochat_core.report.benchmark_figures import STAGES, chat_charts, counted_scores, question_charts, wrong_answers
from nanochat_core.report.canvas import SERIES_B, Chart, draw_bars, draw_chart
from nanochat_core.report.core_figures import core_charts
from nanochat_core.report.rl_figures import rl_charts, rl_numbers, rl_times
from nanochat_core.report.training_figures import (
    TrainingLog,
    speed_charts,
    training_charts,
    training_numbers,
    training_times,
)
from nanochat_core.store.manifest import LOG_FOLDER

SAMPLES_IN_METRICS = 3
REPORT_FILE, TIMES_FILE = "report.json", f"{LOG_FOLDER}/times.json"
TRAININGS = ("pretrain", "sft", "rl")
Inputs = Mapping[str, Path]


def draw_figures(inputs: Inputs, out: Path) -> dict[str, Any]:
    """Fill `out` with the figures, report.json and times.json; returns the headline numbers."""
    logs = {step: TrainingLog.read(inputs[step]) for step in TRAININGS if step in inputs}
    domains = _json(inputs, "tokenizer", "domains.json", {})
    core = _json(inputs, "evaluate_core", "core.json", {})
    stages = {step: found for step in STAGES if (found := _json(inputs, step, "benchmarks.json", {}))}
    last = "evaluate_rl" if "evaluate_rl" in inputs else "evaluate_chat"
    asked = _lines(inputs, last, "outcomes.jsonl")
    scores = counted_scores(asked)
    charts = [
        *core_charts(core),
        *chat_charts(stages),
        *question_charts(scores),
        *(chart for step, log in logs.items() if step != "rl" for chart in training_charts(step, log)),
        *rl_charts(logs.get("rl")),
        *speed_charts(logs["pretrain"]),
        *_tokenizer_charts(domains),
    ]
    for chart in charts:
        draw_chart(out / chart.file, chart)
    report = {
        "figures": [chart.record() for chart in charts],
        "trainings": {step: training_numbers(log) for step, log in logs.items()},
        "base": _json(inputs, "evaluate_base", "bpb.json", {}),
        "chat": _json(inputs, last, "bpb.json", {}),
        "rl": rl_numbers(logs.get("rl")),
        "base_samples": _json(inputs, "evaluate_base", "samples.json", []),
        "chat_samples": _json(inputs, last, "samples.json", []),
        "core": core,
        "chat_benchmarks": stages,
        "benchmarks": scores,
        "wrong_answers": wrong_answers(asked + _last_stage_outcomes(inputs, stages)),
        "domains": domains,
    }
    times = {"trainings": {step: training_times(log) for step, log in logs.items()}, "rl": rl_times(logs.get("rl"))}
    (out / LOG_FOLDER).mkdir(exist_ok=True)
    for name, values in ((REPORT_FILE, report), (TIMES_FILE, times)):
        (out / name).write_text(json.dumps(values, indent=1), encoding="utf-8")
    return {"num_figures": len(charts), **_headline(report, times["trainings"])}


def _last_stage_outcomes(inputs: Inputs, stages: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the model as it ends up; what it got wrong on its way there is history."""
    return _lines(inputs, list(stages)[-1], "outcomes.jsonl") if stages else []


def _headline(report: dict[str, Any], times: dict[str, Any]) -> dict[str, Any]:
    """Few numbers and answers that travel with the ref, so that a summary needs no file."""
    samples = [{name: sample[name] for name in ("prompt", "answer")} for sample in report["chat_samples"]]
    pretrain = times["pretrain"]
    numbers = {
        "base_bits_per_byte": report["base"].get("bits_per_byte"),
        "chat_bits_per_byte": report["chat"].get("bits_per_byte"),
        "core": report["core"].get("core"),
        "tokens_per_s": pretrain.get("tokens_per_s"),
        "peak_memory_gib": pretrain.get("peak_memory_gib"),
    }
    known = {name: value for name, value in numbers.items() if value is not None}
    return known | {"samples": samples[:SAMPLES_IN_METRICS]}


def _json(inputs: Inputs, step: str, name: str, default: Any) -> Any:
    path = inputs[step] / name if step in inputs else None
    return json.loads(path.read_text(encoding="utf-8")) if path and path.is_file() else default


def _lines(inputs: Inputs, step: str, name: str) -> list[dict[str, Any]]:
    path = inputs[step] / name if step in inputs else None
    lines = path.read_text(encoding="utf-8").split("\n") if path and path.is_file() else []
    return [json.loads(line) for line in lines if line]


def _tokenizer_charts(domains: dict[str, float]) -> list[Chart]:
    if not domains:
        return []

    def draw(axes: Axes) -> None:
        draw_bars(axes, domains, labels=[f"{value:.2f}" for value in domains.values()], colour=SERIES_B)
        axes.set_xlim(0, max(domains.values()) * 1.15)
        axes.set_xlabel("bytes per token")

    about = ", ".join(f"{name} {value:.2f}" for name, value in domains.items())
    title = "Bytes per token by kind of text"
    return [Chart("tokenizer", "tokenizer", title, about, draw, height_in=1.0 + 0.42 * len(domains))]
