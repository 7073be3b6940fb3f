"""The pipeline's steps as functions: plan and refs in, a ref out. Flows call these, directly or as Prefect tasks."""

from typing import Any

from nanochat_core.base.units import count
from nanochat_core.pipeline import bodies, identity
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
            body=bodies.pretrain,
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
            name="conversations",
            title=lambda plan: "built-in mix" if plan.config.sft.source == "builtin" else str(plan.config.sft.path),
            body=bodies.conversations,
            identity=identity.conversations,
            entries=("nanochat_core.pipeline.mixture", "nanochat_core.data.conversations"),
            packages=("tiktoken", "numpy"),
            headline=lambda m: f"{m['conversations']:,} conversations in {m['rows']:,} rows",
            inputs=("tokenizer",),
        ),
        Step(
            name="sft",
            title=lambda plan: f"{plan.config.sft.epochs} epoch" + ("s" if plan.config.sft.epochs > 1 else ""),
            body=bodies.sft,
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
            name="report",
            title=lambda plan: "curves and tables",
            body=bodies.report,
            identity=identity.report,
            entries=("nanochat_core.report.figures",),
            packages=("matplotlib", "numpy"),
            headline=lambda m: f"{m['num_figures']} figures",
            inputs=("tokenizer", "pretrain", "evaluate_base", "sft", "evaluate_chat"),
            reads_logs=True,
        ),
    )
}


def _run(name: str, plan: RunPlan, *refs: Ref) -> Ref:
    step = STEPS[name]
    return execute(step, plan, dict(zip(step.inputs, refs, strict=True)), STEPS)


def corpus(plan: RunPlan) -> Ref:
    """Text as parquet shards, training and validation apart."""
    return _run("corpus", plan)


def tokenizer(plan: RunPlan, corpus: Ref) -> Ref:
    """A BPE vocabulary learnt from the corpus."""
    return _run("tokenizer", plan, corpus)


def tokens(plan: RunPlan, corpus: Ref, tokenizer: Ref) -> Ref:
    """The corpus as token shards and packed rows."""
    return _run("tokens", plan, corpus, tokenizer)


def pretrain(plan: RunPlan, tokenizer: Ref, tokens: Ref) -> Ref:
    """The base model that the plan describes."""
    return _run("pretrain", plan, tokenizer, tokens)


def evaluate_base(plan: RunPlan, tokenizer: Ref, tokens: Ref, pretrain: Ref) -> Ref:
    """Bits per byte and samples of the base model."""
    return _run("evaluate_base", plan, tokenizer, tokens, pretrain)


def conversations(plan: RunPlan, tokenizer: Ref) -> Ref:
    """Packed conversations to fine-tune on, and questions held out from them."""
    return _run("conversations", plan, tokenizer)


def sft(plan: RunPlan, tokenizer: Ref, conversations: Ref, pretrain: Ref) -> Ref:
    """The chat model: the base model fine-tuned on the conversations."""
    return _run("sft", plan, tokenizer, conversations, pretrain)


def evaluate_chat(plan: RunPlan, tokenizer: Ref, tokens: Ref, conversations: Ref, sft: Ref) -> Ref:
    """Bits per byte, held-out questions and samples of the chat model."""
    return _run("evaluate_chat", plan, tokenizer, tokens, conversations, sft)


def report(plan: RunPlan, tokenizer: Ref, pretrain: Ref, evaluate_base: Ref, sft: Ref, evaluate_chat: Ref) -> Ref:
    """Figures and tables of the run."""
    return _run("report", plan, tokenizer, pretrain, evaluate_base, sft, evaluate_chat)
