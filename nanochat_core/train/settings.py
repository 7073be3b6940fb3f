"""What a training process is told: plan.json, written by the supervisor and read by every rank.

`TrainSettings` is what decides the result and goes into the step's fingerprint; `TrainRuntime` is the machine's part
and does not.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nanochat_core.base.neutral import later
from nanochat_core.config import GPTConfig
from nanochat_core.schedules import Schedule


@dataclass(frozen=True, kw_only=True)
class RLSettings:
    """What reinforcement learning alone is told."""

    samples_per_question: int
    temperature: float
    top_k: int | None
    max_answer_tokens: int
    held_out_samples: int


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Identity of one training: equal settings and equal inputs give equal weights."""

    model: GPTConfig
    optim: dict[str, float]
    """Fields of optim.groups.OptimConfig."""
    schedule: Schedule
    total_batch_rows: int
    """Reinforcement learning: questions."""
    seed: int
    validate_every_steps: int | None
    validation_rows: int
    dtype: str
    fp8: str = "off"
    """off, auto, dynamic or delayed (model/fp8.py)."""
    document_mask: bool = False
    """Documents of a row do not see each other."""
    rl: RLSettings | None = None
    mix: Mapping[str, Any] | None = later(None)
    """Of pretraining on several sources: {"phases": [{"num_steps", "weights": {source: whole number}}], "max_tokens":
    {source: tokens}}. What phases are called, and how often a source may be repeated, decides nothing."""


@dataclass(frozen=True, kw_only=True)
class TrainRuntime:
    """The machine's part."""

    device: str
    num_processes: int
    device_batch_rows: int | None
    """None: chosen at the start (fit.py)."""
    num_threads: int | None
    checkpoint_every_s: float
    log_every_steps: int
    checkpoint_every_steps: int | None = None
    """Besides those by time; None: by time only."""
    hang_after_s: float = 600.0
    """A rank that says nothing for so long in a step has hung; slow steps, compiling and validation get longer."""
    max_cost_usd: float | None = None
    """Stop with a checkpoint when all attempts, and the trainings before this one, have cost so much."""
    usd_per_gpu_hour: float = 0.0
    attention: str = "auto"
    compile: str = "none"
    deterministic: bool = False
    measured: str | None = None
    """A folder of this machine that remembers what was measured; None: nothing is."""


@dataclass(frozen=True, kw_only=True)
class TrainPaths:
    """Folders of one attempt, all local."""

    rows: str
    """The tokens (pretraining), packed conversations (fine-tuning) or questions (reinforcement learning)."""
    tokenizer: str
    base: str | None
    """The folder of the model to start from; None: pretraining."""
    checkpoints: str
    work: str
    """metrics.jsonl, result.json, the log."""
    out: str
    """The finished model."""
    successor: str | None = None
    """A file that appears when another driver has taken this training over: nothing may be saved from then on."""


@dataclass(frozen=True, kw_only=True)
class TrainJob:
    """One attempt at a training, as plan.json holds it."""

    entry: str
    """The stage's module, whose `build` makes model, optimizer and rows."""
    settings: TrainSettings
    runtime: TrainRuntime
    paths: TrainPaths

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(dataclasses.asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> "TrainJob":
        stored: dict[str, Any] = json.loads(path.read_text())
        settings = stored["settings"]
        settings["model"] = GPTConfig(**settings["model"])
        settings["schedule"] = Schedule(**settings["schedule"])
        settings["rl"] = RLSettings(**settings["rl"]) if settings["rl"] else None
        return cls(
            entry=stored["entry"],
            settings=TrainSettings(**settings),
            runtime=TrainRuntime(**stored["runtime"]),
            paths=TrainPaths(**stored["paths"]),
        )
