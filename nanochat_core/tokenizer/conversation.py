"""Conversations as token ids with a loss mask.

    <|bos|><|user_start|>...<|user_end|><|assistant_start|>...<|assistant_end|> ...

The model learns what the assistant writes: its text, its tool calls between python_start and python_end, and its end
token. It does not learn the user's words, nor what a tool returned (output_start..output_end): at run time those are
forced; nor an answer, or a part of one, with `train` false. A system message is put before the first user message, as
nanochat does. Text goes through `encode`, so it never yields a special token.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from nanochat_core.base.errors import MissingError
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.tokenizer import Tokenizer

Message = Mapping[str, Any]
FORM = '{"messages": [{"role": "user", "content": "..."}, ...]}'
PART_TOKENS = {"python": (tk.PYTHON_START, tk.PYTHON_END), "python_output": (tk.OUTPUT_START, tk.OUTPUT_END)}


def render_conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Ids and mask (1: learn to predict this token) of a conversation that starts with the user and alternates."""
    ids, mask = [tokenizer.bos], [0]

    def add(new: Sequence[int], learn: bool) -> None:
        ids.extend(new)
        mask.extend([int(learn)] * len(new))

    for message in check_messages(messages):
        if message["role"] == "user":
            add([tokenizer.special(tk.USER_START)], False)
            add(tokenizer.encode(message["content"]), False)
            add([tokenizer.special(tk.USER_END)], False)
        else:
            add([tokenizer.special(tk.ASSISTANT_START)], False)
            is_learnt = message.get("train", True)
            for new, learn in _assistant_parts(tokenizer, message["content"]):
                add(new, learn and (is_learnt or not isinstance(message["content"], str)))
            add([tokenizer.special(tk.ASSISTANT_END)], is_learnt)
    return ids, mask


def render_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids up to where the assistant is to speak: the conversation so far and assistant_start."""
    ids, _ = render_conversation(tokenizer, messages)
    return [*ids, tokenizer.special(tk.ASSISTANT_START)]


def _assistant_parts(tokenizer: Tokenizer, content: Any) -> list[tuple[list[int], bool]]:
    """Text is one learnt part; a list of {"type": text|python|python_output, "text"} holds tool calls as well."""
    if isinstance(content, str):
        return [(tokenizer.encode(content), True)]
    parts: list[tuple[list[int], bool]] = []
    for part in content:
        ids = tokenizer.encode(part["text"])
        if part["type"] in PART_TOKENS:
            start, end = PART_TOKENS[part["type"]]
            ids = [tokenizer.special(start), *ids, tokenizer.special(end)]
        parts.append((ids, part["type"] != "python_output" and part.get("train", True)))
    return parts


def check_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """The messages with a system message folded into the first user message; MissingError where the form is wrong."""
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise MissingError(f"message {number + 1} is {message!r:.80}, not an object", hint=FORM)
    checked = [dict(message) for message in messages]
    if checked and checked[0].get("role") == "system":
        system = checked.pop(0)
        if not checked:
            raise MissingError("a conversation holds nothing but a system message")
        for number, message in enumerate((system, checked[0])):
            if not isinstance(message.get("content"), str):
                raise MissingError(f"message {number + 1} has no text: {message.get('content')!r:.80}", hint=FORM)
        checked[0]["content"] = f"{system['content']}\n\n{checked[0]['content']}"
    if not checked:
        raise MissingError(
            "a conversation without messages", hint='{"messages": [{"role": "user", "content": "..."}, ...]}'
        )
    for number, message in enumerate(checked):
        expected = "assistant" if number % 2 else "user"
        if message.get("role") != expected:
            raise MissingError(
                f"message {number + 1} is from {message.get('role')!r}; it is the {expected}'s turn",
                hint="user and assistant alternate, the user first",
            )
        _check_content(message, number)
    return checked


def _check_content(message: Message, number: int) -> None:
    content = message.get("content")
    if isinstance(content, str):
        return
    is_parts = message["role"] == "assistant" and isinstance(content, list)
    if not is_parts or not all(
        isinstance(part, dict) and part.get("type") in ("text", *PART_TOKENS) and isinstance(part.get("text"), str)
        for part in content or []
    ):
        raise MissingError(f"message {number + 1} has no text: {str(content)[:80]!r}", hint="content is a string")
