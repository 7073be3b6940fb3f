"""The messages of others as our turns: who speaks, what is said, what is called, what of it is learnt.

Ours alternate, the user first; an answer with its calls and what they returned is one turn of parts. A call becomes
one of the model's own tool, name(argument=value); a thought that stands beside the text is put before it.
"""

from collections.abc import Sequence
from typing import Any

from nanochat_core.base.errors import MissingError
from nanochat_core.base.foreign import RepeatedKey, loads, once
from nanochat_core.tokenizer.conversation import FORM, PART_TOKENS

Message = dict[str, Any]
ROLES = {
    "system": ("system", "developer"),
    "user": ("user", "human", "prompter"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai", "bing", "bard", "claude", "gemini"),
    "call": ("function_call", "tool_call"),
    "tool": ("tool", "function", "observation", "ipython", "function_response", "tool_response"),
}
ROLE_OF = {alias: role for role, aliases in ROLES.items() for alias in aliases}
TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}  # type -> where its text is
THOUGHTS = ("reasoning_content", "reasoning", "thinking", "thought")
FLAGS = ("weight", "train", "training", "loss", "loss_weight")
MASKS = ("train_detail", "training_detail", "loss_mask", "mask", "masked")
USED = {"role", "from", "content", "value", "text", "tool_calls", "function_call", "name", "id", "tool_call_id", *FLAGS,
        *THOUGHTS}  # fmt: skip
CALCULATORS, EXPRESSIONS = ("python", "calculator", "code_interpreter"), ("expression", "code")


class Unfit(MissingError):
    """One conversation cannot be learnt; the others can."""


def as_list(value: Any, name: str) -> list[Any]:
    """A list, or one that is written as JSON, or one whose items stand as columns; Unfit where it is none."""
    if isinstance(value, str):
        try:
            value = loads(value, object_pairs_hook=once)
        except RepeatedKey as error:
            raise MissingError(f"{name}: {error}", hint="keep the one that is meant") from None
        except (ValueError, RecursionError):
            raise Unfit(f"whose `{name}` is text and no list") from None
        if not isinstance(value, list):
            raise Unfit(f"whose `{name}` is text and no list")
    columns = list(value.values()) if isinstance(value, dict) else []
    if columns and all(isinstance(column, list) and len(column) == len(columns[0]) for column in columns):
        return [dict(zip(value, items, strict=True)) for items in zip(*columns, strict=True)]
    if not isinstance(value, list):
        raise MissingError(f"there is no list `{name}`: it is {type(value).__name__}", hint=FORM)
    return value


def merged(messages: Sequence[Any], remarks: list[str], *, is_learnt: bool) -> list[Message]:
    """Our turns of a list of messages; what was changed for that is added to `remarks`."""
    turns: list[Message] = []
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict):
            raise MissingError(f"message {number} is {message!r:.80}, not an object", hint=FORM)
        role, is_target = _role(message, number), _is_target(message, number, is_learnt)
        _remark_unused(message, remarks)
        if role in ("assistant", "call", "tool"):
            parts = _parts(message, role, number, remarks)
            if not is_target and role != "tool":
                parts = [{**part, "train": False} for part in parts]
                _add(remarks, "with answers that are context only, not trained on (weight or train)")
            _answer(turns, role, parts, is_target, number)
        else:
            turns.append({"role": role, "content": _text(message, number)})
    return _in_order(turns, remarks)


def _role(message: Message, number: int) -> str:
    name = message.get("role") if message.get("role") is not None else message.get("from")
    role = ROLE_OF.get(name.strip().casefold()) if isinstance(name, str) else None
    if role is None:
        raise MissingError(
            f"message {number} is from {name!r:.40}, a speaker that is not known", hint=", ".join(ROLE_OF)
        )
    return role


def flag(holder: Message, where: str) -> bool | None:
    """Whether it is to be learnt, where anything says so; MissingError for what is neither yes nor no."""
    said = {name: holder[name] for name in FLAGS if holder.get(name) is not None}
    for name, value in said.items():
        if isinstance(value, str) or value not in (0, 1):
            raise MissingError(f"{where}: {name} is {value!r:.40}; only 0 and 1 are known", hint="leave out the rest")
    if len({bool(value) for value in said.values()}) > 1:
        raise MissingError(f"{where}: {' and '.join(said)} say two things", hint="keep one of them")
    return bool(next(iter(said.values()))) if said else None


def _is_target(message: Message, number: int, is_learnt: bool) -> bool:
    """Whether a message is to be learnt, by its own flag, else by that of its row."""
    if mask := next((name for name in MASKS if message.get(name)), None):
        raise MissingError(f"message {number} has {mask}, and a part of a message cannot be left out of the loss",
                           hint="give a whole message train: true or false")  # fmt: skip
    said = flag(message, f"message {number}")
    if said and _role(message, number) not in ("assistant", "call"):
        raise MissingError(f"message {number} is to be learnt (weight or train), and is no answer",
                           hint="only what the assistant says is learnt")  # fmt: skip
    return is_learnt if said is None else said


def _remark_unused(message: Message, remarks: list[str]) -> None:
    for name in message.keys() - USED:
        if message[name] not in (None, "", [], {}):
            _add(remarks, f"with a field `{name}` of messages, which is not used")


def _add(remarks: list[str], remark: str) -> None:
    if remark not in remarks:
        remarks.append(remark)


def _content(message: Message, number: int) -> Any:
    """What a message says; null is an empty turn, and without a field it is none."""
    name = next((name for name in ("content", "value", "text") if name in message), None)
    if name is None and not (message.get("tool_calls") or message.get("function_call")):
        raise MissingError(f"message {number} has no text: None", hint=FORM)
    value = message.get(name) if name else None
    if value is not None and not isinstance(value, str | list):
        raise MissingError(f"message {number} has no text: {value!r:.80}", hint="content is a string")
    return value


def _text(message: Message, number: int) -> str:
    content = _content(message, number)
    return joined(textual(content, f"message {number}")) if isinstance(content, list) else content or ""


def textual(parts: Sequence[Any], where: str) -> list[str]:
    """The texts of content parts; Unfit for an image, MissingError for other kinds."""
    return [_text_of(part, where) for part in parts]


def _text_of(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and any(word in kind for word in ("image", "audio", "video", "file")):
        raise Unfit(f"with a part `{kind}` (an image, sound or file), which a model of text cannot take")
    value = part.get(TEXTS[kind]) if isinstance(part, dict) and kind in TEXTS else None
    if not isinstance(value, str):
        raise MissingError(f"{where} has a part that is no text: {str(part)[:60]!r}", hint="parts are of the type text")
    return value


def joined(texts: Sequence[str]) -> str:
    """One text: parts that no white space divides get a line each."""
    whole = ""
    for text in texts:
        divides = not whole or not text or whole[-1].isspace() or text[0].isspace()
        whole += text if divides else f"\n{text}"
    return whole


def _parts(message: Message, role: str, number: int, remarks: list[str]) -> list[Message]:
    """What an answer or a tool's result consists of, in our parts; none where it is empty."""
    content = _content(message, number)
    if role == "tool":
        _add(
            remarks, "with calls of tools (tool_calls, function_call), learnt as calls of the model's own, a calculator"
        )
        return [{"type": "python_output", "text": _text(message, number)}]
    if role == "call":
        return [_call(_arguments(content, number), number)]
    if isinstance(content, list) and any(
        isinstance(part, dict) and part.get("type") in PART_TOKENS for part in content
    ):
        parts = [dict(part) for part in content]
    else:
        parts = [{"type": "text", "text": _text(message, number)}]
    thoughts = [message[name] for name in THOUGHTS if message.get(name)]
    if thoughts:
        if len(set(map(str, thoughts))) > 1 or not isinstance(thoughts[0], str):
            raise MissingError(f"message {number} has reasoning that is not one text")
        parts.insert(0, {"type": "text", "text": f"<think>{thoughts[0]}</think>"})
        _add(remarks, "with reasoning beside the text, learnt as <think>...</think> before it")
    calls = [*(message.get("tool_calls") or []), *([message["function_call"]] if message.get("function_call") else [])]
    if len(calls) > 1:
        raise MissingError(
            f"message {number} has {len(calls)} parallel tool calls", hint="write them one after the other"
        )
    return [part for part in parts if part.get("text")] + [_call(call, number) for call in calls]


def _arguments(value: Any, number: int) -> Any:
    """JSON that stands in a text."""
    if not isinstance(value, str):
        return value
    try:
        return loads(value, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise MissingError(f"message {number} has a call of a tool that is not JSON: {value!r:.60}") from None


def _call(call: Any, number: int) -> Message:
    """A call as one of our own tool: name(argument=value), or the expression where it is a calculator's."""
    function = call.get("function", call) if isinstance(call, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    arguments = _arguments(function.get("arguments") or {}, number) if isinstance(function, dict) else None
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise MissingError(f"message {number} has a call of a tool without name and arguments: {call!r:.60}")
    given = list(arguments.items())
    if (
        name.casefold() in CALCULATORS
        and len(given) == 1
        and given[0][0] in EXPRESSIONS
        and isinstance(given[0][1], str)
    ):
        return {"type": "python", "text": given[0][1]}
    return {"type": "python", "text": f"{name}({', '.join(f'{key}={value!r}' for key, value in given)})"}


def _answer(turns: list[Message], role: str, parts: list[Message], is_learnt: bool, number: int) -> None:
    """Add to the answer that is being given: one goes on after what a tool returned."""
    last = turns[-1] if turns and turns[-1]["role"] == "assistant" else None
    before = last["content"][-1]["type"] if last and last["content"] else None
    if role == "tool" and before != "python":
        raise MissingError(f"message {number} is what a tool returned, and no call of one is before it")
    goes_on = last is not None and (role == "tool" or before == "python_output")
    if last is None or not goes_on:
        turns.append({"role": "assistant", "content": parts, "train": is_learnt})
        return
    if role != "tool":
        last["is_empty"] = not parts
        last["train"] = is_learnt
    last["content"] += parts


def _in_order(turns: list[Message], remarks: list[str]) -> list[Message]:
    """System messages joined, the user first, answers of one learnt text as text."""
    systems = []
    while turns and turns[0]["role"] == "system":
        systems.append(turns.pop(0)["content"])
    if turns and turns[0]["role"] == "assistant":
        turns = turns[1:]
        if not turns:
            raise Unfit("with nothing but the model's first words")
        _add(remarks, "where the model speaks first, whose first words are left out")
    if turns and turns[-1]["role"] == "user" and len(turns) > 1:
        _add(remarks, "that end with a question without an answer")
    system = "\n\n".join(text for text in systems if text.strip())
    return [*([{"role": "system", "content": system}] if system else []), *map(_simple, turns)]


def _simple(turn: Message) -> Message:
    """Without what every turn has: a text for its only part, no flag where all is learnt."""
    if turn["role"] != "assistant":
        return turn
    parts, flags = turn["content"], {} if turn["train"] else {"train": False}
    if turn.pop("is_empty", False):
        parts = []
    if all(part["type"] == "text" for part in parts):
        return {"role": "assistant", "content": "".join(part["text"] for part in parts), **flags}
    return {"role": "assistant", "content": parts, **flags}
