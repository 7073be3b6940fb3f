"""The model card, README.md of an exported folder: what it is, its numbers, how to load it, how to make it again.

Every number comes from a manifest of the store or follows from the model's shape; what was not measured is not there.
Manifests may hold paths of the machine that trained: the card shows their last part only. The programs that it shows
are run by a test.
"""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from nanochat_core.base.intervals import wilson_interval
from nanochat_core.base.units import count, duration
from nanochat_core.config import GPTConfig
from nanochat_core.export import card_programs
from nanochat_core.export.lineage import Lineage
from nanochat_core.model import shape
from nanochat_core.pipeline.models import StoredModel
from nanochat_core.report.markdown import plain
from nanochat_core.report.scores import core_summary
from nanochat_core.store.manifest import Artifact

KINDS = {"pretrain": "base model", "sft": "chat model", "rl": "chat model, after reinforcement learning"}
STAGES = {"pretrain": "pretraining", "sft": "fine-tuning", "rl": "reinforcement learning"}
MEASURED = {"base": "pretrain", "core": "pretrain", "chat": "sft", "rl": "rl"}  # evaluate_X and benchmark_X -> model
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/])/(?:[^\s/]+/)+(?=[^\s/]*)")


@dataclass(frozen=True, kw_only=True)
class About:
    """What a card is written from."""

    model: StoredModel
    history: Lineage
    config: GPTConfig
    form: str
    """safetensors or hf."""
    dtype: str


def model_card(about: About) -> str:
    """The whole file."""
    sections = (
        _front_matter(about),
        _head(about),
        _programs(about),
        _numbers(about),
        _architecture(about),
        _training(about),
        _again(about),
        _limitations(about),
        _licences(about),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def _front_matter(about: About) -> str:
    lines = ["pipeline_tag: text-generation", "tags:", "- nanochat"]
    corpus = about.history.made_from.get("corpus")
    if corpus and corpus.config.get("source") == "hub" and corpus.config.get("dataset"):
        lines += ["datasets:", f"- {str(corpus.config['dataset'])!r}"]
    if about.form == "hf":
        lines.insert(0, "library_name: transformers")
    return "\n".join(["---", *lines, "---"])


def _head(about: About) -> str:
    config, artifact = about.config, about.model.artifact
    kind = KINDS.get(artifact.step, "model")
    total = shape.count_params(config).total
    return (
        f"# {plain(about.model.name)}\n\nA {kind} of nanochat's architecture: {count(total)} parameters ({total:,}), "
        f"{config.n_layer} layers, a context of {config.sequence_len:,} tokens. The weights here are {about.dtype}."
    )


def _programs(about: About) -> str:
    program = card_programs.program(about.form, is_chat=about.model.is_chat)
    note = card_programs.note(about.form, is_chat=about.model.is_chat)
    return f"## Load it\n\n```python\n{program}```\n\n{note}"


def _table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    body = ("| " + " | ".join(str(cell) for cell in row) + " |" for row in rows)
    return "\n".join(["| " + " | ".join(headers) + " |", "|" + " --- |" * len(headers), *body])


def _numbers(about: About) -> str:
    parts = []
    measured = about.history.measured
    rows = [
        (_stage_of(step), f"{artifact.metrics['bits_per_byte']:.4f}", _plain_config(artifact, "bpb_tokens"))
        for step, artifact in measured.items()
        if "bits_per_byte" in artifact.metrics
    ]
    if rows:
        parts.append(
            "Bits per byte of the corpus's held-out text:\n\n"
            + _table(("model", "bits per byte", "tokens measured"), rows)
        )
    for artifact in measured.values():
        if summary := core_summary(artifact.metrics):
            limits = " ".join([summary.compared, *summary.limits]).strip()
            parts.append(
                f"CORE of the base model: **{summary.score}** {summary.error} (standard error). {plain(limits)}"
            )
    for step, artifact in measured.items():
        if artifact.metrics.get("benchmarks") and "core" not in artifact.metrics:
            parts.append(_benchmarks(step, artifact))
    return "## Numbers\n\n" + "\n\n".join(parts) if parts else ""


def _stage_of(step: str) -> str:
    model_step = MEASURED.get(step.partition("_")[2], "")
    return KINDS.get(model_step, step).partition(",")[0] + (" after RL" if model_step == "rl" else "")


def _plain_config(artifact: Artifact, name: str) -> str:
    value = artifact.config.get(name)
    return f"at most {value:,}" if isinstance(value, int) else ""


def _benchmarks(step: str, artifact: Artifact) -> str:
    what = "held-out questions of the training mixture" if step.startswith("evaluate") else "benchmarks"
    rows = []
    for name, score in artifact.metrics["benchmarks"].items():
        num_asked = int(score["num_asked"])
        low, high = score.get("interval_95") or wilson_interval(score["accuracy"], max(1, num_asked))
        tries = [f"pass@{k} {value:.1%}" for k, value in (score.get("pass_at_k") or {}).items() if int(k) > 1]
        notes = [*tries, *(["not all of its items"] if score.get("is_limited") else [])]
        rows.append((plain(name), f"{score['accuracy']:.1%}", f"{low:.1%} to {high:.1%}", num_asked, ", ".join(notes)))
    table = _table(("", "right", "95% interval", "answers", ""), rows)
    total, error = artifact.metrics.get("chat_core"), artifact.metrics.get("chat_core_standard_error")
    mean = f"\n\nMean centred accuracy of these: {total:.4f}" if total is not None else ""
    mean += f" ± {error:.4f} (standard error)." if total is not None and error is not None else ""
    return f"{_stage_of(step).capitalize()}, {what}:\n\n{table}{mean}"


def _architecture(about: About) -> str:
    config, counts = about.config, shape.count_params(about.config)
    windows = sorted(set(shape.window_sizes(config)))
    value_layers = [str(layer) for layer in range(config.n_layer) if shape.has_value_embed(config, layer)]
    rows = [
        ("layers", config.n_layer),
        ("width", config.n_embd),
        ("query heads, key/value heads", f"{config.n_head}, {config.n_kv_head} of {config.head_dim}"),
        ("MLP", f"{shape.MLP_RATIO} x width, squared relu"),
        ("context", f"{config.sequence_len:,} tokens"),
        (
            "attention windows",
            f"{config.window_pattern}, the last layer always L: {', '.join(f'{w:,}' for w in windows)} tokens",
        ),
        ("vocabulary", f"{config.vocab_size:,} (rows padded to {shape.padded_vocab_size(config):,})"),
        ("value embeddings", f"layers {', '.join(value_layers)}"),
        ("positions", "rotary, on halves; queries and keys normalised"),
        ("further", "smeared embeddings, learned residual and skip weights, backout, logits capped at 15, no biases"),
        (
            "parameters",
            f"{counts.total:,}: {counts.transformer_matrices:,} in matrices, {counts.wte:,} in embeddings, "
            f"{counts.value_embeds:,} in value embeddings, {counts.lm_head:,} in the head",
        ),
    ]
    return "## Architecture\n\n" + _table(("", ""), rows)


def _training(about: About) -> str:
    made_from = about.history.made_from
    lines = [line for line in (_corpus(made_from), _vocabulary(made_from), _mixture(made_from)) if line]
    rows = [_stage_row(STAGES[step], made_from[step]) for step in STAGES if step in made_from]
    table = _table(("stage", "steps", "batch", "tokens seen", "computed in", "time"), rows) if rows else ""
    parts = ["\n".join(f"- {line}" for line in lines), table]
    return "## Trained on\n\n" + "\n\n".join(part for part in parts if part) if any(parts) else ""


def _stage_row(name: str, artifact: Artifact) -> tuple[str, ...]:
    metrics, config = artifact.metrics, artifact.config
    steps, rows = metrics.get("num_steps"), config.get("total_batch_rows")
    row_tokens = (config.get("model") or {}).get("sequence_len")
    batch = f"{rows:,} rows of {row_tokens:,} tokens" if rows and row_tokens else ""
    seen = f"{steps * rows * row_tokens:,}" if steps and rows and row_tokens else ""
    where = ", ".join(str(metrics[key]) for key in ("dtype", "device") if key in metrics)
    took = duration(metrics["train_s"]) if "train_s" in metrics else ""
    return name, f"{steps:,}" if steps else "", batch, seen, plain(where), took


def _corpus(made_from: Mapping[str, Artifact]) -> str:
    corpus = made_from.get("corpus")
    if corpus is None:
        return ""
    config, metrics = corpus.config, corpus.metrics
    size = f"{metrics['train_docs']:,} documents, {metrics['train_bytes']:,} bytes of text"
    if config.get("source") == "embedded":
        packages = ", ".join(f"{name} {version}" for name, version in (config.get("documented") or {}).items())
        return f"Text: the documentation of Python {config.get('python')} and of {plain(packages)}; {size}."
    if config.get("source") == "hub":
        revision = f" at {config['revision']}" if config.get("revision") else ""
        return f"Text: {plain(_short(str(config.get('dataset')) + revision))}; {size}."
    return f"Text: files of whoever trained it; {size}."


def _vocabulary(made_from: Mapping[str, Artifact]) -> str:
    tokenizer = made_from.get("tokenizer")
    if tokenizer is None or "bytes_per_token" not in tokenizer.metrics:
        return ""
    return (
        f"Vocabulary: byte-level BPE of that text, {tokenizer.metrics['vocab_size']:,} tokens, "
        f"{tokenizer.metrics['bytes_per_token']:.2f} bytes per token on held-out text."
    )


def _mixture(made_from: Mapping[str, Artifact]) -> str:
    mixture = made_from.get("conversations")
    if mixture is None:
        return ""
    source = {"builtin": "generated by the project's built-in mix", "path": "files of whoever trained it"}
    told = source.get(str(mixture.config.get("source")), "the configured mixture")
    return f"Conversations: {mixture.metrics['conversations']:,}, {told}."


def _again(about: About) -> str:
    rows = [
        (step, f"`{artifact.fingerprint}`", f"`{artifact.result_digest}`", _commit(artifact))
        for step, artifact in about.history.made_from.items()
    ]
    table = _table(("step", "fingerprint", "digest of its result", "commit"), rows)
    provenance = about.model.artifact.provenance
    command = shlex.join(["nanochat", *(_short(str(part)) for part in provenance.get("arguments") or [])])
    packages = ", ".join(f"{name} {version}" for name, version in (provenance.get("packages") or {}).items())
    machine = ", ".join(str(provenance[key]) for key in ("platform", "cpu") if provenance.get(key))
    return (
        f"## Make it again\n\nThe last training was part of this command, on {plain(machine)}, with Python "
        f"{plain(str(provenance.get('python')))} and {plain(packages)}:\n\n```\n{command}\n```\n\n{table}\n\n"
        "`nanochat reproduce RUN` makes a recorded run again from its commit and compares every digest."
    )


def _commit(artifact: Artifact) -> str:
    commit = artifact.provenance.get("git_commit")
    changed = ", with uncommitted changes" if artifact.provenance.get("git_patch_sha256") else ""
    return f"`{commit}`{changed}" if commit else "not recorded"


def _short(text: str) -> str:
    """Without the folders of absolute paths: they say much about a machine and nothing about the model."""
    return ABSOLUTE_PATH.sub(".../", text)


def _limitations(about: About) -> str:
    lines = [
        f"It is a small model, of {count(shape.count_params(about.config).total)} parameters: it states wrong things "
        "fluently, and repeats what its training text says, biases included.",
        f"It sees {about.config.sequence_len:,} tokens at most and was trained on no longer ones.",
        "No safety training and no safety measurement is part of this pipeline.",
    ]
    if about.form == "hf" and about.model.is_chat:
        lines.append(
            "Tool calls are text here: the calculator runs in `nanochat chat` and `nanochat serve`, not in "
            "`generate()`, which lets the model make up a result."
        )
    if not about.history.measured:
        lines.append("Nothing was measured on it: the store holds no evaluation of these weights.")
    return "## Limitations\n\n" + "\n".join(f"- {line}" for line in lines)


def _licences(about: About) -> str:
    corpus = about.history.made_from.get("corpus")
    recorded = str(corpus.config.get("licence") or "") if corpus else ""
    data = f"The corpus is recorded as {plain(recorded)}." if recorded else "No licence of the data is recorded."
    return (
        f"## Licences\n\n{data} Whoever publishes these weights has to look up the terms of the sources named above. "
        "The code of the project, the modelling file included, is under the MIT licence."
    )
