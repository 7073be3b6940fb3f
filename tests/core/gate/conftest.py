"""Made-up trainings in a real store: artifacts with the files, metrics and logs that the gate reads, in no time."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pytest

from nanochat_core import workspace
from nanochat_core.base.fingerprint import identity_digest
from nanochat_core.pipeline.execute import ref_of
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan
from nanochat_core.store.manifest import Artifact


@dataclass
class Trainer:
    """Trains nothing: bits per byte come from `values`, one per training."""

    folder: Path
    values: Callable[[int], float] = lambda seed: 3.0
    code: str = "one"
    weights: str = ""
    """What the weights are but for seed and rates."""
    twin_frac: float = 1e-4
    """What one unit in the last place of a rate comes to, of bits per byte."""
    device: str = "cpu"
    step_ms: float = 10.0
    machine_tflops: float | None = None
    """At the start; None: a log of before it was measured."""
    memory_gib: float = 2.0
    loses_log: bool = False
    processes: tuple[int, ...] = (1,)
    """Of each start of a training."""
    torch: str = "2.11.0+cpu"
    seeds: list[int] = field(default_factory=list)
    """Of the trainings that were asked for."""
    rate: float = 0.0
    """Muon's, of which twins differ."""
    fails_at: int | None = None
    """The training that is killed."""
    fails_with: Exception | None = None
    """What every training ends with."""

    def __call__(self, plan: RunPlan) -> list[Ref]:
        self.seeds.append(plan.config.seed)
        if self.fails_at == len(self.seeds):
            raise KeyboardInterrupt
        if self.fails_with is not None:
            raise self.fails_with
        rate = plan.config.pretrain.matrix_lr
        units = round((rate / self.rate - 1) * 2**23) if self.rate else 0
        value = self.values(plan.config.seed) * (1 + units * self.twin_frac * (1 + plan.config.seed % 7) / 4)
        numbers = {"bits_per_byte": value, "device": self.device, "dtype": "float32"}
        made = {"corpus": self.publish("corpus", {}, {})}
        inputs = {"tokens": made["corpus"].result_digest}
        config = {"seed": plan.config.seed, "optim": asdict(plan.pretrain.schedule), "rate": rate}
        made["pretrain"] = self.publish("pretrain", config, inputs, numbers, log=self.log(plan, value))
        made["evaluate_base"] = self.publish("evaluate_base", {}, {"pretrain": made["pretrain"].result_digest}, numbers)
        return [ref_of(artifact, {}) for artifact in made.values()]

    def publish(self, step: str, config: dict, inputs: dict, metrics: dict | None = None, log: str = "") -> Artifact:
        folder = self.folder / step
        (folder / "log").mkdir(parents=True, exist_ok=True)
        (folder / "log/metrics.jsonl").write_text(log)
        (folder / "result.json").write_text(
            json.dumps([step, config, "" if step == "corpus" else self.weights or self.code])
        )
        identity = {
            "step": step,
            "inputs": inputs,
            "config": config,
            "code": {"m": "" if step == "corpus" else self.code},
            "packages": {},
        }
        return workspace.current().store.publish(
            folder,
            **identity,
            fingerprint=identity_digest(identity),
            metrics=metrics or {},
            provenance={"cpu": "x", "packages": {"torch": self.torch}},
        )

    def log(self, plan: RunPlan, value: float) -> str:
        if self.loses_log:
            return ""
        per_step, ms = plan.pretrain.total_batch_tokens, self.step_ms
        machine = {} if self.machine_tflops is None else {"machine_tflops": self.machine_tflops}
        records = [
            {"event": "start", "step": 0, "num_steps": 30, "world_size": number, **machine} for number in self.processes
        ]
        for step in range(1, 31):
            slow = ms * (10 if step == 1 else 1)
            records.append(
                {
                    "event": "step", "step": step, "loss": 1.0, "smooth_loss": 1.0, "lr_multiplier": 1.0,
                    "step_ms": slow, "tokens_per_s": per_step / slow * 1e3, "tokens": step * per_step,
                    "train_s": step * slow / 1e3, "memory_gib": self.memory_gib,
                }
            )  # fmt: skip
            if step % 15 == 0:
                records.append(
                    {
                        "event": "validate", "step": step, "train_s": 1.0, "validate_s": 1.0,
                        "bits_per_byte": value + (30 - step) / 30, "validation_loss": 1.0,
                    }
                )  # fmt: skip
        records.append({"event": "end", "step": 30, "train_s": 1.0})
        return "".join(json.dumps({"time_s": 0.0, **record}) + "\n" for record in records)


@pytest.fixture
def trainer(home: Path, tmp_path: Path) -> Trainer:
    return Trainer(tmp_path / "made")
