"""Checks of a training's step log (metrics.jsonl): every field that follows from another is computed again.

The log of a sound run holds each step from 1 to the last exactly once, in order, however often the run was killed:
resuming starts from a checkpoint's copy of the log. Tokens follow from the step, speed from the time, the running sum
of seconds from the steps' own, the smoothed loss from the losses, the rate from the schedule. What follows from nothing
(memory, the time of day) is only held by the digests of lines and files.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from nanochat_core.base.errors import CorruptError
from nanochat_core.record.problems import Problem, Problems, is_close, is_count, is_number, read_json, shown
from nanochat_core.schedules import Schedule, lr_multiplier

MAX_BAD_LINES = 100  # of a log; what follows is not looked at
LOSS_AVERAGE = 0.9  # train/loop.py's share of the old value in the smoothed loss; importing it would load torch
FIELDS: dict[str, tuple[str, ...]] = {
    "start": ("step", "num_steps", "world_size"),
    "step": (
        "step", "loss", "smooth_loss", "lr_multiplier", "step_ms", "tokens_per_s", "tokens", "train_s", "memory_gib",
    ),
    "validate": ("step", "train_s", "validate_s", "bits_per_byte", "validation_loss"),
    "checkpoint": ("step", "name", "save_s"),
    "end": ("step", "train_s"),
}  # fmt: skip
MAY_HAVE: dict[str, tuple[str, ...]] = {
    "start": ("device_batch_rows", "choices", "left_out", "machine_tflops"),  # later than 2026-11-22; the last: -30
    "step": ("loss_scale", "was_left_out"),  # in fp16
    "validate": ("fp8_saturated",),
}
TEXTS = ("event", "name")
LISTS = ("choices", "left_out")  # of texts
COUNTS = ("step", "num_steps", "world_size", "tokens", "device_batch_rows", "fp8_saturated")


@dataclass(frozen=True, kw_only=True)
class LogRules:
    """What the pretraining's own settings say about its log."""

    schedule: Schedule
    tokens_per_step: int
    validate_every_steps: int | None


def read_log(content: bytes, *, file: str) -> tuple[list[dict[str, Any]], list[Problem]]:
    """The records, one per line, and what is wrong with their form. A bad line leaves no record."""
    records, problems = [], Problems()
    text = content.decode("utf-8", "replace")
    if not text.endswith("\n"):
        problems.append(Problem(file, f"line {text.count(chr(10)) + 1}", "is cut short"))
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        if len(problems) > MAX_BAD_LINES:
            problems.append(Problem(file, f"line {number}", "and what follows is not looked at: too much is wrong"))
            break
        try:
            record = read_json(line.encode(), where=f"line {number}")
        except CorruptError as error:
            problems.append(Problem(file, f"line {number}", error.message.partition(" ")[2].partition(" ")[2]))
            continue
        found = list(_form_problems(record, file, number))
        problems += found
        if not found:
            records.append({**record, "line": number})
    return records, problems


def _form_problems(record: Any, file: str, number: int) -> Iterator[Problem]:
    """Unknown events, unknown and lacking fields, values of the wrong kind."""
    where = f"line {number}"
    if not isinstance(record, dict) or not isinstance(record.get("event"), str) or record["event"] not in FIELDS:
        event = record.get("event") if isinstance(record, dict) else record
        yield Problem(file, f"{where} field event:", f"{shown(event)} is none of {', '.join(FIELDS)}")
        return
    expected = {"event", "time_s", *FIELDS[record["event"]]}
    for name in sorted(expected - record.keys()):
        yield Problem(file, f"{where} field {name}:", "is missing")
    known = expected | set(MAY_HAVE.get(record["event"], ()))
    for name in sorted(record.keys() - known):
        yield Problem(file, f"{where} field {name}:", "is unknown")
    for name in sorted(known & record.keys() - {*TEXTS, *LISTS}):
        is_sound = is_count if name in COUNTS else is_number
        if not is_sound(record[name]):
            yield Problem(file, f"{where} field {name}:", f"{shown(record[name])} is not a number it can be")
    for name in LISTS:
        texts = record.get(name, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            yield Problem(file, f"{where} field {name}:", f"{shown(texts)} are no texts")
    if "name" in expected and not isinstance(record.get("name"), str):
        yield Problem(file, f"{where} field name:", f"{shown(record.get('name'))} is no text")


def check_log(records: list[dict[str, Any]], rules: LogRules, *, file: str) -> list[Problem]:
    """What contradicts itself or the settings, record by record."""
    return _Walk(rules, file).problems_of(records)


@dataclass
class _Walk:
    """One pass over a log, with what the records so far say."""

    rules: LogRules
    file: str
    found: Problems = field(default_factory=Problems)
    step: int = 0
    train_s: float = 0.0
    smooth_loss: float | None = None
    validated: set[int] = field(default_factory=set)
    num_starts: int = 0
    has_ended: bool = False

    def problems_of(self, records: list[dict[str, Any]]) -> list[Problem]:
        checks: dict[str, Callable[[Mapping[str, Any]], None]] = {
            "start": self._start,
            "step": self._step,
            "validate": self._validate,
            "checkpoint": self._checkpoint,
            "end": self._end,
        }
        for record in records:
            if self.has_ended:
                self._say(record, "event", f"{shown(record['event'])} comes after the end")
            checks[record["event"]](record)
        last = {"line": records[-1]["line"] + 1 if records else 1}
        if not self.has_ended:
            self._say(last, "event", "the log has no end")
        if self.step != self.rules.schedule.num_steps:
            self._say(last, "step", f"the log ends at step {self.step} of {self.rules.schedule.num_steps}")
        missing = (step for step in self._due() if step not in self.validated)
        for step in islice(missing, MAX_BAD_LINES):
            self._say(last, "event", f"the validation of step {step} is missing")
        return self.found

    def _say(self, record: Mapping[str, Any], name: str, text: str) -> None:
        self.found.append(Problem(self.file, f"line {record['line']} field {name}:", text))

    def _equal(self, record: Mapping[str, Any], name: str, expected: float, source: str) -> None:
        is_exact = isinstance(expected, int)
        if not (record[name] == expected if is_exact else is_close(record[name], expected)):
            self._say(record, name, f"{shown(record[name])}, {source} {shown(expected)}")

    def _start(self, record: Mapping[str, Any]) -> None:
        self.num_starts += 1
        self._equal(record, "step", self.step, "the steps before it give")
        self._equal(record, "num_steps", self.rules.schedule.num_steps, "the settings give")
        if record["world_size"] < 1:
            self._say(record, "world_size", f"{record['world_size']} processes")

    def _step(self, record: Mapping[str, Any]) -> None:
        if not self.num_starts:
            self._say(record, "event", "a step before the first start")
        if record["step"] != self.step + 1:
            kind = "is there already" if record["step"] <= self.step else f"follows step {self.step}"
            self._say(record, "step", f"step {record['step']} {kind}")
        self.step = record["step"]
        seconds, num_tokens = record["step_ms"] / 1e3, self.rules.tokens_per_step
        if seconds <= 0:  # the smallest numbers become 0 here
            self._say(record, "step_ms", f"{shown(record['step_ms'])} is no time")
            return
        if not is_close(record["train_s"], self.train_s + seconds):
            grown = shown(round(1e3 * (record["train_s"] - self.train_s), 6))
            self._say(record, "step_ms", f"{shown(record['step_ms'])}, train_s grows by {grown} ms")
        if not is_close(record["tokens_per_s"], num_tokens / seconds):
            said = f"{shown(record['tokens_per_s'])}, {num_tokens} tokens in step_ms give {num_tokens / seconds}"
            self._say(record, "tokens_per_s", said)
        self._equal(record, "tokens", self.step * num_tokens, f"{self.step} steps of {num_tokens} tokens give")
        loss, old = record["loss"], self.smooth_loss
        smooth = loss if old is None else LOSS_AVERAGE * old + (1 - LOSS_AVERAGE) * loss
        self._equal(record, "smooth_loss", float(smooth), "the losses up to here (field loss) give")
        self._equal(record, "lr_multiplier", float(self._rate()), "the schedule gives")
        if record["memory_gib"] <= 0:
            self._say(record, "memory_gib", f"{shown(record['memory_gib'])} is no amount of memory")
        self.train_s, self.smooth_loss = record["train_s"], record["smooth_loss"]

    def _rate(self) -> float:
        in_range = 1 <= self.step <= self.rules.schedule.num_steps
        return lr_multiplier(self.rules.schedule, self.step - 1) if in_range else 0.0

    def _due(self) -> Iterator[int]:
        """Steps after which a validation is due, in order; there may be more than memory has room for."""
        num_steps, every = self.rules.schedule.num_steps, self.rules.validate_every_steps
        yield from range(every, num_steps, every) if every else ()
        yield num_steps

    def _is_due(self, step: int) -> bool:
        num_steps, every = self.rules.schedule.num_steps, self.rules.validate_every_steps
        return step == num_steps or (every is not None and 0 < step < num_steps and step % every == 0)

    def _validate(self, record: Mapping[str, Any]) -> None:
        self._equal(record, "step", self.step, "the steps before it give")
        if record["step"] in self.validated or not self._is_due(record["step"]):
            kind = "validated twice" if record["step"] in self.validated else "no validation is due there"
            self._say(record, "step", f"step {record['step']}: {kind}")
        self.validated.add(record["step"])
        self._equal(record, "train_s", self.train_s, "the steps before it give")
        for name in ("bits_per_byte", "validation_loss", "validate_s"):
            if record[name] <= 0:
                self._say(record, name, f"{shown(record[name])} is not above 0")

    def _checkpoint(self, record: Mapping[str, Any]) -> None:
        self._equal(record, "step", self.step, "the steps before it give")
        if record["name"] != f"step-{record['step']:08d}":
            self._say(record, "name", f"{shown(record['name'])} is not step-{record['step']:08d}")
        if record["save_s"] < 0:
            self._say(record, "save_s", f"{shown(record['save_s'])} is below 0")

    def _end(self, record: Mapping[str, Any]) -> None:
        self.has_ended = True
        self._equal(record, "step", self.step, "the steps before it give")
        self._equal(record, "train_s", self.train_s, "the steps before it give")
