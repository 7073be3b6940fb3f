"""One Prefect task per step: policy and one core call each. What a step does is in nanochat_core."""

from nanochat_core.pipeline import steps
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan
from tasks import policy
from tasks.summary import publish_summary

__all__ = [
    "conversations", "corpus", "evaluate_base", "evaluate_chat", "pretrain", "publish_summary", "report", "sft",
    "tokenizer", "tokens",
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
def conversations(plan: RunPlan, tokenizer: Ref) -> Ref:
    """Make or read the conversations to fine-tune on."""
    return steps.conversations(plan, tokenizer)


@policy.step(retries=3)
def sft(plan: RunPlan, tokenizer: Ref, conversations: Ref, pretrain: Ref) -> Ref:
    """Fine-tune the base model into a chat model; a retry goes on from the last checkpoint."""
    return steps.sft(plan, tokenizer, conversations, pretrain)


@policy.step()
def evaluate_chat(plan: RunPlan, tokenizer: Ref, tokens: Ref, conversations: Ref, sft: Ref) -> Ref:
    """Held-out questions and samples of the chat model."""
    return steps.evaluate_chat(plan, tokenizer, tokens, conversations, sft)


@policy.step()
def report(plan: RunPlan, tokenizer: Ref, pretrain: Ref, evaluate_base: Ref, sft: Ref, evaluate_chat: Ref) -> Ref:
    """Draw the run's figures and tables."""
    return steps.report(plan, tokenizer, pretrain, evaluate_base, sft, evaluate_chat)
