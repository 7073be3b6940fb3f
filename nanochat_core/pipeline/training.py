"""What pretraining, fine-tuning and reinforcement learning share: a supervised torchrun, its checkpoints kept in the
store until the step is done, and what is checked of a trained model.

A job is made apart from running it, because the other nodes of a training make the same one (node.py).
"""

import dataclasses
import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core.base.errors import TrainingError
from nanochat_core.base.records import RECORDS_NAME, read_records
from nanochat_core.base.redaction import redact
from nanochat_core.pipeline.step import LOG_FOLDER, Check, Metrics, StepRun
from nanochat_core.plan import GPUS, RunPlan

if TYPE_CHECKING:
    from nanochat_core.train.settings import TrainJob, TrainPaths, TrainRuntime

PACKAGES = ("torch", "numpy")
# A run's trainings draw from generators of their own: each has the run's seed and so much more.
SEED_AFTER = {"pretrain": 0, "sft": 1, "rl": 2}
WEIGHTS = "model.safetensors"
MODEL_FILES = ("config.json", WEIGHTS)
OPTIMIZER = "optimizer.safetensors"
TOKENIZER = "tokenizer.json"
TENSORBOARD = "tensorboard"
COMPLETE = "complete.json"
Folders = Mapping[str, Path]


def runtime_of(plan: RunPlan) -> "TrainRuntime":
    """The part of the machine's settings that a training is told."""
    from nanochat_core.train.settings import TrainRuntime

    runtime = plan.config.runtime
    listed = GPUS[runtime.gpu][2] if runtime.gpu in GPUS else 0.0  # with a budget, the plan has refused what is not
    chosen = {
        **vars(runtime),
        "usd_per_gpu_hour": listed if runtime.usd_per_gpu_hour is None else runtime.usd_per_gpu_hour,
    }
    names = [field.name for field in dataclasses.fields(TrainRuntime)]
    return TrainRuntime(**{name: chosen[name] for name in names if name in chosen})


def paths_of(inputs: Folders, *, rows: str, checkpoints: Path, work: Path, out: Path) -> "TrainPaths":
    from nanochat_core.train.settings import TrainPaths

    base = next((inputs[step] for step in ("pretrain", "sft", "base") if step in inputs), None)
    return TrainPaths(
        rows=str(inputs[rows]),
        tokenizer=str(inputs["tokenizer"]),
        base=str(base) if base else None,
        checkpoints=str(checkpoints),
        work=str(work),
        out=str(out),
    )


def train(run: StepRun, make_job: "Callable[..., TrainJob]") -> Metrics:
    """Run the ranks of a training to its end, whatever breaks in between; returns the headline numbers."""
    from nanochat_core.base.torchrun import Nodes
    from nanochat_core.pipeline.checkpoints import CheckpointKeeper
    from nanochat_core.train.launch import run_booked
    from nanochat_core.train.tensorboard import TensorBoardLog

    nodes = Nodes.from_environment(run.plan.config.runtime.num_nodes, run_id=run.key[:16])
    keeper = CheckpointKeeper(run.partial, scratch=run.work / "checkpoints")
    job = make_job(run.plan, run.inputs, checkpoints=keeper.prepare(), work=run.attempt, out=run.out)
    home = run.work.parents[1]
    job = dataclasses.replace(
        job,
        paths=dataclasses.replace(job.paths, successor=run.lease.successor),
        runtime=dataclasses.replace(job.runtime, measured=str(home / "measured")),
    )
    charts = TensorBoardLog(run.attempt / TENSORBOARD)
    started_s = time.time()

    def on_record(record: dict[str, Any]) -> None:
        keeper.on_record(record)
        charts.add(record)
        if record["time_s"] < started_s:  # an attempt's before this one, read again: old news for who watches
            return
        run.record(record)
        if record["event"] == "start":
            keeper.begun(record["step"])
            _note_start(run, record)

    def check() -> None:
        run.lease.raise_if_lost()
        keeper.look()

    def close() -> None:
        charts.close()
        keeper.finish()

    older = keeper.older if nodes.num == 1 else lambda: False  # other nodes have been told that it ended
    result = run_booked(
        job, on_record, nodes, sheet=keeper.timesheet, check=check, note=run.note, close=close, older=older
    )
    for name in MODEL_FILES:
        if not (run.out / name).is_file():
            raise TrainingError(f"the training ended well and left no {name} in {run.out}", hint="see its output.log")
    _keep_logs(run, keeper.timesheet)
    return {key: value for key, value in result.items() if key != "status"}


def _note_start(run: StepRun, record: dict[str, Any]) -> None:
    for problem in record.get("left_out", ()):
        run.note(f"left out: {problem}")
    if record["step"]:
        run.note(f"going on from the checkpoint of step {record['step']:,}")
    if record.get("choices"):
        run.note("; ".join(record["choices"]))


def _keep_logs(run: StepRun, sheet: Path) -> None:
    from nanochat_core.base.child import LOG_NAME

    folder = run.out / LOG_FOLDER
    folder.mkdir(exist_ok=True)
    shutil.copytree(run.attempt / TENSORBOARD, folder / TENSORBOARD)
    for path in (run.attempt / RECORDS_NAME, run.attempt / "plan.json", sheet):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    output = run.attempt / LOG_NAME  # what libraries print there, they print whole
    if output.is_file():
        text = redact(output.read_text(encoding="utf-8", errors="surrogateescape"))
        (folder / LOG_NAME).write_text(text, encoding="utf-8", errors="surrogateescape")


def run_seed(step: str, config: Mapping[str, Any]) -> int:
    """The seed of the run that a model is from, by the step that made it and that step's settings."""
    return int(config["seed"]) - SEED_AFTER[step]


AS_IT_IS = {"taken": "as it is"}
"""The settings of a training whose place a model takes that somebody else has trained."""


def take(run: StepRun, source: str) -> Metrics:
    """Make a model of an input what this step has made; nothing is trained."""
    for path in run.inputs[source].iterdir():
        if path.name in (*MODEL_FILES, OPTIMIZER):
            shutil.copyfile(path, run.out / path.name)
    return {"num_steps": 0, "train_s": 0.0, "device": "none", "dtype": "float32", "taken_from": source}


def is_taken(run: StepRun) -> bool:
    """Whether this step trains nothing."""
    return run.settings == AS_IT_IS


def headline(metrics: Metrics) -> str:
    """Not the evaluation's figure: a training looks at less of the held-out text, fine-tuning at answers only."""
    if "taken_from" in metrics:
        return "taken as it is"
    return f"{metrics['num_steps']:,} steps, validation bpb {metrics['bits_per_byte']:.4f}"


def checks(run: StepRun, metrics: Metrics) -> list[Check]:
    """Of pretraining and fine-tuning: both end with a loss on held-out text."""
    if is_taken(run):
        return [weights_are_numbers(run.out / WEIGHTS)]
    losses = {name: metrics[name] for name in ("smooth_loss", "validation_loss", "bits_per_byte")}
    learnt = below_uniform(metrics["validation_loss"], vocab_size=run.plan.pretrain.model.vocab_size)
    return [losses_are_numbers(losses, run.attempt / RECORDS_NAME), learnt, *checks_of_model(run)]


def checks_of_model(run: StepRun) -> list[Check]:
    """Of what every training leaves: its weights and its last checkpoint."""
    checkpoints = run.partial.folder or run.work / "checkpoints"
    return [weights_are_numbers(run.out / WEIGHTS), checkpoint_is_whole(checkpoints)]


def losses_are_numbers(losses: dict[str, float], records: Path) -> Check:
    """Every loss that was logged, and every figure that the training ended with, is a finite number."""
    logged = [record["loss"] for record in read_records(records) if "loss" in record]
    num_wrong = sum(not math.isfinite(loss) for loss in logged)
    shown = ", ".join(f"{value:.4f}" for value in losses.values())
    is_passed = num_wrong == 0 and all(math.isfinite(value) for value in losses.values())
    return Check("loss is a number", f"{shown}; {num_wrong:,} of {len(logged):,} logged are not", "finite", is_passed)


def below_uniform(loss: float, *, vocab_size: int) -> Check:
    """Guessing every token with the same probability has a loss of ln V."""
    uniform = math.log(vocab_size)
    wanted = f"above 0 and below ln {vocab_size:,} = {uniform:.4f}"  # 0: nothing was predicted
    return Check("better than guessing", f"{loss:.4f} nats per token", wanted, 0 < loss < uniform)


def weights_are_numbers(path: Path) -> Check:
    """Every weight of the model is finite."""
    import numpy as np
    from safetensors import safe_open

    num_weights, wrong = 0, []
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            tensor = file.get_tensor(name)
            num_weights += tensor.size
            if not np.isfinite(tensor).all():
                wrong.append(name)
    found = f"{num_weights:,} weights" + (f"; {len(wrong)} bad tensors: {', '.join(wrong[:3])}" if wrong else "")
    return Check("weights are numbers", found, "all finite", not wrong)


def checkpoint_is_whole(folder: Path) -> Check:
    """The files of the last checkpoint have the digests that they were written with."""
    newest = max(folder.glob("step-????????"), default=folder / "no checkpoint")
    listed = newest / COMPLETE
    description = json.loads(listed.read_text()) if listed.is_file() else {}
    num_whole = sum(_sha256(newest / name) == wanted["sha256"] for name, wanted in description.items())
    found = f"{newest.name}: {num_whole} of {len(description)} files"
    is_passed = bool(description) and num_whole == len(description)
    return Check("last checkpoint is whole", found, "all files with their sha256", is_passed)


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
