"""Runs without a training: a store with real manifests, logs and ledgers whose numbers were computed by formula.

Fast enough to make hundreds of; what a real training leaves behind is tested apart, in test_real_run.py.
"""

import functools
import json
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conftest import MICRO

from nanochat_core.base.fingerprint import identity_digest
from nanochat_core.evals.core.bundle import Benchmark
from nanochat_core.evals.core.published import PUBLISHED
from nanochat_core.evals.core.results import Accuracy, Outcome, headline, summary
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.schedules import lr_multiplier
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store

Json = dict[str, Any]
STARTED = "2026-11-22T10:00:00.000000+00:00"
FINISHED = "2026-11-22T10:01:30.000000+00:00"


def plan_with(*sets: str) -> RunPlan:
    return plan_run(load_config("tiny", [*MICRO, *sets]))


def step_records(
    plan: RunPlan,
    *,
    step_ms: Callable[[int], float] = lambda step: 100.0,
    starts: Iterable[int] = (0,),
    bits: Callable[[int], float] = lambda step: 2.0 + 1.0 / (1 + step),
    world_size: int = 1,
) -> list[Json]:
    """A log as train/loop.py writes it; `starts` are the steps at which attempts began."""
    derived, every = plan.pretrain, plan.config.pretrain.validate_every_steps
    per_step, num_steps = derived.total_batch_tokens, derived.num_steps
    noise = random.Random(plan.config.seed)  # two seeds see other rows
    records: list[Json] = []
    smooth, train_s, pending = None, 0.0, sorted(starts)
    for step in range(num_steps + 1):
        if step:
            loss = 5.0 - 0.01 * step + noise.gauss(0, 0.05)
            smooth = loss if smooth is None else 0.9 * smooth + (1 - 0.9) * loss
            seconds = step_ms(step) / 1e3
            train_s += seconds
            records.append(
                {
                    "event": "step", "time_s": 1.7e9 + step, "step": step, "loss": loss, "smooth_loss": smooth,
                    "lr_multiplier": lr_multiplier(derived.schedule, step - 1), "step_ms": seconds * 1e3,
                    "tokens_per_s": per_step / seconds, "tokens": step * per_step, "train_s": train_s,
                    "memory_gib": 0.5 + 0.001 * step,
                }
            )  # fmt: skip
        while pending and pending[0] == step:
            pending.pop(0)
            start = {"event": "start", "time_s": 1.7e9 + step, "step": step, "num_steps": num_steps}
            records.append({**start, "world_size": world_size})
        if step and (step == num_steps or (every and step % every == 0)):
            value = bits(step)
            records.append(
                {
                    "event": "validate", "time_s": 1.7e9 + step, "step": step, "train_s": train_s, "validate_s": 0.5,
                    "bits_per_byte": value, "validation_loss": value * 1.4,
                }
            )  # fmt: skip
    name = f"step-{num_steps:08d}"
    records.append({"event": "checkpoint", "time_s": 1.7e9 + 98, "step": num_steps, "name": name, "save_s": 0.1})
    records.append({"event": "end", "time_s": 1.7e9 + 99, "step": num_steps, "train_s": train_s})
    return records


@functools.lru_cache  # a full one is 91,037 items
def core_files(share_right: float, *, seed: int = 0, max_per_benchmark: int | None = 40) -> tuple[Json, list[Json]]:
    """core.json and the rows of outcomes.jsonl of a model that is right about this often."""
    generator, noise = random.Random(seed), random.Random(seed)
    outcomes, accuracies = [], []
    for published in PUBLISHED:
        baseline = published.baseline_percent / 100
        count = min(max_per_benchmark or published.num_items, published.num_items)
        marks = [generator.random() < baseline + (1 - baseline) * share_right for _ in range(count)]
        is_written = published.kind == "language_modeling"
        scale = 0.9 + 0.1 * noise.random()
        outcomes += [_outcome(published.label, index, mark, is_written, scale) for index, mark in enumerate(marks)]
        benchmark = Benchmark(
            label=published.label, kind=published.kind, data="data.jsonl", num_fewshot=published.num_fewshot,
            delimiter=published.delimiter, baseline_percent=published.baseline_percent, category=published.category,
        )  # fmt: skip
        accuracies.append(Accuracy(benchmark, sum(marks), count))
    content = summary(accuracies, max_per_benchmark=max_per_benchmark, missing=[], bundle_digest="ab" * 32)
    return content, [outcome.record() for outcome in outcomes]


def _outcome(label: str, index: int, is_right: bool, is_written: bool, scale: float) -> Outcome:
    """Of two choices the second is gold; written answers have none."""
    if is_written:
        return Outcome(label, index, is_right, None, None, [1.0], 3)
    losses = [0.5 * scale, (0.25 if is_right else 0.75) * scale]
    return Outcome(label, index, is_right, 1, int(is_right), losses, 3)


class Runs:
    """Publishes made-up runs in a store."""

    def __init__(self, store: Store, scratch: Path) -> None:
        self.store, self.scratch = store, scratch
        self.count = 0
        self.source: Json = {}  # more for the provenance

    def add(
        self, plan: RunPlan, records: list[Json], *, core: tuple[Json, list[Json]] | None = None, **pretrain: Any
    ) -> str:
        """A run up to evaluate_base, or evaluate_core where `core` is given; returns its id."""
        made: dict[str, Artifact] = {}
        source = (plan.config.corpus.path or "text").encode()
        corpus = {"train/00000.parquet": b"text", "validation/00000.parquet": source}
        last = [record for record in records if record["event"] == "validate"][-1]
        losses = [record["smooth_loss"] for record in records if record["event"] == "step"]
        made["corpus"] = self._publish(plan, "corpus", {}, corpus, {"train_docs": 1})
        made["tokenizer"] = self._publish(plan, "tokenizer", made, {"tokenizer.json": b"{}"}, {"vocab_size": 512})
        rows = {"validation_rows": 40, "train_rows": 400}
        made["tokens"] = self._publish(plan, "tokens", made, {"train.rows.npz": b"rows"}, rows)
        metrics = {
            "num_steps": plan.pretrain.num_steps, "smooth_loss": losses[-1], "train_s": records[-1]["train_s"],
            "device": "cpu", "dtype": "bfloat16", "bits_per_byte": last["bits_per_byte"],
            "validation_loss": last["validation_loss"],
        }  # fmt: skip
        weights = f"weights of {plan.config.seed}, {plan.config.pretrain.matrix_lr}".encode()
        files = {
            "model.safetensors": weights,
            "config.json": b'{\n "n_layer": 2\n}',
            "log/metrics.jsonl": lines(records),
        }
        made["pretrain"] = self._publish(plan, "pretrain", made, files, metrics | pretrain)
        bits = bits_per_byte(plan, last)
        made["evaluate_base"] = self._publish(
            plan, "evaluate_base", made, {"bpb.json": pretty(bits)}, {"bits_per_byte": bits["bits_per_byte"]}
        )
        if core is not None:
            made |= self._core(plan, made, *core)
        return self._finish(plan, made)

    def _core(self, plan: RunPlan, made: dict[str, Artifact], scores: Json, rows: list[Json]) -> dict[str, Artifact]:
        found = {"core_bundle": self._publish(plan, "core_bundle", {}, {"core.yaml": b"-"}, {"num_benchmarks": 22})}
        known = made | found
        found["core_prompts"] = self._publish(
            plan, "core_prompts", known, {"prompts.npz": b"p"}, {"bundle_digest": "ab" * 32}
        )
        files = {"core.json": pretty(scores), "outcomes.jsonl": lines(rows)}
        found["evaluate_core"] = self._publish(plan, "evaluate_core", known | found, files, headline(scores))
        return found

    def _publish(
        self, plan: RunPlan, step: str, made: dict[str, Artifact], files: dict[str, bytes], metrics: Json
    ) -> Artifact:
        folder = self.scratch / f"{self.count}-{step}"
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        names = [name for name in STEPS[step].sources if name in made]
        config = (
            {"source": plan.config.corpus.path}
            if step == "corpus"
            else json.loads(json.dumps(STEPS[step].settings(plan)))
        )
        identity = {
            "step": step, "config": config, "inputs": {name: made[name].result_digest for name in names},
            "code": {"nanochat_core.train.loop": "ab" * 32}, "packages": {"torch": "2.13.0"},
        }  # fmt: skip
        provenance = {
            "git_commit": "c0ffee" * 6 + "c0ff", "git_patch_sha256": None, "num_untracked_files": 0,
            "packages": {"torch": "2.13.0+cpu"}, "python": "3.11.7", "platform": "Linux", "cpu": "a cpu",
            "num_cpus": 2, "memory_gib": 8.0, "started_at": STARTED, "finished_at": FINISHED, "seconds": 90.0,
            **self.source,
        }  # fmt: skip
        return self.store.publish(
            folder, **identity, fingerprint=identity_digest(identity), metrics=metrics, provenance=provenance
        )

    def _finish(self, plan: RunPlan, made: dict[str, Artifact]) -> str:
        self.count += 1
        run_id = f"{plan.config.preset}-20261122-1000{self.count:02d}-a{self.count:03x}"
        steps = [
            {
                "step": step, "fingerprint": artifact.fingerprint, "digest": artifact.result_digest,
                "is_cached": False, "seconds": 90.0, "metrics": dict(artifact.metrics),
            }
            for step, artifact in made.items()
        ]  # fmt: skip
        record = {"run_id": run_id, "started_at": f"2026-11-22T10:00:{self.count:02d}+00:00", "seconds": 90.0,
                  "config": asdict(plan.config), "steps": steps}  # fmt: skip
        self.store.put_run(run_id, record)
        return run_id


def bits_per_byte(plan: RunPlan, last: Json) -> Json:
    """bpb.json that fits the last validation: special tokens took a tenth of the nats."""
    num_tokens = math.ceil(plan.config.evaluate.bpb_tokens / plan.pretrain.model.sequence_len)
    num_tokens *= plan.pretrain.model.sequence_len
    nats = last["validation_loss"] * num_tokens
    num_bytes = int(0.9 * nats / (last["bits_per_byte"] * math.log(2)))
    return {"bits_per_byte": last["bits_per_byte"], "nats_per_token": last["validation_loss"],
            "num_bytes": num_bytes, "num_tokens": num_tokens}  # fmt: skip


def lines(records: list[Json]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def pretty(fields: Json) -> bytes:
    return json.dumps(fields, indent=1).encode()
