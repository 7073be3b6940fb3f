"""One prompt being answered: what may come next, what came, and when it is over.

A request knows nothing of rows or of other requests; a batch asks it whether its next token is forced, draws one where
it is not, and hands the token in.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from nanochat_core.inference.logprobs import TokenLogprobs
from nanochat_core.inference.sampling import Sampler, Sampling
from nanochat_core.inference.stop import StopText
from nanochat_core.inference.tool_loop import End, Event, Text, TextLoop, ToolLoop
from nanochat_core.tokenizer.tokenizer import Tokenizer


@dataclass
class Answer:
    """What became of one prompt."""

    tokens: list[int] = field(default_factory=list)
    """Everything after the prompt: forced tool results, the tokens of a stop string and the end token included."""
    events: list[Event] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    """One for each of `tokens` where they were asked for."""

    @property
    def text(self) -> str:
        """What a reader sees, without tool calls."""
        return "".join(event.text for event in self.events if isinstance(event, Text))


class Request:
    """One prompt with its own randomness and tool loop."""

    def __init__(self, prompt: Sequence[int], sampling: Sampling, tokenizer: Tokenizer) -> None:
        self.prompt = list(prompt)
        self.sampling = sampling
        self.sampler = Sampler(sampling)
        self.loop = ToolLoop(tokenizer) if sampling.use_tools else TextLoop(tokenizer)
        self.answer = Answer()
        self.is_done = False
        self.failure: Exception | None = None
        """Why there will be no more of this answer, though it has no end."""
        self._stop_text = StopText(sampling.stop)

    @property
    def max_len(self) -> int:
        """Tokens that it needs room for."""
        return len(self.prompt) + self.sampling.max_new_tokens

    @property
    def is_forced(self) -> bool:
        """The next token is part of a tool's result."""
        return bool(self.loop.forced)

    def fail(self, error: Exception) -> None:
        """End the answer where it is."""
        self.failure, self.is_done = error, True

    def take(self, token: int) -> list[Event]:
        """Go on by one token; returns what a reader should be told of it."""
        is_stop = token in self.sampling.stop_ids and not self.is_forced
        events = self.loop.finish("stop") if is_stop else self.loop.feed(token)
        self.answer.tokens.append(token)
        if len(self.answer.tokens) >= self.sampling.max_new_tokens and not _has_end(events):
            events += self.loop.finish("length")
        events = self._stop_text.feed(events)
        self.answer.events += events
        self.is_done = _has_end(events)
        return events


def _has_end(events: Sequence[Event]) -> bool:
    return any(isinstance(event, End) for event in events)
