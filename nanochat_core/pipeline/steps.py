"""The pipeline's steps as functions: plan and refs in, a ref out. Flows call these, directly or as Prefect tasks."""

from typing import Any

from nanochat_core.base.units import count
from nanochat_core.bounds import BENCHMARKS
from nanochat_core.pipeline import bodies, evaluations, identity, trainings
from nanochat_core.pipeline.step import Ref, Step, execute
from nanochat_core.plan import RunPlan

TRAINING_PACKAGES = ("torch", "numpy")
EVALUATION_PACKAGES = (*TRAINING_PACKAGES, "tiktoken")


def _corpus_title(plan: RunPlan) -> str:
    config = plan.config.corpus
    return {"embedded": "documentation of this environment", "path": config.path, "hub": config.dataset}[
        config.source
    ] or ""


def _bpb(metrics: dict[str, Any]) -> str:
    return f"{metrics['bits_per_byte']:.4f} bits per byte"


def _training(metrics: dict[str, Any]) -> str:
    return f"{metrics['num_steps']:,} steps, {_bpb(metrics)}"


def _chat_scores(metrics: dict[str, Any]) -> str:
    parts = [f"{name} {score['accuracy']:.0%}" for name, score in metrics.get("benchmarks", {}).items()]
    return ", ".join(parts) or _bpb(metrics)


def _core(metrics: dict[str, Any]) -> str:
    score = f"CORE {metrics['core']:.4f} ± {metrics['core_standard_error']:.4f}"
    whole = metrics["is_complete"] and metrics["max_per_benchmark"] is None
    return score if whole else f"{score} (of {metrics['num_items']:,} items in {metrics['num_benchmarks']} benchmarks)"


def _chat_core(metrics: dict[str, Any]) -> str:
    score, marks = metrics["chat_core"], metrics["benchmarks"]
    whole = set(marks) == set(BENCHMARKS)
    parts = [] if score is None else [f"{'ChatCORE' if whole else f'mean centred of {len(marks)}'} {score:.4f}"]
    limited = [" (limited)"] if any(mark.get("is_limited") for mark in marks.values()) else []
    return ", ".join([*parts, *(f"{name} {mark['accuracy']:.0%}" for name, mark in marks.items())]) + "".join(limited)


def _limited(what: str, limit: int | None) -> str:
    return what if limit is None else f"{what}, {limit:,} items each"


def _conversations_title(plan: RunPlan) -> str:
    sft = plan.config.sft
    return {"builtin": "built-in mix", "path": str(sft.path), "mix": sft.smoltalk}[sft.source]


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step(
            name="corpus",
            title=_corpus_title,
            body=bodies.corpus,
            identity=identity.corpus,
            entries=("nanochat_core.data.corpora",),
            packages=("pyarrow", "datasets"),
            headline=lambda m: f"{count(m['train_docs'])} documents, {count(m['train_bytes'])}B of text",
        ),
        Step(
            name="tokenizer",
            title=lambda plan: f"BPE, {plan.config.tokenizer.vocab_size:,} tokens",
            body=bodies.tokenizer,
            identity=identity.tokenizer,
            entries=("nanochat_core.tokenizer.bpe", "nanochat_core.tokenizer.domains", "nanochat_core.data.shards"),
            packages=("rustbpe", "tiktoken", "pyarrow"),
            headline=lambda m: f"{m['bytes_per_token']:.2f} bytes per token",
            inputs=("corpus",),
        ),
        Step(
            name="tokens",
            title=lambda plan: f"rows of {plan.pretrain.model.sequence_len:,} tokens",
            body=bodies.tokens,
            identity=identity.tokens,
            entries=("nanochat_core.data.tokenize", "nanochat_core.data.packing"),
            packages=("tiktoken", "numpy", "pyarrow"),
            headline=lambda m: f"{count(m['train_tokens'])} tokens in {m['train_rows']:,} rows",
            inputs=("corpus", "tokenizer"),
        ),
        Step(
            name="pretrain",
            title=lambda plan: f"depth {plan.pretrain.model.n_layer}, {count(plan.pretrain.num_tokens)} tokens",
            body=trainings.pretrain,
            identity=identity.pretrain,
            entries=("nanochat_core.train.pretrain", "nanochat_core.train.worker"),
            packages=TRAINING_PACKAGES,
            headline=_training,
            inputs=("tokenizer", "tokens"),
        ),
        Step(
            name="evaluate_base",
            title=lambda plan: "bits per byte, samples",
            body=bodies.evaluate_base,
            identity=identity.evaluate,
            entries=("nanochat_core.evals.worker",),
            packages=EVALUATION_PACKAGES,
            headline=_bpb,
            inputs=("tokenizer", "tokens", "pretrain"),
        ),
        Step(
            name="core_bundle",
            title=lambda plan: _limited("CORE's benchmarks", plan.config.core.max_per_benchmark),
            body=evaluations.core_bundle,
            identity=identity.core_bundle,
            entries=("nanochat_core.evals.core.bundle",),
            packages=(),
            headline=lambda m: f"{m['num_benchmarks']} benchmarks, {count(m['num_bytes'])}B",
            is_wanted=lambda plan: plan.has_core,
        ),
        Step(
            name="core_prompts",
            title=lambda plan: "rendered and tokenized",
            body=evaluations.core_prompts,
            identity=identity.core_prompts,
            entries=("nanochat_core.evals.core.prompts",),
            packages=("tiktoken", "numpy"),
            headline=lambda m: f"{m['num_items']:,} items, {count(m['num_tokens'])} tokens",
            inputs=("tokenizer", "core_bundle"),
            is_wanted=lambda plan: plan.has_core,
        ),
        Step(
            name="evaluate_core",
            title=lambda plan: "CORE of the base model",
            body=evaluations.evaluate_core,
            identity=identity.evaluate_core,
            entries=("nanochat_core.evals.core.worker",),
            packages=TRAINING_PACKAGES,
            headline=_core,
            inputs=("core_prompts", "pretrain"),
            is_wanted=lambda plan: plan.has_core,
        ),
        Step(
            name="benchmarks",
            title=lambda plan: _limited(plan.config.benchmarks.names, plan.config.benchmarks.max_per_benchmark),
            body=evaluations.benchmarks,
            identity=identity.benchmarks,
            entries=("nanochat_core.evals.benchmarks.registry",),
            packages=("datasets",),
            headline=lambda m: f"{m['num_items']:,} items of {len(m['benchmarks'])} benchmarks",
            is_wanted=lambda plan: plan.has_benchmarks,
        ),
        Step(
            name="benchmark_base",
            title=lambda plan: "multiple choice, base model",
            body=evaluations.benchmark_base,
            identity=identity.benchmark,
            entries=("nanochat_core.evals.benchmarks.worker",),
            packages=EVALUATION_PACKAGES,
            headline=_chat_core,
            inputs=("tokenizer", "benchmarks", "pretrain"),
            is_wanted=lambda plan: plan.has_benchmarks,
        ),
        Step(
            name="conversations",
            title=_conversations_title,
            body=bodies.conversations,
            identity=identity.conversations,
            entries=("nanochat_core.pipeline.mixture", "nanochat_core.data.conversations"),
            packages=("tiktoken", "numpy", "pyarrow", "datasets"),
            headline=lambda m: f"{m['conversations']:,} conversations in {m['rows']:,} rows",
            inputs=("tokenizer", "benchmarks"),
        ),
        Step(
            name="sft",
            title=lambda plan: f"{plan.config.sft.epochs} epoch" + ("s" if plan.config.sft.epochs > 1 else ""),
            body=trainings.sft,
            identity=identity.sft,
            entries=("nanochat_core.train.sft", "nanochat_core.train.worker"),
            packages=TRAINING_PACKAGES,
            headline=_training,
            inputs=("tokenizer", "conversations", "pretrain"),
        ),
        Step(
            name="evaluate_chat",
            title=lambda plan: "held-out questions, samples",
            body=bodies.evaluate_chat,
            identity=identity.evaluate,
            entries=("nanochat_core.evals.worker",),
            packages=EVALUATION_PACKAGES,
            headline=_chat_scores,
            inputs=("tokenizer", "tokens", "conversations", "sft"),
        ),
        Step(
            name="benchmark_chat",
            title=lambda plan: "chat benchmarks",
            body=evaluations.benchmark_chat,
            identity=identity.benchmark,
            entries=("nanochat_core.evals.benchmarks.worker",),
            packages=EVALUATION_PACKAGES,
            headline=_chat_core,
            inputs=("tokenizer", "benchmarks", "sft"),
            is_wanted=lambda plan: plan.has_benchmarks,
        ),
        Step(
            name="report",
            title=lambda plan: "curves and tables",
            body=bodies.report,
            identity=identity.report,
            entries=("nanochat_core.report.figures",),
            packages=("matplotlib", "numpy"),
            headline=lambda m: f"{m['num_figures']} figures",
            inputs=(
                "tokenizer",
                "pretrain",
                "evaluate_base",
                "evaluate_core",
                "benchmark_base",
                "sft",
                "evaluate_chat",
                "benchmark_chat",
            ),
            reads_logs=True,
        ),
    )
}


def wanted(plan: RunPlan) -> dict[str, Step]:
    """The steps that a run of this plan has, in order."""
    return {name: step for name, step in STEPS.items() if step.is_wanted(plan)}


def _run(name: str, plan: RunPlan, *refs: Ref | None) -> Ref | None:
    """Run one step; None where the plan has no such step, or for an input that it has none of."""
    step = STEPS[name]
    if not step.is_wanted(plan):
        return None
    inputs = {source: ref for source, ref in zip(step.inputs, refs, strict=True) if ref is not None}
    return execute(step, plan, inputs, STEPS)


def _must(name: str, plan: RunPlan, *refs: Ref | None) -> Ref:
    ref = _run(name, plan, *refs)
    assert ref is not None, f"every run has {name}"
    return ref


def corpus(plan: RunPlan) -> Ref:
    """Text as parquet shards, training and validation apart."""
    return _must("corpus", plan)


def tokenizer(plan: RunPlan, corpus: Ref) -> Ref:
    """A BPE vocabulary learnt from the corpus."""
    return _must("tokenizer", plan, corpus)


def encoded_shards(plan: RunPlan, corpus: Ref, tokenizer: Ref) -> None:
    """Nothing: without a cluster the `tokens` step encodes by itself (tasks/scale_out.py has the other way)."""


def tokens(plan: RunPlan, corpus: Ref, tokenizer: Ref) -> Ref:
    """The corpus as token shards and packed rows."""
    return _must("tokens", plan, corpus, tokenizer)


def pretrain(plan: RunPlan, tokenizer: Ref, tokens: Ref) -> Ref:
    """The base model that the plan describes."""
    return _must("pretrain", plan, tokenizer, tokens)


def evaluate_base(plan: RunPlan, tokenizer: Ref, tokens: Ref, pretrain: Ref) -> Ref:
    """Bits per byte and samples of the base model."""
    return _must("evaluate_base", plan, tokenizer, tokens, pretrain)


def core_bundle(plan: RunPlan) -> Ref | None:
    """The data of the 22 CORE benchmarks."""
    return _run("core_bundle", plan)


def core_prompts(plan: RunPlan, tokenizer: Ref, core_bundle: Ref | None) -> Ref | None:
    """CORE's items with their few-shot examples, as tokens."""
    return _run("core_prompts", plan, tokenizer, core_bundle)


def evaluate_core(plan: RunPlan, core_prompts: Ref | None, pretrain: Ref) -> Ref | None:
    """CORE of the base model, with every item's outcome."""
    return _run("evaluate_core", plan, core_prompts, pretrain)


def benchmarks(plan: RunPlan) -> Ref | None:
    """The items of the chat benchmarks."""
    return _run("benchmarks", plan)


def benchmark_base(plan: RunPlan, tokenizer: Ref, benchmarks: Ref | None, pretrain: Ref) -> Ref | None:
    """The base model on the multiple-choice benchmarks: what fine-tuning started from."""
    return _run("benchmark_base", plan, tokenizer, benchmarks, pretrain)


def conversations(plan: RunPlan, tokenizer: Ref, benchmarks: Ref | None) -> Ref:
    """Packed conversations to fine-tune on, without benchmark items, and questions held out from them."""
    return _must("conversations", plan, tokenizer, benchmarks)


def sft(plan: RunPlan, tokenizer: Ref, conversations: Ref, pretrain: Ref) -> Ref:
    """The chat model: the base model fine-tuned on the conversations."""
    return _must("sft", plan, tokenizer, conversations, pretrain)


def evaluate_chat(plan: RunPlan, tokenizer: Ref, tokens: Ref, conversations: Ref, sft: Ref) -> Ref:
    """Bits per byte, held-out questions and samples of the chat model."""
    return _must("evaluate_chat", plan, tokenizer, tokens, conversations, sft)


def benchmark_chat(plan: RunPlan, tokenizer: Ref, benchmarks: Ref | None, sft: Ref) -> Ref | None:
    """The chat model on the chat benchmarks."""
    return _run("benchmark_chat", plan, tokenizer, benchmarks, sft)


def report(
    plan: RunPlan,
    tokenizer: Ref,
    pretrain: Ref,
    evaluate_base: Ref,
    evaluate_core: Ref | None,
    benchmark_base: Ref | None,
    sft: Ref,
    evaluate_chat: Ref,
    benchmark_chat: Ref | None,
) -> Ref:
    """Figures and tables of the run."""
    models = (tokenizer, pretrain, evaluate_base, evaluate_core, benchmark_base, sft, evaluate_chat, benchmark_chat)
    return _must("report", plan, *models)
