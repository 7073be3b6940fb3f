"""Generation with one model: one answer as a stream of events, many at once, or rows to be filled as requests come.

All three are the same `Batch` underneath. `generate` sorts its prompts so that equal ones and those of equal length are
computed together, gives the row of an answer that is done to the next prompt, and gives rows up when none is left.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from nanochat_core.base.errors import ConfigError
from nanochat_core.inference.admission import AnyDecoder, decoder_for, why_plain
from nanochat_core.inference.batch import CHUNK_TOKENS, Batch
from nanochat_core.inference.batch_ahead import AheadBatch
from nanochat_core.inference.request import Answer, Request
from nanochat_core.inference.sampling import Sampling
from nanochat_core.inference.tool_loop import Event
from nanochat_core.model.gpt import GPT
from nanochat_core.tokenizer.tokenizer import Tokenizer

__all__ = ["Answer", "Batch", "Engine", "Request"]

MAX_ROWS = 64  # rows decoded together
REFILL_FRAC = 8  # new prompts wait until an eighth of the rows is free: prefilling one by one would stall the others


class Engine:
    """Generates with one model; `model` is put into evaluation mode."""

    def __init__(
        self, model: GPT, tokenizer: Tokenizer, *, weights: str = "auto", runs_ahead: bool | None = None
    ) -> None:
        """`weights` says how a decoder holds them (inference/packed.py); "plain" is the module itself.

        `runs_ahead`: the device computes a step while the host reads the last one (batch_ahead.py); None: on a GPU,
        which is the only device that can.
        """
        if tokenizer.vocab_size != model.config.vocab_size:
            raise ConfigError(
                f"a model of {model.config.vocab_size:,} tokens with a tokenizer of {tokenizer.vocab_size:,}",
                hint="use the tokenizer that it was trained with",
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.weights = weights
        self.runs_ahead = model.device.type == "cuda" if runs_ahead is None else runs_ahead

    def stream(self, prompt: Sequence[int], sampling: Sampling) -> Iterator[Event]:
        """Events of one answer as they happen; closing the iterator stops the generation."""
        request = self.request(prompt, sampling)
        batch = self.slots(1, max_len=request.max_len)
        batch.add([request])
        while not request.is_done:
            for _, events in batch.step():
                yield from events
        if request.failure is not None:
            raise request.failure

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        samplings: Sequence[Sampling],
        *,
        max_rows: int | None = None,
        on_done: Callable[[int], None] = lambda num_done: None,
    ) -> list[Answer]:
        """One answer per prompt, `max_rows` at a time; `on_done` hears how many are finished."""
        requests = [self.request(prompt, sampling) for prompt, sampling in zip(prompts, samplings, strict=True)]
        waiting = deque(sorted(requests, key=lambda request: (len(request.prompt), request.prompt)))
        if not waiting:
            return []
        num_rows = min(max_rows or MAX_ROWS, len(waiting))
        max_len = max(request.max_len for request in requests)
        batch = self.slots(num_rows, max_len=max_len, chunk_tokens=None)  # nobody reads along
        while waiting or batch.num_active:
            if waiting and batch.num_free >= max(1, batch.num_rows // REFILL_FRAC):
                batch.add([waiting.popleft() for _ in range(min(batch.num_free, len(waiting)))])
            if not waiting:
                batch.shrink()
            happened = batch.step()
            for request, _ in happened:
                if request.failure is not None:
                    raise request.failure
            if any(request.is_done for request, _ in happened):
                on_done(len(requests) - len(waiting) - batch.num_active)
        return [request.answer for request in requests]

    def slots(self, num_rows: int, *, max_len: int | None = None, chunk_tokens: int | None = CHUNK_TOKENS) -> Batch:
        """Rows for requests that come and go; `max_len` (None: the whole context) is prompt and answer together."""
        length = self.model.config.sequence_len if max_len is None else max_len
        kind = AheadBatch if self.runs_ahead and self.why_plain is None else Batch
        return kind(self, num_rows=num_rows, max_len=length, chunk_tokens=chunk_tokens)

    def decoder(self, *, num_rows: int, max_len: int) -> AnyDecoder:
        """Sequences of this model for a batch: what a batch knows of the network."""
        return decoder_for(self.model, num_rows=num_rows, max_len=max_len, weights=self.weights)

    @property
    def why_plain(self) -> str | None:
        """Why answers come from the model's own forward, slowly; None: the fast decoder computes this model."""
        return why_plain(self.model.config)

    def request(self, prompt: Sequence[int], sampling: Sampling) -> Request:
        """A prompt with its own sampler and tool loop; ConfigError where it leaves no room in the context."""
        return Request(prompt, self._within_context(prompt, sampling), self.tokenizer)

    def _within_context(self, prompt: Sequence[int], sampling: Sampling) -> Sampling:
        room = self.model.config.sequence_len - len(prompt)
        if not prompt or room < 1:
            raise ConfigError(
                f"a prompt of {len(prompt)} tokens leaves no room in a context of {self.model.config.sequence_len}",
                hint="shorten the prompt, or start a new conversation",
            )
        return replace(sampling, max_new_tokens=min(sampling.max_new_tokens, room))
