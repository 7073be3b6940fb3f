"""Conversations in the forms that people have them, as ours: recognised row by row, by what the row holds.

OpenAI's messages (content parts, tool calls, the older function calls, `weight`), ShareGPT, Alpaca, prompt/completion,
and columns of questions and answers. Nothing is passed over in silence: a flag of the loss is honoured or refused, what
no text can hold (images) leaves its conversation out, and what is changed on the way is a remark, which is counted.
The forms are those of OpenAI's fine-tuning guide, FastChat, Stanford Alpaca, TRL and LLaMA-Factory.
"""

import json
import math
from collections.abc import Sequence
from typing import Any

from nanochat_core.base.errors import MissingError
from nanochat_core.data.files import listing
from nanochat_core.data.turns import FLAGS, Message, Unfit, as_list, flag, joined, merged, textual

FORMS = "messages, ShareGPT, Alpaca, prompt/completion, question/answer: docs/data.md shows each"
LISTS = {"messages": "messages", "conversations": "ShareGPT", "conversation": "ShareGPT"}
QUESTIONS = ("instruction", "prompt", "question", "query", "input", "user")
ANSWERS = ("output", "completion", "response", "answer", "assistant")
SYSTEMS = ("system", "system_prompt")
SEEN_OR_HEARD = {"image": "an image", "images": "an image", "audio": "sound", "audios": "sound", "video": "a video",
                 "videos": "a video"}  # fmt: skip
OTHER = {
    "mapping": "a chat service's export, a tree under `mapping`: write the branch that counts as `messages`",
    "chat_messages": "a chat service's export, `chat_messages`: write them as `messages`",
    "rejected": "a pair of preferences (`chosen`, `rejected`), which fine-tuning does not learn",
}
USED = {*LISTS, *QUESTIONS, *ANSWERS, "context", "history", *SYSTEMS, *FLAGS, "tools", "functions"}
Conversation = dict[str, Any]


def form_of(row: Any) -> str | None:
    """What form a row has; None where it is no conversation that is known here."""
    if not isinstance(row, dict) or any(not _is_missing(row.get(name)) for name in OTHER):
        return None
    columns = _columns(row)
    if name := next((name for name in LISTS if columns.get(name) is not None), None):
        return LISTS[name]
    question = next((name for name in QUESTIONS if name in columns), None)
    if not question or not any(name in columns for name in ANSWERS):
        return None
    return {"instruction": "Alpaca", "prompt": "prompt/completion"}.get(question, "question/answer")


def conversation(row: dict[str, Any]) -> Conversation:
    """{"messages", "form", "remarks"} of a row; Unfit leaves this one out, MissingError says what is wrong with it."""
    form = form_of(row)
    if form is None:
        what = next((f"it is {said}" for name, said in OTHER.items() if not _is_missing(row.get(name))), None)
        seen = f"; it has {', '.join(map(str, row)) or 'nothing'}"
        raise MissingError(what or f"there is no list `messages`{seen}", hint=FORMS)
    if held := next((what for name, what in SEEN_OR_HEARD.items() if row.get(name)), None):
        raise Unfit(f"with {held}, which a model of text cannot take")
    remarks: list[str] = []
    columns = _columns(row)
    name = next((name for name in LISTS if columns.get(name) is not None), None)
    messages = _listed(columns, name) if name else _pair(columns)
    if columns.get("tools") or columns.get("functions"):
        remarks.append("with definitions of tools, which are not learnt")
    if extra := [f"`{name}`" for name in columns if name not in USED]:
        remarks.append(f"with {listing(extra)} beside them, not used")
    is_learnt = flag(columns, "the row") is not False
    return {"messages": merged(messages, remarks, is_learnt=is_learnt), "form": form, "remarks": remarks}


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    """By names as tables and people write them: "Question "; what is missing is None."""
    return {str(name).strip().casefold(): None if _is_missing(value) else value for name, value in row.items()}


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _only(columns: dict[str, Any], names: Sequence[str], what: str) -> str | None:
    """The column of some that has a value; MissingError where several have one."""
    found = [name for name in names if columns.get(name) is not None]
    if len(found) > 1:
        raise MissingError(f"it has {len(found)} {what}: {', '.join(found)}", hint="keep the column that is meant")
    return found[0] if found else None


def _listed(columns: dict[str, Any], name: str) -> list[Any]:
    """The list of a row, with a system message that stands beside it."""
    messages = as_list(columns[name], name)
    beside = next((columns[each] for each in SYSTEMS if columns.get(each)), None)
    has_own = (
        messages and isinstance(messages[0], dict) and "system" in (messages[0].get("role"), messages[0].get("from"))
    )
    return messages if beside is None or has_own else [{"role": "system", "content": beside}, *messages]


def _pair(columns: dict[str, Any]) -> list[Any]:
    """A question and its answer; each may be a list of messages, of which the question's are context."""
    is_alpaca = "instruction" in columns
    question = _only(columns, [name for name in QUESTIONS if name != "input" or not is_alpaca], "questions") or ""
    asked, answer = columns.get(question), columns.get(_only(columns, ANSWERS, "answers") or "")
    if isinstance(asked, list):
        # TRL learns the completion alone
        before = [{"train": False, **message} if isinstance(message, dict) else message for message in asked]
    else:
        names = ("input", "context") if is_alpaca else ("context",)
        added = [columns[name] for name in names if columns.get(name) is not None]
        parts = [_plain(part, question) for part in (asked, *added)]
        before = [*_before(columns), {"role": "user", "content": "\n\n".join(part for part in parts if part)}]
    after = answer if isinstance(answer, list) else [{"role": "assistant", "content": _plain(answer, "the answer")}]
    return [*before, *after]


def _before(columns: dict[str, Any]) -> list[Message]:
    """The system prompt and the earlier turns of a row."""
    system = next((columns[name] for name in SYSTEMS if columns.get(name)), None)
    messages: list[Message] = [] if system is None else [{"role": "system", "content": _plain(system, "system")}]
    for turn in as_list(columns.get("history") or [], "history"):
        if not isinstance(turn, Sequence) or isinstance(turn, str) or len(turn) != 2:
            raise MissingError(f"history holds {turn!r:.60}, not [question, answer]")
        messages += [{"role": "user", "content": turn[0]}, {"role": "assistant", "content": turn[1]}]
    return messages


def _plain(value: Any, name: str) -> str:
    """Text of a column: a number is one, and what is missing is empty."""
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if isinstance(value, int | float) and not isinstance(value, bool):
        return json.dumps(value)
    return joined(textual(value, name)) if isinstance(value, list) else _no_text(value, name)


def _no_text(value: Any, name: str) -> str:
    raise MissingError(f"{name} is {type(value).__name__}, not text: {value!r:.60}")
