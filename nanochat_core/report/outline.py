"""What the page and the markdown summary both say, as plain rows: one place decides names, order and rounding.

Made from the plan and the refs alone, without the store, so that it also works in the middle of a run.
"""

import re
import shlex
from collections.abc import Container
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from nanochat_core import named_tables
from nanochat_core.accounting.ledger import run_ledger
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.redaction import redact
from nanochat_core.base.units import count, dollars, duration
from nanochat_core.config import RunConfig
from nanochat_core.plan import RunPlan, optim_values
from nanochat_core.presets import load_config, preset_names
from nanochat_core.report import scores

if TYPE_CHECKING:
    from nanochat_core.pipeline.step import Ref, Step

QUESTIONS_STEPS = ("evaluate_rl", "evaluate_chat")  # ask the run's own held-out questions; the last model's come first
# How samples are written: a call and its result in one pair of brackets (evals/samples.py).
TOOL_CALL = re.compile(r"\[(?P<expression>[^\[\]\n]+) = (?P<result>[^\[\]\n]*)\]\s?")


@dataclass(frozen=True)
class Number:
    """A headline number."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class StepRow:
    """One step of the run."""

    step: str
    headline: str
    is_cached: bool
    seconds: str
    """What making it took, whenever that was."""
    artifact: str


@dataclass(frozen=True)
class BenchmarkRow:
    """One score; percentages with one decimal, as the standard error is about a point."""

    name: str
    accuracy: str
    standard_error: str
    num_right: int
    num_asked: int


@dataclass(frozen=True)
class Part:
    """A piece of an answer: text, or a tool call with its result."""

    text: str
    result: str | None = None
    """None: plain text."""


@dataclass(frozen=True)
class GroupRow:
    """Parameters that learn by one rule."""

    name: str
    num_params: int
    optimizer: str
    lr: str


def title(plan: RunPlan) -> str:
    return f"{plan.config.preset}, depth {plan.pretrain.model.n_layer}"


def headline_numbers(plan: RunPlan, refs: "list[Ref]", *, seconds: float | None = None) -> list[Number]:
    """The first row of the report. Without `seconds`, the time is that of the steps that this run made."""
    metrics = {ref.step: ref.metrics for ref in refs}
    made = [ref for ref in refs if not ref.is_cached]
    took_s = sum(ref.seconds for ref in made) if seconds is None else seconds
    derived = plan.pretrain
    numbers = []
    for step, label, note in (
        ("evaluate_base", "base model", "bits per byte, held-out text"),
        (_last_chat(metrics), "chat model", "bits per byte, same text; high, for it learnt to answer"),
    ):
        if "bits_per_byte" in metrics.get(step, {}):
            numbers.append(Number(label, f"{metrics[step]['bits_per_byte']:.4f}", note))
    if core := scores.core_summary(metrics.get("evaluate_core", {})):
        numbers.append(Number("CORE", core.score, core.note))
    if chat := scores.stage_table(metrics).chat_core:
        numbers.append(Number("ChatCORE", chat.score, chat.note))
    for row in benchmark_rows(refs):
        if row.name == "arithmetic":
            numbers.append(Number("arithmetic", row.accuracy, f"± {row.standard_error} of {row.num_asked:,} held out"))
    licence = metrics.get("corpus", {}).get("licence", "not recorded")
    if num_sources := len(metrics.get("corpus", {}).get("sources", ())):
        licence = f"that of each of {num_sources} sources, below"
    about = f"tokens, {derived.num_steps:,} steps; licence of the text: {licence}"
    trained = Number("trained on", count(derived.num_tokens), about)
    if begun := metrics.get("base"):
        trained = Number("started from", str(begun["origin"]), f"licence: {begun['licence']}")
    numbers += [
        Number("parameters", count(derived.num_params["total"]), f"{count(derived.scaling_params)} in scaling laws"),
        trained,
        Number("this run", duration(took_s), f"{len(made)} steps made, {len(refs) - len(made)} cached"),
    ]
    usd = run_ledger(refs, plan.config.runtime).rate.usd(took_s)
    return [*numbers, Number("cost", dollars(usd), "at the machine's rental price")] if usd else numbers


def _last_chat(steps: Container[str]) -> str:
    """The step that asked the run's last chat model."""
    return next((step for step in QUESTIONS_STEPS if step in steps), QUESTIONS_STEPS[-1])


def step_rows(refs: "list[Ref]") -> list[StepRow]:
    """In the order in which they ran."""
    from nanochat_core.pipeline.table import STEPS  # the pipeline's end imports the report

    return [
        StepRow(
            step=ref.step,
            headline=_headline(STEPS[ref.step], ref) if ref.step in STEPS else "",
            is_cached=ref.is_cached,
            seconds=duration(ref.seconds),
            artifact=ref.short,
        )
        for ref in refs
    ]


def _headline(step: "Step", ref: "Ref") -> str:
    """Empty for metrics of another version of the step: a report is not what a run should fail on."""
    try:
        return step.headline(ref.metrics)
    except (KeyError, TypeError, ValueError):
        return ""


def benchmark_rows(refs: "list[Ref]") -> list[BenchmarkRow]:
    """The run's own held-out questions, best first; empty where none was asked."""
    metrics = {ref.step: ref.metrics for ref in refs}
    asked: dict[str, dict[str, Any]] = metrics.get(_last_chat(metrics), {}).get("benchmarks") or {}
    return [
        BenchmarkRow(
            name=name,
            accuracy=f"{score['accuracy']:.1%}",
            standard_error=f"{100 * score['standard_error']:.1f}",
            num_right=score["num_right"],
            num_asked=score["num_asked"],
        )
        for name, score in sorted(asked.items(), key=lambda item: -item[1]["accuracy"])
    ]


def flop(value: float) -> str:
    """20_100_000_000 -> "20.1 GFLOP": powers of ten as physics names them, where `count` says 20.1B."""
    text = count(value)
    return f"{text[:-1]} {text[-1].replace('B', 'G')}FLOP" if text[-1].isalpha() else f"{text} FLOP"


def answer_parts(answer: str) -> list[Part]:
    """An answer split at its tool calls."""
    parts, end = [], 0
    for call in TOOL_CALL.finditer(answer):
        parts += [Part(answer[end : call.start()]), Part(call["expression"], call["result"])]
        end = call.end()
    return [part for part in [*parts, Part(answer[end:])] if part.text.strip()]


def group_rows(plan: RunPlan) -> list[GroupRow]:
    """Parameter groups with the learning rate each really trains at (optim/groups.py), before the schedule."""
    rates, params = optim_values(plan), plan.pretrain.num_params
    every, tables = rates["lr_scale"], rates["lr_scale"] * rates["adamw_lr_scale"]
    chosen = (
        ("token embedding", "wte", "AdamW", rates["embedding_lr"] * tables),
        ("value embeddings", "value_embeds", "AdamW", rates["value_embedding_lr"] * tables),
        ("transformer matrices", "transformer_matrices", "Muon", rates["matrix_lr"] * every),
        ("output head", "lm_head", "AdamW", rates["unembedding_lr"] * tables),
        ("scalars", "scalars", "AdamW", rates["scalar_lr"] * every),
    )
    return [GroupRow(name, params[key], optimizer, f"{lr:.3g}") for name, key, optimizer, lr in chosen]


def commands(config: RunConfig) -> dict[str, str]:
    """The command lines that make the run again, ask why a step would, and talk to the result."""
    preset = shlex.quote(config.preset if config.preset in preset_names() else f"{config.preset}.toml")
    sets = "".join(f" --set {shlex.quote(change.text)}" for change in changes(config))
    return {
        "run": f"nanochat run {preset}{sets}",
        "why": f"nanochat why pretrain {preset}{sets}",
        "chat": f"nanochat chat {shlex.quote(f'{config.preset}-chat')}",
    }


@dataclass(frozen=True)
class Change:
    """A setting that differs from the preset's."""

    name: str
    value: str
    usual: str

    @property
    def text(self) -> str:
        return f"{self.name}={self.value}"


def changes(config: RunConfig) -> list[Change]:
    """What was set beyond the preset; none when the preset was a file of the user's: its name alone has to do."""
    try:
        usual = settings(load_config(config.preset))
    except ConfigError:
        return []
    shown = settings(config)
    return [Change(name, value, usual.get(name, "none")) for name, value in shown.items() if value != usual.get(name)]


def is_known_preset(config: RunConfig) -> bool:
    """Whether the preset is one of ours, so that differences from it can be told."""
    return config.preset in preset_names()


def settings(config: RunConfig) -> dict[str, str]:
    """Every setting by the name and in the words of `--set`, without what looks like a secret: reports travel."""
    found: dict[str, str] = {}
    for section, value in asdict(config).items():
        for name, chosen in (value if isinstance(value, dict) else {"": value}).items():
            if (tables := f"{section}.{name}") in named_tables.TABLES:
                of_tables = named_tables.flattened(tables, chosen)
                found |= {each: redact(_setting(one)) for each, one in of_tables.items()}
                continue
            found[f"{section}.{name}" if name else section] = redact(_setting(chosen))
    return found


def _setting(value: Any) -> str:
    """As `--set` reads it."""
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)
