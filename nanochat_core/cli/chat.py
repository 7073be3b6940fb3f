"""`nanochat chat`: talk to a model in the terminal, or ask it one thing with -p.

The answer streams to stdout; tool calls are shown as [expression = result]. Ctrl-C stops an answer, twice (or Ctrl-D)
leaves.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError
from nanochat_core.base.hardware import pick_device, pick_dtype
from nanochat_core.base.text import typed, typed_lines
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.inference.tool_loop import End, Text, ToolCall, ToolError, ToolResult
from nanochat_core.model.weights import load_model
from nanochat_core.pipeline.models import fetch, find_model
from nanochat_core.tokenizer.conversation import render_prompt
from nanochat_core.tokenizer.tokenizer import Tokenizer

HELP = "/clear starts anew, /temperature X and /topk N change the sampling, /quit leaves"


@dataclass(frozen=True)
class ChatModel:
    """A model of the store, loaded, and how it is called."""

    name: str
    engine: Engine


def open_chat(ref: str | None, *, device: str = "auto") -> ChatModel:
    """Load a chat model: a ref "name" or "name@version", or the newest chat model of the store."""
    store = workspace.current().store
    found = find_model(store, ref)
    where = pick_device(device)
    model = load_model(fetch(store, found.artifact, "model.safetensors", "config.json"))
    tokenizer = Tokenizer.load(fetch(store, found.tokenizer, "tokenizer.json"))
    model.to(where)
    model.compute_dtype = pick_dtype("auto", where)
    return ChatModel(found.name, Engine(model, tokenizer))


class Session:
    """One conversation: its messages and how the next answer is sampled."""

    def __init__(self, chat: ChatModel, sampling: Sampling, out: TextIO = sys.stdout) -> None:
        self.chat, self.sampling, self.out = chat, sampling, out
        self.messages: list[dict[str, object]] = []

    def ask(self, text: str) -> str:
        """Stream one answer; KeyboardInterrupt ends the answer, what was said so far stays."""
        self.messages.append({"role": "user", "content": text})
        prompt = self._fitting_prompt()
        parts: list[dict[str, str]] = []
        try:
            for event in self.chat.engine.stream(prompt, self.sampling):
                if isinstance(event, Text):
                    self._write(event.text)
                    parts.append({"type": "text", "text": event.text})
                elif isinstance(event, ToolCall):
                    self._write(f"[{event.expression}")
                    parts.append({"type": "python", "text": event.expression})
                elif isinstance(event, ToolResult):
                    self._write(f" = {event.text}] ")
                    parts.append({"type": "python_output", "text": event.text})
                elif isinstance(event, ToolError):
                    self._write(" = ?] ")
                elif isinstance(event, End) and event.reason == "length":
                    self._write(" ...")
        except KeyboardInterrupt:
            self._write(" (stopped)")
        self._write("\n")
        self.messages.append({"role": "assistant", "content": parts})
        return "".join(part["text"] for part in parts if part["type"] == "text")

    def _fitting_prompt(self) -> list[int]:
        """The conversation as ids; the oldest exchanges are forgotten when it outgrows the context."""
        tokenizer, context = self.chat.engine.tokenizer, self.chat.engine.model.config.sequence_len
        reserve = min(self.sampling.max_new_tokens, context // 4)
        kept = list(self.messages)
        while True:
            prompt = render_prompt(tokenizer, kept)
            if len(prompt) + reserve <= context:
                self.messages = kept
                return prompt
            if len(kept) == 1:
                self.messages.pop()
                raise ConfigError(
                    f"{len(prompt)} tokens are too many for a context of {context} (and {reserve} for the answer)",
                    hint="ask something shorter",
                )
            del kept[:2]

    def _write(self, text: str) -> None:
        self.out.write(text)
        self.out.flush()

    def command(self, line: str) -> bool:
        """A line that starts with a slash; False when the session is to end."""
        word, _, value = line[1:].partition(" ")
        if word in ("quit", "exit"):
            return False
        if word == "clear":
            self.messages.clear()
        elif word in ("temperature", "topk"):
            self._set(word, value)
        else:
            self._write(HELP + "\n")
        return True

    def _set(self, word: str, value: str) -> None:
        try:
            changed = {"temperature": float(value)} if word == "temperature" else {"top_k": int(value)}
            self.sampling = Sampling(**{**vars(self.sampling), **changed})
        except (ValueError, ConfigError):
            self._write(f"/{word} needs a number, not {value!r}\n")


def _lines(out: TextIO) -> Iterator[str]:
    """What is typed, with the shell's line editing, or what a program sends."""
    if sys.stdin.isatty():
        while True:
            yield typed(input("> "))
    for line in typed_lines(sys.stdin.buffer, "standard input"):
        out.write("> ")
        yield line


def talk(session: Session) -> None:
    """Read lines until the user leaves."""
    session.out.write(f"{session.chat.name}. {HELP}.\n")
    lines = _lines(session.out)
    while True:
        try:
            line = next(lines).strip()
        except (StopIteration, EOFError, KeyboardInterrupt):
            session.out.write("\n")
            return
        if line.startswith("/"):
            if not session.command(line):
                return
        elif line:
            try:
                session.ask(line)
            except ConfigError as error:
                session.out.write(f"{error.message}: {error.hint}\n")
