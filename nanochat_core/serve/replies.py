"""The bodies of answers: OpenAI's objects, with what is ours under the key "nanochat".

Only fields that were set are written: a chunk without usage has no `usage`, and OpenAI's nulls are set by name.
"""

import secrets
import time
from typing import Any, Literal

from pydantic import BaseModel, Field

Finish = Literal["stop", "length"]


class Reply(BaseModel):
    def body(self) -> str:
        """As JSON."""
        return self.model_dump_json(exclude_unset=True)

    def line(self) -> str:
        """As JSON in ASCII, for streams: many clients break lines at U+2028 and U+0085 as well."""
        return self.model_dump_json(exclude_unset=True, ensure_ascii=True)


class Usage(Reply):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Speed(Reply):
    """How an answer was made: enough to make it again, and what a page shows under it."""

    seed: int
    ttft_s: float
    tokens_per_s: float
    prompt_tokens: int
    completion_tokens: int
    context_tokens: int


class AnswerPart(Reply):
    type: Literal["text", "python", "python_output"]
    text: str


class AnswerParts(Reply):
    parts: list[AnswerPart]


class ChatMessage(Reply):
    role: Literal["assistant"]
    content: str
    refusal: None
    nanochat: AnswerParts


class Delta(Reply):
    role: Literal["assistant"] | None = None
    content: str | None = None
    nanochat: dict[str, dict[str, str]] | None = None
    """One of tool_call {expression}, tool_result {text}, tool_error {expression}."""


class ChatLogprobs(Reply):
    content: list[dict[str, Any]]
    refusal: None


class ChatChoice(Reply):
    index: int
    message: ChatMessage
    finish_reason: Finish
    logprobs: ChatLogprobs | None


class ChunkChoice(Reply):
    index: int
    delta: Delta
    finish_reason: Finish | None
    logprobs: ChatLogprobs | None


class CompletionLogprobs(Reply):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Reply):
    index: int
    text: str
    finish_reason: Finish | None
    logprobs: CompletionLogprobs | None


class Named(Reply):
    """The head that every completion and chunk has."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    """The ref of the weights: NAME@VERSION."""


class ChatCompletion(Named):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage
    nanochat: Speed


class ChatChunk(Named):
    object: Literal["chat.completion.chunk"]
    choices: list[ChunkChoice]
    usage: Usage | None = None
    nanochat: Speed | None = None


class Completion(Named):
    """Whole, or a piece of a stream: both have the same form."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ModelFacts(Reply):
    kind: str
    context_tokens: int
    num_parameters: int
    bits_per_byte: float | None
    core: float | None
    step: str
    made_at: str
    ref: str


class ModelEntry(Reply):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    nanochat: ModelFacts


class ModelList(Reply):
    object: Literal["list"]
    data: list[ModelEntry]


class TokenizerInfo(Reply):
    bos_token: str
    eos_token: str
    pad_token: str
    chat_template: str
    vocab_size: int


class Tokens(Reply):
    tokens: list[int]
    count: int
    max_model_len: int


class Detokenized(Reply):
    prompt: str


class HealthReply(Reply):
    status: Literal["ok", "unavailable"]
    reason: str | None
    models: dict[str, str] = Field(description="Model -> ready, loading, or the failure.")


def heading(kind: str, *, model: str, ref: str) -> dict[str, Any]:
    """The fields that all chunks of one answer share."""
    return {
        "id": f"{kind}-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": ref,
    }


def usage(prompt_tokens: int, completion_tokens: int) -> Usage:
    total = prompt_tokens + completion_tokens
    return Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens, total_tokens=total)
