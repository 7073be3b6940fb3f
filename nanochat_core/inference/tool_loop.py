"""The tool loop as a pure state machine: tokens in, events and forced tokens out.

After python_start the model writes an expression; at python_end the calculator runs and its result is forced into the
sequence between output_start and output_end, as it stood in training. Nothing else is forced; a call that cannot
be evaluated adds nothing, is told as an error, and the model goes on. Every token is fed once and counts towards the
answer's limit, forced ones too, so calls cannot go on for ever.
"""

import codecs
from dataclasses import dataclass

from nanochat_core.inference.calculator import calculate
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Text:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True)
class ToolCall:
    expression: str


@dataclass(frozen=True)
class ToolResult:
    text: str


@dataclass(frozen=True)
class ToolError:
    """The call before it gave nothing: the expression is refused or undefined."""

    expression: str


@dataclass(frozen=True)
class End:
    """reason: "stop" (the model ended its turn, or said what was to stop it) or "length" (out of tokens)."""

    reason: str


Event = Text | ToolCall | ToolResult | ToolError | End


class TextLoop:
    """State of one answer without tools. `feed` takes each token that became part of the sequence."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._special = {tokenizer.special(name): name for name in tk.SPECIAL_TOKENS}
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.forced: list[int] = []
        """Tokens that must come next, before any is sampled; here always empty."""

    def feed(self, token: int) -> list[Event]:
        """Advance by one token; returns what a reader should see."""
        name = self._special.get(token)
        if name is None:
            return self._feed_text(token)
        if name in (tk.ASSISTANT_END, tk.BOS):
            return self.finish("stop")
        return self._feed_marker(name)

    def finish(self, reason: str) -> list[Event]:
        """The answer ends here, for a reason from outside."""
        return [*self._flush(), End(reason)]

    def _feed_text(self, token: int) -> list[Event]:
        text = self._decoder.decode(self.tokenizer.decode_bytes([token]))
        return [Text(text)] if text else []

    def _feed_marker(self, name: str) -> list[Event]:
        return self._flush()  # no text, and no character continues across it

    def _flush(self) -> list[Event]:
        """The rest of a cut multi-byte character, as U+FFFD."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return [Text(text)] if text else []


class ToolLoop(TextLoop):
    """State of one answer with calls. `feed` takes each token that became part of the sequence, forced ones too."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._inside: str | None = None  # PYTHON_START or OUTPUT_START while between the markers
        self._collected: list[int] = []
        self._is_forced = False  # the token being fed

    def feed(self, token: int) -> list[Event]:
        """Advance by one token; returns what a reader should see."""
        self._is_forced = bool(self.forced) and self.forced[0] == token
        if self._is_forced:
            self.forced.pop(0)
        return super().feed(token)

    def _feed_text(self, token: int) -> list[Event]:
        if self._inside is None:
            return super()._feed_text(token)
        self._collected.append(token)
        return []

    def finish(self, reason: str) -> list[Event]:
        """The answer ends here; a call that was being written is shown as one that gave nothing."""
        return [*self._unfinished(), *super().finish(reason)]

    def _unfinished(self) -> list[Event]:
        """The call whose end never came: without it a reader would see an answer of many tokens and no text."""
        was_inside, self._inside = self._inside, None
        if was_inside != tk.PYTHON_START or not self._collected:
            return []
        expression = self.tokenizer.decode(self._collected)
        return [ToolCall(expression), ToolError(expression)]

    def _feed_marker(self, name: str) -> list[Event]:
        if name in (tk.PYTHON_START, tk.OUTPUT_START):
            before = self._unfinished()
            self._inside, self._collected = name, []
            return [*before, *self._flush()]
        if name == tk.PYTHON_END and self._inside == tk.PYTHON_START:
            return self._call()
        if name == tk.OUTPUT_END and self._inside == tk.OUTPUT_START:
            self._inside = None
            # what a model writes between the markers by itself is no result, and is not shown as one
            return [ToolResult(self.tokenizer.decode(self._collected))] if self._is_forced else []
        return []

    def _call(self) -> list[Event]:
        self._inside = None
        expression = self.tokenizer.decode(self._collected)
        result = calculate(expression)
        if result is None:
            return [ToolCall(expression), ToolError(expression)]
        special = self.tokenizer.special
        self.forced = [special(tk.OUTPUT_START), *self.tokenizer.encode(result), special(tk.OUTPUT_END)]
        return [ToolCall(expression)]
