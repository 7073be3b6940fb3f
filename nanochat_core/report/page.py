"""The report of one run as a single HTML file: it opens from a folder, an e-mail or a bucket, and asks for nothing.

The figures come verified from the store; the rest is the run's own: which steps were cached, how long it took. The
template escapes everything that a person or a model wrote, and the figures alone go in as they are, since we drew them.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from nanochat_core.accounting.ledger import ledger_rows, window
from nanochat_core.base.errors import MissingError
from nanochat_core.base.units import count, duration
from nanochat_core.plan import RunPlan
from nanochat_core.report import outline, scores, sources
from nanochat_core.report.core_table import core_rows
from nanochat_core.report.markdown import summarize
from nanochat_core.report.reproduce import reproduction
from nanochat_core.store.manifest import LOG_FOLDER, Artifact
from nanochat_core.workspace import Workspace

if TYPE_CHECKING:
    from nanochat_core.pipeline.step import Ref

HTML_NAME, MARKDOWN_NAME, TEMPLATE_NAME = "report.html", "report.md", "page.html"
MODEL_STEP, REPORT_STEP = "pretrain", "report"
SECTIONS = ("core", "chat", "questions", "pretrain", "sft", "rl", "tokenizer")
TRAININGS = {"pretrain": "Pretraining", "sft": "Fine-tuning", "rl": "Reinforcement learning"}


@dataclass(frozen=True)
class Figure:
    """An SVG and what stands above it."""

    title: str
    svg: Markup


def write_report(space: Workspace, plan: RunPlan, refs: "list[Ref]", *, run_id: str, seconds: float) -> Path:
    """Write report.html and report.md into the run's folder; returns the path of the page."""
    artifacts = {ref.step: space.store.find(ref.step, ref.fingerprint) for ref in refs}
    drawn = artifacts.get(REPORT_STEP)
    if drawn is None:
        raise MissingError("the report step of this run is not in the store", hint="run the same command again")
    folder = space.run(run_id)
    page = folder / HTML_NAME
    values = _values(plan, refs, space.store.fetch(drawn), artifacts, run_id=run_id, seconds=seconds)
    page.write_text(render(values), encoding="utf-8", errors="replace")  # a model may say half a character
    markdown = summarize(plan, refs, seconds=seconds, windows=_windows(artifacts))
    (folder / MARKDOWN_NAME).write_text(markdown, encoding="utf-8", errors="replace")
    return page


def render(values: dict[str, Any]) -> str:
    """The template with `values`; a name that it uses and we do not give is an error, not a gap."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "duration": duration,
        "parts": outline.answer_parts,
        "without_blank_lines": _without_blank_lines,
    }
    return environment.get_template(TEMPLATE_NAME).render(values)


def _without_blank_lines(text: str) -> str:
    """A base model likes to write them, and a page of samples is then mostly empty."""
    return re.sub(r"\n\s*\n", "\n", text)


def _values(
    plan: RunPlan,
    refs: "list[Ref]",
    drawn: Path,
    artifacts: dict[str, Artifact | None],
    *,
    run_id: str,
    seconds: float,
) -> dict[str, Any]:
    report = _read_report(drawn)
    device = next((str(ref.metrics.get("device", "")) for ref in refs if ref.step == MODEL_STEP), "")
    return {
        "title": outline.title(plan),
        "date": datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        "run_id": run_id,
        "numbers": outline.headline_numbers(plan, refs, seconds=seconds),
        "report": report,
        "figures": _figures(report["figures"], drawn),
        "core": scores.core_summary(report["core"]),
        "core_rows": core_rows(report["core"]),
        "stages": scores.stage_table(report["chat_benchmarks"]),
        "steps": outline.step_rows(refs),
        "source_headers": sources.HEADERS,
        "source_numbers": sources.NUMBERS,
        "source_rows": sources.source_rows(refs),
        "ledger": ledger_rows(plan, refs, seconds=seconds, windows=_windows(artifacts)),
        "benchmarks": outline.benchmark_rows(refs),
        "facts": _plan_facts(plan),
        "rl": report.get("rl"),
        "groups": outline.group_rows(plan),
        "trainings": [
            (TRAININGS[step], _training_facts(training, flops_per_token=plan.pretrain.flops_per_token))
            for step, training in report["trainings"].items()
            if training["num_records"] and step != "rl"
        ],
        "again": reproduction(plan, artifacts, run_id=run_id, device=device),
    }


def _read_report(drawn: Path) -> dict[str, Any]:
    """What the step found, and beside it how long it took on the machine that made it."""
    files = ("report.json", f"{LOG_FOLDER}/times.json")
    report, times = (json.loads((drawn / name).read_text(encoding="utf-8")) for name in files)
    trainings = {step: {**training, **times["trainings"][step]} for step, training in report["trainings"].items()}
    return {**report, "trainings": trainings, "rl": report["rl"] and {**report["rl"], **times["rl"]}}


def _windows(artifacts: dict[str, Artifact | None]) -> dict[str, tuple[float, float]]:
    """When each step was made, by its manifest."""
    found = {step: window(artifact.provenance) for step, artifact in artifacts.items() if artifact is not None}
    return {step: times for step, times in found.items() if times is not None}


def _figures(records: Sequence[dict[str, str]], drawn: Path) -> dict[str, list[Figure]]:
    """By section of the page; every section has a list, perhaps an empty one."""
    sections: dict[str, list[Figure]] = {name: [] for name in SECTIONS}
    for record in records:
        svg = Markup((drawn / record["file"]).read_text(encoding="utf-8"))
        sections.setdefault(record["section"], []).append(Figure(record["title"], svg))
    return sections


def _plan_facts(plan: RunPlan) -> list[tuple[str, str]]:
    derived, model, schedule = plan.pretrain, plan.pretrain.model, plan.pretrain.schedule
    batch = f"{derived.total_batch_tokens:,} tokens ({derived.total_batch_rows:,} rows of {model.sequence_len:,})"
    return [
        ("Model", f"{model.n_layer} layers, width {model.n_embd:,}, {model.n_head} heads of {model.head_dim}"
                  + (f" ({model.n_kv_head} for keys and values)" if model.n_kv_head != model.n_head else "")),
        ("Context", f"{model.sequence_len:,} tokens, windows {model.window_pattern}"),
        ("Vocabulary", f"{model.vocab_size:,} tokens"),
        ("Batch", batch),
        ("Length", "none" if plan.is_base_kept else f"{derived.num_steps:,} steps, {derived.num_tokens:,} tokens"),
        ("Compute", f"{outline.flop(derived.flops_per_token)} per token, {outline.flop(derived.total_flops)} in all"),
        ("Schedule", f"{schedule.warmup_steps} steps of warm-up, warm-down over the last {schedule.warmdown_frac:.0%} "
                     f"to {schedule.final_lr_frac:.0%} of the rate"),
        ("Weight decay", f"{derived.weight_decay:.3g} on the matrices, falling to 0"),
        ("Fine-tuning", f"{plan.config.sft.epochs} epoch{'s' if plan.config.sft.epochs > 1 else ''} from "
                        f"{plan.config.sft.lr_frac:.0%} of the rates"),
    ]  # fmt: skip


def _training_facts(training: dict[str, Any], *, flops_per_token: int) -> list[tuple[str, str]]:
    """What a training log says, in words under the curves."""
    facts = [
        ("time in steps", duration(training["train_s"])),
        ("last throughput", f"{count(training['tokens_per_s'])} tokens/s"),
        ("compute", f"{outline.flop(training['tokens_per_s'] * flops_per_token)}/s"),
        ("peak memory", f"{training['peak_memory_gib']:.2f} GiB"),
        ("records", f"{training['num_records']:,}"),
    ]
    if training["validation"]:
        facts.insert(0, ("held out", f"{training['validation']['bits_per_byte']:.4f} bits per byte"))
    return facts
