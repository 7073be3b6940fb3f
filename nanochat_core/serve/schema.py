"""The bodies of requests, as OpenAI's clients send them, with `top_k` and the parts of earlier tool calls added.

Explicit nulls count as absent and unknown fields are ignored; what would change the answer and is not done here (tools,
several choices, penalties, JSON mode) is refused by name rather than left out silently. Types are strict: a number in
quotes is a mistake to be told about.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nanochat_core.serve.errors import ApiError

MAX_LOGPROBS = 20
Count = Annotated[int, Field(ge=0, le=1 << 31)]
TokenId = Annotated[int, Field(ge=0, le=1 << 31)]
PartType = Literal["text", "python", "python_output"]


class Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Part(Body):
    """A piece of a message; python and python_output, in an assistant's, tell the model of earlier tool calls."""

    type: PartType
    text: str


class Message(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]


class StreamOptions(Body):
    include_usage: bool | None = None


class ResponseFormat(Body):
    type: str


class Sampled(Body):
    """What chat and plain completions have in common."""

    model: str | None = None
    """None: the first model that the server was started with."""
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 31)] | None = None
    """0 or -1: all tokens."""
    max_tokens: Count | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: dict[str, float] | None = None

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_supported(self) -> None:
        """ApiError for the first field that asks for what is not done here."""
        for name, plain in (("n", 1), ("frequency_penalty", 0), ("presence_penalty", 0), ("logit_bias", {})):
            if getattr(self, name) not in (None, plain):
                raise unsupported(name, f"only {plain} is supported")


class ChatBody(Sampled):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None
    tools: list[Any] | None = None
    functions: list[Any] | None = None

    def check_supported(self) -> None:
        super().check_supported()
        if self.tools or self.functions:
            name = "tools" if self.tools else "functions"
            raise unsupported(name, "the model has a calculator of its own and no other tools")
        if self.response_format is not None and self.response_format.type != "text":
            raise unsupported("response_format", "only text is supported")
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")


class CompletionBody(Sampled):
    """POST /v1/completions"""

    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None
    suffix: str | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None

    def check_supported(self) -> None:
        super().check_supported()
        if self.suffix:
            raise unsupported("suffix", "the model writes forward only")
        if self.best_of not in (None, 1):
            raise unsupported("best_of", "only 1 is supported")
        if self.stream and self.echo and self.logprobs is not None:
            raise unsupported("stream", "echo with logprobs comes in one piece")


class TokenizeBody(Body):
    """POST /tokenize: the one place where text that spells a special token becomes it."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None
    """Whether the ids start with the beginning-of-sequence token. Absent: yes."""


class DetokenizeBody(Body):
    """POST /detokenize"""

    tokens: list[TokenId]
    model: str | None = None


def unsupported(name: str, reason: str) -> ApiError:
    return ApiError(400, f"{name} is not supported here: {reason}", param=name, code="unsupported_parameter")
