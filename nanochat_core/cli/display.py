"""How a run looks while it goes on: a live table on a terminal, a line now and then elsewhere.

Progress goes to stderr; stdout is for answers.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from nanochat_core.base.redaction import redact
from nanochat_core.base.units import count, duration
from nanochat_core.cli.output import Page

LINE_EVERY_S = 30.0
ICONS = {
    "waiting": ("·", "dim"),
    "running": ("▸", "cyan"),
    "made": ("✓", "green"),
    "cached": ("≡", "blue"),
    "failed": ("✗", "red"),
}
BAR_CHARS = 50
COMPILING_STEPS = 3  # the first steps warm up and are left out of the ETA
Titles = Mapping[str, str]


@dataclass
class StepState:
    """What is known of one step."""

    title: str = ""
    status: str = "waiting"  # waiting, running, made, cached, failed
    text: str = ""
    fraction: float | None = None
    started_s: float = 0.0
    seconds: float = 0.0
    training: "TrainingState" = field(default_factory=lambda: TrainingState())


@dataclass
class TrainingState:
    """The last numbers of a training, and its ETA."""

    first: tuple[int, float] | None = None
    num_steps: int = 0
    line: str = ""
    bits_per_byte: float | None = None

    def update(self, record: dict[str, Any]) -> float | None:
        """Take a record in; returns the fraction done, where it tells one."""
        if record["event"] == "start":
            self.num_steps, self.first = record["num_steps"], None
        elif record["event"] == "validate":
            self.bits_per_byte = record.get("bits_per_byte")
        elif record["event"] == "step":
            self.line = self._line(record)
            return record["step"] / max(1, self.num_steps)
        return None

    def _line(self, record: dict[str, Any]) -> str:
        step, now = record["step"], time.monotonic()
        if self.first is None and step >= COMPILING_STEPS:
            self.first = (step, now)
        learnt = f"reward {record['reward']:.2f}" if "reward" in record else f"loss {record['smooth_loss']:.4f}"
        parts = [
            f"step {step:05d}/{self.num_steps:05d}",
            learnt,
            f"lr x{record['lr_multiplier']:.2f}",
            f"{record['step_ms']:.0f} ms",
            f"{count(record['tokens_per_s'])} tok/s",
        ]
        if self.bits_per_byte is not None:
            parts.append(f"bpb {self.bits_per_byte:.4f}")
        if self.first is not None and step > self.first[0]:
            left_s = (now - self.first[1]) / (step - self.first[0]) * (self.num_steps - step)
            parts.append(f"eta {duration(left_s)}")
        return "  ".join(parts)


def _validation(record: dict[str, Any]) -> str:
    """What was measured on what is held out: text, or questions where the model practises."""
    if "held_out_reward" in record:
        return f"held-out reward {record['held_out_reward']:.3f} ± {record['standard_error']:.3f}"
    return f"validation bpb {record['bits_per_byte']:.4f}"


class _Recorder:
    """Keeps the states that both displays show."""

    def __init__(self, steps: Titles) -> None:
        self.states = {step: StepState(title=title) for step, title in steps.items()}
        self.notes: list[str] = []

    def step_started(self, step: str, title: str) -> None:
        self.states[step] = StepState(title=title, status="running", started_s=time.monotonic())

    def step_progress(self, step: str, done: float, total: float, text: str) -> None:
        state = self.states[step]
        state.text, state.fraction = text, done / total if total else None

    def step_record(self, step: str, record: dict[str, Any]) -> None:
        state = self.states[step]
        fraction = state.training.update(record)
        if fraction is not None:
            state.text, state.fraction = state.training.line, fraction

    def step_finished(self, step: str, *, is_cached: bool, seconds: float, headline: str) -> None:
        state = self.states[step]
        state.status, state.text, state.seconds = "cached" if is_cached else "made", headline, seconds

    def step_failed(self, step: str, message: str) -> None:
        state = self.states[step]
        state.status, state.text = "failed", redact(message.splitlines()[0])
        state.seconds = time.monotonic() - state.started_s

    def note(self, text: str) -> None:
        self.notes.append(redact(text))

    def is_working(self) -> bool:
        """Whether a step is at work."""
        return any(state.status == "running" for state in self.states.values())


class LiveTable(_Recorder):
    """A table that redraws itself, for terminals."""

    def __init__(self, steps: Titles, console: Console) -> None:
        super().__init__(steps)
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4, transient=False)

    def __enter__(self) -> "LiveTable":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _render(self) -> Group:
        table = Table.grid("", "", Column(overflow="fold"), "", padding=(0, 2))
        for name, state in self.states.items():
            icon, style = ICONS[state.status]
            seconds = time.monotonic() - state.started_s if state.status == "running" else state.seconds
            shown = "cached" if state.status == "cached" else duration(seconds) if seconds else ""
            label = Text(name, "bold" if state.status == "running" else "")
            table.add_row(Text(icon, style), label, self._detail(state), Text(shown, "dim"))
        return Group(table)

    def note(self, text: str) -> None:
        """Above the table, where it stays: what a run left out is not to scroll away under what came later."""
        super().note(text)
        self._live.console.print(Text(f"  {redact(text)}", "dim"))

    @staticmethod
    def _detail(state: StepState) -> Any:
        if state.status != "running":
            return Text(state.text or state.title, "dim" if state.status == "waiting" else "")
        if state.fraction is None:
            return Text(state.text or state.title)
        lines = Table.grid()
        lines.add_row(ProgressBar(total=1.0, completed=state.fraction, width=BAR_CHARS))
        lines.add_row(Text(state.text))
        return lines


class Lines(_Recorder):
    """Plain lines, for pipes and logs: one when a step starts and ends, one every 30 s in between."""

    def __init__(self, steps: Titles) -> None:
        super().__init__(steps)
        self._said_s = time.monotonic()

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def step_started(self, step: str, title: str) -> None:
        super().step_started(step, title)
        self._said_s = time.monotonic()

    def step_progress(self, step: str, done: float, total: float, text: str) -> None:
        super().step_progress(step, done, total, text)
        self._say_sometimes(step)

    def step_record(self, step: str, record: dict[str, Any]) -> None:
        super().step_record(step, record)
        if record["event"] == "validate":
            self._say(step, f"step {record['step']:05d}  {_validation(record)}")
        else:
            self._say_sometimes(step)

    def step_finished(self, step: str, *, is_cached: bool, seconds: float, headline: str) -> None:
        super().step_finished(step, is_cached=is_cached, seconds=seconds, headline=headline)
        self._say(step, f"{'cached' if is_cached else 'made in ' + duration(seconds)}: {headline}")

    def step_failed(self, step: str, message: str) -> None:
        super().step_failed(step, message)
        self._say(step, f"failed: {redact(message.splitlines()[0])}")

    def note(self, text: str) -> None:
        super().note(text)
        print(f"  {redact(text)}", file=sys.stderr, flush=True)

    def _say_sometimes(self, step: str) -> None:
        if time.monotonic() - self._said_s >= LINE_EVERY_S:
            self._say(step, self.states[step].text)

    def _say(self, step: str, text: str) -> None:
        self._said_s = time.monotonic()
        print(f"{step:<14} {text}", file=sys.stderr, flush=True)


Display = LiveTable | Lines


def display(steps: Titles) -> Display:
    """The display that fits where stderr goes, for steps in their order with a title each."""
    console = Page(stderr=True)
    return LiveTable(steps, console) if console.is_terminal else Lines(steps)
