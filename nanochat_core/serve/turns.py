"""From the messages that clients send to the turns that the model was trained on: the user first, then in alternation.

Agents and front ends send several messages of one role, instructions in the middle, a greeting before any question. The
model knows two speakers: a system or developer message is the user's text, as in training; neighbours of one role are
one turn, an empty line between them; before a greeting stands an empty turn of the user's.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nanochat_core.serve.schema import Message, Part

BETWEEN = Part(type="text", text="\n\n")


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
