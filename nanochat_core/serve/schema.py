"""The bodies of requests, as OpenAI's clients send them, with `top_k` and the parts of earlier tool calls added.

Explicit nulls count as absent, and so do values that ask for nothing (logprobs: false, max_tokens: -1). Types are
strict: a number in quotes is a mistake to be told about, as OpenAI does. What would change the answer and is not done
here is refused by name (refused.py) rather than left out silently; fields that nobody here knows are ignored.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nanochat_core.serve.errors import ApiError
from nanochat_core.serve.refused import CHAT_FIELDS, COMPLETION_FIELDS, NotTaken, unsupported

MAX_LOGPROBS = 20
MAX_STOPS = 16
MAX_MESSAGES = 4096
MAX_PARTS = 1024
MAX_PROMPTS = 4096  # a server takes fewer (limits.py), and says so
MAX_BIASES = 1024
TEXT_PARTS = {"input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Other names of text, and the key that holds it."""
MEDIA_PARTS = ("image_url", "input_image", "image", "input_audio", "audio", "video_url", "file", "input_file")
NO_TOOLS = "the model has a calculator of its own, and other tools' calls and results are not in its language"
# the first error of a list ends its check: a body of a million errors is one error
TokenId = Annotated[int, Field(ge=0, le=1 << 31)]
Limit = Annotated[int, Field(ge=1, le=1 << 31)] | Literal[-1]
"""-1: none, as LM Studio and llama.cpp have it."""


Ids = Annotated[list[TokenId], Field(fail_fast=True)]


def expected(words: str) -> WrapValidator:
    """One sentence in place of what pydantic says of each member of a union."""

    def check(value: Any, validate: Any) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise PydanticCustomError("form", "{words}", {"words": f"Input should be {words}"}) from None

    return WrapValidator(check)


class Body(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)


class Part(Body):
    """A piece of a message; python and python_output, in an assistant's, tell the model of earlier tool calls."""

    type: Literal["text", "python", "python_output"]
    text: str


class OtherText(Body):
    """A text part under one of its other names."""

    type: Literal["input_text", "output_text"]
    text: str | None = None


class RefusalText(Body):
    """An earlier answer that was a refusal: a text part under a name and a key of its own."""

    type: Literal["refusal"]
    refusal: str | None = None


def _parts(content: Any) -> Any:
    """Whatever holds text as a list of our own parts. PydanticCustomError where something else is in it."""
    if content is None or isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    if not isinstance(content, list):
        raise PydanticCustomError("content", "Input should be a text, null, or a list of text parts")
    if len(content) > MAX_PARTS:
        words = {"words": f"a message may have {MAX_PARTS} parts, this one has {len(content)}"}
        raise PydanticCustomError("content", "{words}", words)
    return [_part(part, number) for number, part in enumerate(content)]


def _part(part: Any, number: int) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in MEDIA_PARTS:
        words = {"number": number, "kind": kind}
        raise PydanticCustomError("media", "part {number} is of type {kind}, and the model reads text only", words)
    if kind in TEXT_PARTS:
        return {"type": "text", "text": part.get(TEXT_PARTS[kind])}
    return part


def _role(role: Any) -> Any:
    if role in ("tool", "function"):
        raise PydanticCustomError(
            "tools", "{words}", {"words": f"a message of the role {role} is not taken: {NO_TOOLS}"}
        )
    return role


def _no_tools(calls: Any) -> Any:
    if calls not in (None, [], {}):
        raise PydanticCustomError("tools", "{words}", {"words": f"calls of tools are not taken: {NO_TOOLS}"})
    return calls


NoCalls = Annotated[
    Any, AfterValidator(_no_tools), WithJsonSchema({"enum": [None, [], {}], "description": "Calls of tools: none."})
]


class Message(Body):
    role: Annotated[Literal["system", "developer", "user", "assistant"], BeforeValidator(_role)]
    content: Annotated[
        list[Part],
        Field(fail_fast=True),
        BeforeValidator(_parts, json_schema_input_type=str | list[Part | OtherText | RefusalText] | None),
    ]
    tool_calls: NoCalls = None
    function_call: NoCalls = None

    @model_validator(mode="after")
    def _check(self) -> "Message":
        if self.role != "assistant" and any(part.type != "text" for part in self.content):
            raise PydanticCustomError("content", "only an assistant's message may hold tool calls")
        return self


def _few(biases: Any) -> Any:
    if isinstance(biases, dict) and len(biases) > MAX_BIASES:
        words = {"words": f"Input should have at most {MAX_BIASES} entries"}
        raise PydanticCustomError("too_long", "{words}", words)
    return biases


class StreamOptions(Body):
    include_usage: bool | None = None


class Sampled(Body):
    """What chat and plain completions have in common."""

    model_config = ConfigDict(extra="allow")
    refused: ClassVar[tuple[NotTaken, ...]] = ()

    model: str | None = None
    """None or empty: the first model that the server was started with."""
    temperature: Annotated[float, Field(ge=0, le=10)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """0: the likeliest token."""
    top_k: Annotated[int, Field(ge=-1, le=1 << 31)] | None = None
    """0 or -1: all tokens."""
    stop: Annotated[
        str | Annotated[list[str], Field(fail_fast=True, max_length=MAX_STOPS)] | None,
        expected(f"a text or up to {MAX_STOPS} texts"),
    ] = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    logit_bias: Annotated[dict[str, float] | None, BeforeValidator(_few)] = None

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def check_supported(self) -> None:
        """ApiError for the first field that asks for what is not done here."""
        extra = self.model_extra or {}
        for field in self.refused:
            field.check(extra.get(field.name, getattr(self, field.name, None)))


class ChatBody(Sampled):
    """POST /v1/chat/completions"""

    refused = CHAT_FIELDS

    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    max_tokens: Annotated[Limit | None, expected("a whole number above 0, or -1 for no limit")] = None
    max_completion_tokens: Annotated[Limit | None, expected("a whole number above 0, or -1 for no limit")] = None
    """The newer name; it counts where both are given."""
    logprobs: Annotated[
        bool | Literal[0] | None, expected("true or false; top_logprobs says how many alternatives")
    ] = None
    top_logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None = None

    def check_supported(self) -> None:
        super().check_supported()
        if self.top_logprobs and not self.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", param="top_logprobs")


class CompletionBody(Sampled):
    """POST /v1/completions"""

    refused = COMPLETION_FIELDS

    prompt: Annotated[
        str
        | Annotated[list[str], Field(fail_fast=True, max_length=MAX_PROMPTS)]
        | Ids
        | Annotated[list[Ids], Field(fail_fast=True, max_length=MAX_PROMPTS)]
        | None,
        expected(f"a text, up to {MAX_PROMPTS} texts, a list of token ids, or up to {MAX_PROMPTS} such lists"),
    ]
    """null: the text begins with the answer."""
    max_tokens: Annotated[
        Annotated[int, Field(ge=0, le=1 << 31)] | Literal[-1] | None, expected("a whole number, or -1 for no limit")
    ] = None
    echo: bool | None = None
    logprobs: Annotated[
        Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | Literal[False] | None,
        expected(f"how many alternatives to tell, 0 to {MAX_LOGPROBS}, or false for no log-probs"),
    ] = None

    @property
    def num_logprobs(self) -> int | None:
        """Alternatives to tell of each token; None: no log-probs."""
        return None if self.logprobs is False else self.logprobs

    def check_supported(self) -> None:
        super().check_supported()
        if self.stream and self.echo and self.num_logprobs is not None:
            raise unsupported("stream", "echo with logprobs comes in one piece")


class TokenizeBody(Body):
    """POST /tokenize: the one place where text that spells a special token becomes it."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool | None = None
    """Whether the ids start with the beginning-of-sequence token. Absent: yes."""


class DetokenizeBody(Body):
    """POST /detokenize"""

    tokens: Ids
    model: str | None = None
