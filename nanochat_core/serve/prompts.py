"""From what a client sends to what the model reads: token ids, and how the answer is sampled.

Text goes through the tokenizer's `encode`, which knows no special tokens, so nobody can forge an end of turn; only
/tokenize reads them, for clients that build prompts of ids. Every training row starts with BOS, and lm-eval never sends
it: it is put before a completion's prompt here, and left out of what is echoed.

Agents and front ends send several messages of one role, instructions in the middle, a greeting before any question. The
model knows two speakers, the user first: a system or developer message is the user's text, as in training; neighbours
of one role are one turn, an empty line between them; before a greeting stands an empty turn of the user's.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat_core.base.errors import NanochatError
from nanochat_core.inference.sampling import Sampling
from nanochat_core.serve.errors import ApiError, refused
from nanochat_core.serve.schema import ChatBody, CompletionBody, Message, Part, Sampled
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.conversation import render_prompt
from nanochat_core.tokenizer.tokenizer import Tokenizer

DEFAULT_TEMPERATURE = 1.0  # OpenAI's
CHAT_TOP_K = 50  # a small model's tail of unlikely tokens is mostly noise
COMPLETION_TOKENS = 16  # OpenAI's default for plain completions
NO_LIMIT = -1
LEAST_TOP_P = 1e-9  # OpenAI takes 0: of a nucleus that small only the likeliest token is left
SEED_BITS = 48  # seeds that we choose survive JavaScript's numbers
BETWEEN = Part(type="text", text="\n\n")  # two messages of one turn

CHAT_TEMPLATE = (
    "<|bos|>{% set turn = namespace(role='', said=false) %}{% for message in messages %}"
    "{% set role = 'assistant' if message.role == 'assistant' else 'user' %}{% set text = message.content or '' %}"
    "{% if role != turn.role %}"
    "{% if turn.role %}<|{{ turn.role }}_end|>{% elif role == 'assistant' %}<|user_start|><|user_end|>{% endif %}"
    "<|{{ role }}_start|>{% set turn.said = false %}{% set turn.role = role %}{% endif %}"
    "{% if text %}{{ '\\n\\n' if turn.said else '' }}{{ text }}{% set turn.said = true %}{% endif %}{% endfor %}"
    "{% if turn.role %}<|{{ turn.role }}_end|>{% endif %}{% if add_generation_prompt %}<|assistant_start|>{% endif %}"
)
"""The conversation form in Jinja, for clients that render it themselves; tests compare it with what chat makes."""


@dataclass(frozen=True)
class Prompt:
    """What the model reads, and how much of it the client did not send."""

    ids: list[int]
    num_hidden: int = 0
    """Ids at the start that are ours: 1 for a BOS that was put before the client's prompt."""

    @property
    def echoed(self) -> list[int]:
        return self.ids[self.num_hidden :]


@dataclass
class Turn:
    """What one side says before the other one speaks."""

    role: str
    parts: list[Part] = field(default_factory=list)

    def add(self, parts: Sequence[Part]) -> None:
        """Another message of the same side."""
        said = [part for part in parts if part.text or part.type != "text"]
        if said and self.parts:
            self.parts.append(BETWEEN)
        self.parts += said

    @property
    def message(self) -> dict[str, Any]:
        """In the form of conversation.py: only an assistant's message keeps its parts apart."""
        if any(part.type != "text" for part in self.parts):
            return {"role": self.role, "content": [part.model_dump() for part in self.parts]}
        return {"role": self.role, "content": "".join(part.text for part in self.parts)}


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """The turns of a conversation of at least one message."""
    turns: list[Turn] = []
    for message in messages:
        role = "assistant" if message.role == "assistant" else "user"
        if not turns or turns[-1].role != role:
            if not turns and role == "assistant":
                turns.append(Turn("user"))
            turns.append(Turn(role))
        turns[-1].add(message.content)
    return turns


def chat_prompt(tokenizer: Tokenizer, body: ChatBody, *, context_tokens: int) -> Prompt:
    """The conversation up to where the assistant is to speak."""
    num_chars = sum(len(part.text) for message in body.messages for part in message.content)
    check_least(tokenizer, num_chars, context_tokens=context_tokens, param="messages")
    turns = turns_of(body.messages)
    if turns[-1].role != "user":
        raise ApiError(
            400, "the last message is the assistant's: the answer follows one from the user, none is continued here",
            param="messages",
        )  # fmt: skip
    try:
        return Prompt(render_prompt(tokenizer, [turn.message for turn in turns]))
    except NanochatError as error:
        raise ApiError(400, error.message, param="messages") from error


def completion_prompts(tokenizer: Tokenizer, body: CompletionBody, *, context_tokens: int, most: int) -> list[Prompt]:
    """One prompt per text or list of ids, `most` at most; ApiError before any is read that cannot be answered."""
    prompt = listed(body)
    if not prompt:
        raise ApiError(400, "prompt is an empty list", param="prompt")
    if len(prompt) > most:
        raise ApiError(400, f"{len(prompt)} prompts in one request; this server takes {most}", param="prompt")
    for one in prompt:
        if isinstance(one, str):
            check_least(tokenizer, len(one), context_tokens=context_tokens, param="prompt")
        else:
            num_ids = len(one) + (one[:1] != [tokenizer.bos])
            check_context(num_ids, context_tokens=context_tokens, param="prompt")
    return [_completion_prompt(tokenizer, one) for one in prompt]


def listed(body: CompletionBody) -> list[str | list[int]]:
    """The prompts of a request as they were sent."""
    prompt = "" if body.prompt is None else body.prompt
    if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
        return [prompt]  # type: ignore[list-item]
    return prompt  # type: ignore[return-value]


def _completion_prompt(tokenizer: Tokenizer, prompt: str | list[int]) -> Prompt:
    ids = tokenizer.encode(prompt) if isinstance(prompt, str) else check_ids(tokenizer, prompt, param="prompt")
    if not isinstance(prompt, str) and ids and ids[0] == tokenizer.bos:
        return Prompt(ids)
    return Prompt([tokenizer.bos, *ids], num_hidden=1)


def check_ids(tokenizer: Tokenizer, ids: Sequence[int], *, param: str) -> list[int]:
    """The ids, all of them tokens; ApiError naming one that is not."""
    for token in ids:
        if not 0 <= token < tokenizer.vocab_size:
            raise ApiError(400, f"token {token} is not in the vocabulary of {tokenizer.vocab_size} tokens", param=param)
    return list(ids)


def check_least(tokenizer: Tokenizer, num_chars: int, *, context_tokens: int, param: str) -> None:
    """ApiError where even the longest tokens would not bring a text of so many characters into the context."""
    check_context(
        -(-num_chars // tokenizer.longest_bytes), context_tokens=context_tokens, param=param, least="at least "
    )


def check_context(
    num_tokens: int, *, context_tokens: int, param: str, least: str = "", needs_room: bool = False
) -> None:
    """ApiError naming both numbers where a prompt does not fit into the context."""
    if num_tokens + needs_room > context_tokens:
        raise ApiError(
            400,
            f"this model's context is {context_tokens} tokens, and the prompt has {least}{num_tokens}"
            + (", which leaves no room for an answer" if needs_room else ""),
            param=param,
            code="context_length_exceeded",
        )


def check_room(prompt: Prompt, *, context_tokens: int, param: str, needs_room: bool = True) -> None:
    """ApiError naming both numbers where the prompt leaves no room for an answer."""
    check_context(len(prompt.ids), context_tokens=context_tokens, param=param, needs_room=needs_room)


def chat_sampling(tokenizer: Tokenizer, body: ChatBody, *, room: int) -> Sampling:
    """How a chat answer is sampled; without a limit it may fill the context."""
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    wanted = body.max_completion_tokens or body.max_tokens or NO_LIMIT
    return _sampling(tokenizer, body, room=room, wanted=wanted, top_k=CHAT_TOP_K, num_logprobs=num_logprobs)


def completion_sampling(tokenizer: Tokenizer, body: CompletionBody, *, room: int) -> Sampling:
    """How a plain continuation is sampled: all tokens, no tools."""
    logprobs = body.num_logprobs
    wanted = max_tokens(body)
    return _sampling(tokenizer, body, room=room, wanted=wanted, top_k=None, num_logprobs=logprobs, use_tools=False)


def max_tokens(body: CompletionBody) -> int:
    """How long a plain continuation may get; NO_LIMIT: as long as the context."""
    return COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens


def _sampling(
    tokenizer: Tokenizer, body: Sampled, *, room: int, wanted: int, top_k: int | None, **fixed: Any
) -> Sampling:
    stops = [body.stop] if isinstance(body.stop, str) else body.stop or []
    seed = secrets.randbits(SEED_BITS) if body.seed is None else body.seed
    asked_top_k = top_k if body.top_k is None else body.top_k
    try:
        return Sampling(
            temperature=DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
            top_k=asked_top_k if asked_top_k is not None and asked_top_k > 0 else None,
            top_p=LEAST_TOP_P if body.top_p == 0 else body.top_p,
            max_new_tokens=room if wanted == NO_LIMIT else min(wanted, room),
            seed=seed,
            stop=tuple(text for text in stops if text and text not in tk.SPECIAL_TOKENS),
            # lm-eval sends the end token by its name: the model says it as one id, never as text
            stop_ids=tuple(tokenizer.special(text) for text in stops if text in tk.SPECIAL_TOKENS),
            **fixed,
        )
    except NanochatError as error:
        raise refused(error) from error
