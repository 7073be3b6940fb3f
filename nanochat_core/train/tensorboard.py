"""TensorBoard events of a training, written by its supervisor from the same records that metrics.jsonl holds.

    nanochat curves

tensorboard's own writer is used without torch, so following a run does not load it. A resumed attempt replays the
records of the earlier ones; the folder is started anew for each attempt, so every step is there once.
"""

import shutil
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from nanochat_core.base.records import Record

CHARTS = {
    "step": (
        "loss", "smooth_loss", "lr_multiplier", "step_ms", "tokens_per_s", "memory_gib",
        "reward", "pass_rate", "useful_frac", "entropy", "kl", "answer_tokens", "rollout_s", "learn_s",
    ),
    "validate": (
        "bits_per_byte", "validation_loss", "validate_s",
        "held_out_reward", "standard_error", *(f"pass_at_{1 << power}" for power in range(1, 10)),
    ),
}  # fmt: skip


class TensorBoardLog:
    """Scalars of one training, by step."""

    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self._writer = EventFileWriter(str(folder))

    def add(self, record: Record) -> None:
        """One record; kinds without a chart are left out."""
        names = [name for name in CHARTS.get(record["event"], ()) if name in record]
        if names:
            values = [Summary.Value(tag=f"{record['event']}/{name}", simple_value=record[name]) for name in names]
            self._writer.add_event(
                Event(step=record["step"], wall_time=record["time_s"], summary=Summary(value=values))
            )

    def close(self) -> None:
        self._writer.close()
