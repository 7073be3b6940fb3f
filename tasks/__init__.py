"""One Prefect task per step: policy and one core call each. What a step does is in nanochat_core."""

from nanochat_core.pipeline import steps
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan
from tasks import policy
from tasks.scale_out import encoded_shards
from tasks.summary import publish_summary

__all__ = [
    "benchmark_base", "benchmark_chat", "benchmark_rl", "benchmarks", "conversations", "core_bundle", "core_prompts",
    "corpus", "encoded_shards", "evaluate_base", "evaluate_chat", "evaluate_core", "evaluate_rl", "pretrain",
    "publish_summary", "report", "rl", "rl_questions", "sft", "tokenizer", "tokens",
]  # fmt: skip


@policy.step()
def corpus(plan: RunPlan) -> Ref:
    """Fetch or collect the text."""
    return steps.corpus(plan)


@policy.step()
def tokenizer(plan: RunPlan, corpus: Ref) -> Ref:
    """Learn the vocabulary."""
    return steps.tokenizer(plan, corpus)


@policy.step()
def tokens(plan: RunPlan, corpus: Ref, tokenizer: Ref) -> Ref:
    """Tokenize and pack the corpus."""
    return steps.tokens(plan, corpus, tokenizer)


@policy.step(retries=3)
def pretrain(plan: RunPlan, tokenizer: Ref, tokens: Ref) -> Ref:
    """Train the base model that `plan` describes; a retry goes on from the last checkpoint."""
    return steps.pretrain(plan, tokenizer, tokens)


@policy.step()
def evaluate_base(plan: RunPlan, tokenizer: Ref, tokens: Ref, pretrain: Ref) -> Ref:
    """Bits per byte and samples of the base model."""
    return steps.evaluate_base(plan, tokenizer, tokens, pretrain)


@policy.step()
def core_bundle(plan: RunPlan) -> Ref | None:
    """Fetch the data of the CORE benchmarks."""
    return steps.core_bundle(plan)


@policy.step()
def core_prompts(plan: RunPlan, tokenizer: Ref, core_bundle: Ref | None) -> Ref | None:
    """Render and tokenize CORE's items."""
    return steps.core_prompts(plan, tokenizer, core_bundle)


@policy.step()
def evaluate_core(plan: RunPlan, core_prompts: Ref | None, pretrain: Ref) -> Ref | None:
    """CORE of the base model."""
    return steps.evaluate_core(plan, core_prompts, pretrain)


@policy.step()
def benchmarks(plan: RunPlan) -> Ref | None:
    """Fetch the items of the chat benchmarks."""
    return steps.benchmarks(plan)


@policy.step()
def benchmark_base(plan: RunPlan, tokenizer: Ref, benchmarks: Ref | None, pretrain: Ref) -> Ref | None:
    """The base model on the multiple-choice benchmarks."""
    return steps.benchmark_base(plan, tokenizer, benchmarks, pretrain)


@policy.step()
def conversations(plan: RunPlan, tokenizer: Ref, benchmarks: Ref | None) -> Ref:
    """Make or read the conversations to fine-tune on."""
    return steps.conversations(plan, tokenizer, benchmarks)


@policy.step(retries=3)
def sft(plan: RunPlan, tokenizer: Ref, conversations: Ref, pretrain: Ref) -> Ref:
    """Fine-tune the base model into a chat model; a retry goes on from the last checkpoint."""
    return steps.sft(plan, tokenizer, conversations, pretrain)


@policy.step()
def evaluate_chat(plan: RunPlan, tokenizer: Ref, tokens: Ref, conversations: Ref, sft: Ref) -> Ref:
    """Held-out questions and samples of the chat model."""
    return steps.evaluate_chat(plan, tokenizer, tokens, conversations, sft)


@policy.step()
def benchmark_chat(plan: RunPlan, tokenizer: Ref, benchmarks: Ref | None, sft: Ref) -> Ref | None:
    """The chat model on the chat benchmarks."""
    return steps.benchmark_chat(plan, tokenizer, benchmarks, sft)


@policy.step()
def rl_questions(plan: RunPlan) -> Ref | None:
    """Get the questions for reinforcement learning."""
    return steps.rl_questions(plan)


@policy.step(retries=3)
def rl(plan: RunPlan, tokenizer: Ref, rl_questions: Ref | None, sft: Ref) -> Ref | None:
    """Let the chat model practise; a retry goes on from the last checkpoint."""
    return steps.rl(plan, tokenizer, rl_questions, sft)


@policy.step()
def evaluate_rl(plan: RunPlan, tokenizer: Ref, tokens: Ref, conversations: Ref, rl: Ref | None) -> Ref | None:
    """Held-out questions and samples of the model after reinforcement learning."""
    return steps.evaluate_rl(plan, tokenizer, tokens, conversations, rl)


@policy.step()
def benchmark_rl(plan: RunPlan, tokenizer: Ref, benchmarks: Ref | None, rl: Ref | None) -> Ref | None:
    """The model after reinforcement learning on the chat benchmarks."""
    return steps.benchmark_rl(plan, tokenizer, benchmarks, rl)


@policy.step()
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
    """Draw the run's figures and tables."""
    models = (tokenizer, pretrain, evaluate_base, evaluate_core, benchmark_base, sft, evaluate_chat, benchmark_chat)
    return steps.report(plan, *models, rl, evaluate_rl, benchmark_rl)
