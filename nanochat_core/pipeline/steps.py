"""The pipeline's steps as functions: plan and refs in, a ref out. Flows call these, directly or as Prefect tasks."""

from typing import Any

from nanochat_core.base.units import count
from nanochat_core.pipeline import bodies, checks, evaluations, headlines, identity, notes, trainings
from nanochat_core.pipeline.rl_questions import rl_questions as write_rl_questions
from nanochat_core.pipeline.step import Ref, Step, execute
from nanochat_core.plan import RunPlan

TRAINING_PACKAGES = ("torch", "numpy")
EVALUATION_PACKAGES = (*TRAINING_PACKAGES, "tiktoken")


def _corpus_title(plan: RunPlan) -> str:
    config = plan.config.corpus
    return {"embedded": "documentation of this environment", "path": config.path, "hub": config.dataset}[
        config.source
    ] or ""


def _limited(what: str, limit: int | None) -> str:
    return what if limit is None else f"{what}, {limit:,} items each"


def _conversations_title(plan: RunPlan) -> str:
    sft = plan.config.sft
    return {"builtin": "built-in mix", "path": str(sft.path), "mix": sft.smoltalk}[sft.source]


def _chat_evaluation(name: str, model: str, **changes: Any) -> Step:
    """Held-out questions to a chat model that step `model` made."""
    return Step(
        name=name,
        title=lambda plan: "held-out questions, samples",
        identity=identity.evaluate,
        packages=EVALUATION_PACKAGES,
        headline=headlines.chat_scores,
        inputs=("tokenizer", "tokens", "conversations", model),
        needs_gpu=True,
        **changes,
    )


def _chat_benchmark(name: str, model: str, **changes: Any) -> Step:
    """Chat benchmarks of a chat model that step `model` made."""
    return Step(
        name=name,
        title=lambda plan: "chat benchmarks",
        identity=identity.benchmark,
        packages=EVALUATION_PACKAGES,
        headline=headlines.chat_core,
        inputs=("tokenizer", "benchmarks", model),
        needs_gpu=True,
        **changes,
    )


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step(
            name="corpus",
            title=_corpus_title,
            body=bodies.corpus,
            checks=checks.corpus,
            identity=identity.corpus,
            packages=("pyarrow", "datasets"),
            headline=headlines.corpus,
            notes=notes.corpus,
        ),
        Step(
            name="tokenizer",
            title=lambda plan: f"vocabulary of {plan.config.tokenizer.vocab_size:,} tokens",
            body=bodies.tokenizer,
            checks=checks.tokenizer,
            identity=identity.tokenizer,
            packages=("rustbpe", "tiktoken", "pyarrow"),
            headline=lambda m: f"{m['bytes_per_token']:.2f} bytes per token",
            inputs=("corpus",),
        ),
        Step(
            name="tokens",
            title=lambda plan: f"text in rows of {plan.pretrain.model.sequence_len:,} tokens",
            body=bodies.tokens,
            checks=checks.tokens,
            identity=identity.tokens,
            packages=("tiktoken", "numpy", "pyarrow"),
            headline=headlines.tokens,
            inputs=("corpus", "tokenizer"),
        ),
        Step(
            name="pretrain",
            title=lambda plan: f"depth {plan.pretrain.model.n_layer}, {count(plan.pretrain.num_tokens)} tokens",
            body=trainings.pretrain,
            needs_gpu=True,
            checks=checks.training,
            identity=identity.pretrain,
            packages=TRAINING_PACKAGES,
            headline=headlines.training,
            inputs=("tokenizer", "tokens"),
        ),
        Step(
            name="evaluate_base",
            title=lambda plan: "bits per byte, samples",
            body=evaluations.evaluate_base,
            needs_gpu=True,
            identity=identity.evaluate,
            packages=EVALUATION_PACKAGES,
            headline=headlines.bpb,
            inputs=("tokenizer", "tokens", "pretrain"),
        ),
        Step(
            name="core_bundle",
            title=lambda plan: _limited("CORE's benchmarks", plan.config.core.max_per_benchmark),
            body=evaluations.core_bundle,
            identity=identity.core_bundle,
            packages=(),
            headline=lambda m: f"{m['num_benchmarks']} benchmarks, {count(m['num_bytes'])}B",
            is_wanted=lambda plan: plan.has_core,
        ),
        Step(
            name="core_prompts",
            title=lambda plan: "rendered and tokenized",
            body=evaluations.core_prompts,
            identity=identity.core_prompts,
            packages=("tiktoken", "numpy"),
            headline=lambda m: f"{m['num_items']:,} items, {count(m['num_tokens'])} tokens",
            inputs=("tokenizer", "core_bundle"),
            is_wanted=lambda plan: plan.has_core,
        ),
        Step(
            name="evaluate_core",
            title=lambda plan: "CORE of the base model",
            body=evaluations.evaluate_core,
            needs_gpu=True,
            identity=identity.evaluate_core,
            packages=TRAINING_PACKAGES,
            headline=headlines.core,
            inputs=("core_prompts", "pretrain"),
            is_wanted=lambda plan: plan.has_core,
        ),
        Step(
            name="benchmarks",
            title=lambda plan: _limited(plan.config.benchmarks.names, plan.config.benchmarks.max_per_benchmark),
            body=evaluations.benchmarks,
            identity=identity.benchmarks,
            packages=("datasets",),
            headline=lambda m: f"{m['num_items']:,} items of {len(m['benchmarks'])} benchmarks",
            is_wanted=lambda plan: plan.has_benchmarks,
        ),
        Step(
            name="benchmark_base",
            title=lambda plan: "multiple choice, base model",
            body=evaluations.benchmark_base,
            needs_gpu=True,
            identity=identity.benchmark,
            packages=EVALUATION_PACKAGES,
            headline=headlines.chat_core,
            inputs=("tokenizer", "benchmarks", "pretrain"),
            is_wanted=lambda plan: plan.has_benchmarks,
        ),
        Step(
            name="conversations",
            title=_conversations_title,
            body=bodies.conversations,
            identity=identity.conversations,
            packages=("tiktoken", "numpy", "pyarrow", "datasets"),
            headline=lambda m: f"{m['conversations']:,} conversations in {m['rows']:,} rows",
            notes=notes.conversations,
            inputs=("tokenizer", "benchmarks"),
        ),
        Step(
            name="sft",
            title=lambda plan: (
                f"fine-tuning, {plan.config.sft.epochs} epoch{'s' if plan.config.sft.epochs > 1 else ''}"
            ),
            body=trainings.sft,
            needs_gpu=True,
            checks=checks.training,
            identity=identity.sft,
            packages=TRAINING_PACKAGES,
            headline=headlines.training,
            inputs=("tokenizer", "conversations", "pretrain"),
        ),
        _chat_evaluation("evaluate_chat", "sft", body=evaluations.evaluate_chat),
        _chat_benchmark(
            "benchmark_chat", "sft", body=evaluations.benchmark_chat, is_wanted=lambda plan: plan.has_benchmarks
        ),
        Step(
            name="rl_questions",
            title=lambda plan: {"gsm8k": "GSM8K", "arithmetic": "sums of three numbers"}[plan.config.rl.source],
            body=write_rl_questions,
            identity=identity.rl_questions,
            packages=("datasets",),
            headline=lambda m: f"{m['train_questions']:,} to practise, {m['held_out_questions']:,} held out",
            is_wanted=lambda plan: plan.has_rl,
        ),
        Step(
            name="rl",
            title=lambda plan: f"practice, {plan.config.rl.samples_per_question} answers to each question",
            body=trainings.rl,
            needs_gpu=True,
            checks=checks.rl,
            identity=identity.rl,
            packages=EVALUATION_PACKAGES,
            headline=headlines.reward,
            inputs=("tokenizer", "rl_questions", "sft"),
            is_wanted=lambda plan: plan.has_rl,
        ),
        _chat_evaluation("evaluate_rl", "rl", body=evaluations.evaluate_rl, is_wanted=lambda plan: plan.has_rl),
        _chat_benchmark(
            "benchmark_rl",
            "rl",
            body=evaluations.benchmark_rl,
            is_wanted=lambda plan: plan.has_rl and plan.has_benchmarks,
        ),
        Step(
            name="report",
            title=lambda plan: "curves and tables",
            body=bodies.report,
            identity=identity.report,
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
                "rl",
                "evaluate_rl",
                "benchmark_rl",
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


def rl_questions(plan: RunPlan) -> Ref | None:
    """Questions to practise on, and others held out."""
    return _run("rl_questions", plan)


def rl(plan: RunPlan, tokenizer: Ref, rl_questions: Ref | None, sft: Ref) -> Ref | None:
    """The chat model after practice on questions whose answers can be checked."""
    return _run("rl", plan, tokenizer, rl_questions, sft)


def evaluate_rl(plan: RunPlan, tokenizer: Ref, tokens: Ref, conversations: Ref, rl: Ref | None) -> Ref | None:
    """The same held-out questions and samples after practice."""
    return _run("evaluate_rl", plan, tokenizer, tokens, conversations, rl)


def benchmark_rl(plan: RunPlan, tokenizer: Ref, benchmarks: Ref | None, rl: Ref | None) -> Ref | None:
    """The same chat benchmarks after practice."""
    return _run("benchmark_rl", plan, tokenizer, benchmarks, rl)


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
    rl: Ref | None,
    evaluate_rl: Ref | None,
    benchmark_rl: Ref | None,
) -> Ref:
    """Figures and tables of the run."""
    models = (tokenizer, pretrain, evaluate_base, evaluate_core, benchmark_base, sft, evaluate_chat, benchmark_chat)
    return _must("report", plan, *models, rl, evaluate_rl, benchmark_rl)
