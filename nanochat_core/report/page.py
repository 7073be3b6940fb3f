"""The report of one run as a single HTML file: it opens from a folder, an e-mail or a bucket, and asks for nothing.

The figures come verified from the store; the rest is the run's own: which steps were cached, how long it took. The
template escapes everything that a person or a model wrote, and the figures alone go in as they are, since we drew them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from nanochat_core.base.errors import MissingError
from nanochat_core.base.units import count, duration
from nanochat_core.plan import RunPlan
from nanochat_core.report import outline
from nanochat_core.report.markdown import summarize
from nanochat_core.store.manifest import Artifact
from nanochat_core.workspace import Workspace

if TYPE_CHECKING:
    from nanochat_core.pipeline.step import Ref

HTML_NAME, MARKDOWN_NAME, TEMPLATE_NAME = "report.html", "report.md", "page.html"
MODEL_STEP, REPORT_STEP = "pretrain", "report"


@dataclass(frozen=True)
class Figure:
    """An SVG and what stands above it."""

    title: str
    svg: Markup


@dataclass(frozen=True)
class Source:
    """Code that made some of the steps."""

    commit: str
    changes: str
    """Beyond the commit; empty when there were none."""
    steps: str


def write_report(space: Workspace, plan: RunPlan, refs: "list[Ref]", *, run_id: str, seconds: float) -> Path:
    """Write report.html and report.md into the run's folder; returns the path of the page."""
    artifacts = {ref.step: space.store.find(ref.step, ref.fingerprint) for ref in refs}
    drawn = artifacts.get(REPORT_STEP)
    if drawn is None:
        raise MissingError("the report step of this run is not in the store", hint="run the same command again")
    folder = space.run(run_id)
    page = folder / HTML_NAME
    values = _values(plan, refs, space.store.fetch(drawn), artifacts, run_id=run_id, seconds=seconds)
    page.write_text(render(values), encoding="utf-8")
    (folder / MARKDOWN_NAME).write_text(summarize(plan, refs, seconds=seconds), encoding="utf-8")
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
    report = json.loads((drawn / "report.json").read_text(encoding="utf-8"))
    return {
        "title": outline.title(plan),
        "date": datetime.now(UTC).strftime("%-d %B %Y, %H:%M UTC"),
        "run_id": run_id,
        "numbers": outline.headline_numbers(plan, refs, seconds=seconds),
        "report": report,
        "figures": _figures(report["figures"], drawn),
        "steps": outline.step_rows(refs),
        "benchmarks": outline.benchmark_rows(refs),
        "facts": _plan_facts(plan),
        "groups": outline.group_rows(plan),
        "trainings": [
            (name, _training_facts(report[step], flops_per_token=plan.pretrain.flops_per_token))
            for name, step in (("Pretraining", "pretrain"), ("Fine-tuning", "sft"))
            if report[step]["num_records"]
        ],
        "sources": _sources(artifacts),
        "machine": _machine(refs, artifacts),
        "packages": _provenance(artifacts).get("packages", {}),
        "commands": outline.commands(plan.config),
    }


def _figures(records: Sequence[dict[str, str]], drawn: Path) -> dict[str, list[Figure]]:
    """By section of the page; every section has a list, perhaps an empty one."""
    sections: dict[str, list[Figure]] = {"pretrain": [], "sft": [], "benchmarks": [], "tokenizer": []}
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
        ("Length", f"{derived.num_steps:,} steps, {derived.num_tokens:,} tokens"),
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


def _provenance(artifacts: dict[str, Artifact | None]) -> dict[str, Any]:
    """Of the model, or of whatever else is there."""
    artifact = artifacts.get(MODEL_STEP) or next((a for a in artifacts.values() if a is not None), None)
    return dict(artifact.provenance) if artifact else {}


def _sources(artifacts: dict[str, Artifact | None]) -> list[Source]:
    """Each commit and patch, with the steps it made: a cached step may be older than the checkout."""
    made: dict[tuple[str, str], list[str]] = {}
    for step, artifact in artifacts.items():
        provenance: Mapping[str, Any] = artifact.provenance if artifact else {}
        nothing = "no commit yet" if provenance.get("is_git_checkout") else "no git checkout"
        key = (str(provenance.get("git_commit") or nothing), _changes(provenance))
        made.setdefault(key, []).append(step)
    return [Source(commit, changes, ", ".join(steps)) for (commit, changes), steps in made.items()]


def _changes(provenance: Mapping[str, Any]) -> str:
    """What the commit does not have: such code cannot be had again from the commit alone."""
    patch, num_untracked = provenance.get("git_patch_sha256"), provenance.get("num_untracked_files")
    parts = [f"patch {str(patch)[:12]}"] if patch else []
    return ", ".join(parts + ([f"{num_untracked} untracked files"] if num_untracked else []))


def _moment(text: str) -> str:
    return f"{text[:16].replace('T', ' ')} UTC" if text else ""


def _machine(refs: "list[Ref]", artifacts: dict[str, Artifact | None]) -> list[tuple[str, str]]:
    provenance = _provenance(artifacts)
    metrics = next((ref.metrics for ref in refs if ref.step == MODEL_STEP), {})
    told = [
        ("Device", ", ".join(str(metrics[name]) for name in ("device", "dtype") if name in metrics)),
        ("Platform", str(provenance.get("platform", ""))),
        ("Cores", str(provenance.get("num_cpus") or "")),
        ("Python", str(provenance.get("python", ""))),
        ("Made at", _moment(str(provenance.get("finished_at", "")))),
    ]
    return [(name, value) for name, value in told if value]
