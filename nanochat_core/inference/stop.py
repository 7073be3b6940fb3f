"""Stop strings in a stream of events: text that may be the start of one waits until that is decided.

Texts are joined across tokens, characters and tool calls, as a reader sees them, so no stop string is ever part of
what is emitted. Events keep their order: a tool call behind text that waits, waits with it.
"""

from collections.abc import Sequence

from nanochat_core.inference.tool_loop import End, Event, Text


class StopText:
    """The events of one answer on their way to the reader."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._waiting: list[Event] = []

    def feed(self, events: Sequence[Event]) -> list[Event]:
        """What may be told now. Ends with `End("stop")` once a stop string is complete."""
        if not self._stops:
            return list(events)
        told: list[Event] = []
        for event in events:
            self._waiting.append(event)
            if isinstance(event, End):
                return told + self._all()
            if isinstance(event, Text):
                text = self._text()
                place = self._first_stop(text)
                if place is not None:
                    return [*told, *self._before(place), *self._without_text(), End("stop")]
                told += self._before(len(text) - self._num_undecided(text))
            elif not self._text():
                told += self._all()
        return told

    def _text(self) -> str:
        return "".join(event.text for event in self._waiting if isinstance(event, Text))

    def _first_stop(self, text: str) -> int | None:
        """Where the stop string begins that is complete first: so it does not matter how the text was cut."""
        found = [(text.find(stop) + len(stop), text.find(stop)) for stop in self._stops if stop in text]
        return min(found)[1] if found else None

    def _num_undecided(self, text: str) -> int:
        """Characters at the end that a stop string begins with."""
        longest = min(len(text), max(map(len, self._stops)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0

    def _before(self, num_chars: int) -> list[Event]:
        """Take the first characters off what waits, with the events between and right behind them."""
        told: list[Event] = []
        while self._waiting:
            event = self._waiting[0]
            if isinstance(event, Text):
                if num_chars < len(event.text):
                    if num_chars:
                        told.append(Text(event.text[:num_chars]))
                        self._waiting[0] = Text(event.text[num_chars:])
                    break
                num_chars -= len(event.text)
            told.append(self._waiting.pop(0))
        return told

    def _all(self) -> list[Event]:
        told, self._waiting = self._waiting, []
        return told

    def _without_text(self) -> list[Event]:
        """Tool calls that happened while the stop string was being completed; its text is dropped."""
        return [event for event in self._all() if not isinstance(event, Text)]
