"""What the training steps do: a supervised torchrun, its checkpoints kept in the store until the step is done.

The jobs are made apart from running them, because the other nodes of a training make the same ones (node.py).
"""

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core.base.child import LOG_NAME
from nanochat_core.base.errors import TrainingError
from nanochat_core.base.records import RECORDS_NAME, read_records
from nanochat_core.base.redaction import redact
from nanochat_core.pipeline import identity
from nanochat_core.pipeline.step import LOG_FOLDER, StepRun
from nanochat_core.plan import GPUS, RunPlan

if TYPE_CHECKING:
    from nanochat_core.train.settings import TrainJob, TrainPaths, TrainRuntime

MODEL_FILES = ("config.json", "model.safetensors")
TENSORBOARD = "tensorboard"
Folders = Mapping[str, Path]
Metrics = dict[str, Any]


def pretrain(run: StepRun) -> Metrics:
    return _train(run, pretrain_job)


def sft(run: StepRun) -> Metrics:
    return _train(run, sft_job)


def rl(run: StepRun) -> Metrics:
    """How the model did before is part of what came out."""
    metrics = _train(run, rl_job)
    validations = [record for record in read_records(run.attempt / RECORDS_NAME) if record["event"] == "validate"]
    before = {f"{name}_before": validations[0][name] for name in ("held_out_reward", "standard_error")}
    return {**metrics, **before}


def pretrain_job(plan: RunPlan, inputs: Folders, *, checkpoints: Path, work: Path, out: Path) -> "TrainJob":
    """The pretraining of a plan on one node."""
    from nanochat_core.train.settings import TrainJob

    return TrainJob(
        entry="nanochat_core.train.pretrain:build",
        settings=identity.pretrain_settings(plan),
        runtime=_runtime(plan),
        paths=_paths(inputs, rows="tokens", checkpoints=checkpoints, work=work, out=out),
    )


def sft_job(plan: RunPlan, inputs: Folders, *, checkpoints: Path, work: Path, out: Path) -> "TrainJob":
    """The fine-tuning of a plan on one node; how many steps it has depends on the conversations."""
    from nanochat_core.train.settings import TrainJob

    num_rows = json.loads((inputs["conversations"] / "counts.json").read_text())["train"]["rows"]
    return TrainJob(
        entry="nanochat_core.train.sft:build",
        settings=identity.sft_settings(plan, num_rows=num_rows),
        runtime=_runtime(plan),
        paths=_paths(inputs, rows="conversations", checkpoints=checkpoints, work=work, out=out),
    )


def rl_job(plan: RunPlan, inputs: Folders, *, checkpoints: Path, work: Path, out: Path) -> "TrainJob":
    """The reinforcement learning of a plan on one node."""
    from nanochat_core.train.settings import TrainJob

    num_questions = json.loads((inputs["rl_questions"] / "counts.json").read_text())["train"]
    return TrainJob(
        entry="nanochat_core.train.rl:build",
        settings=identity.rl_settings(plan, num_questions=num_questions),
        runtime=_runtime(plan),
        paths=_paths(inputs, rows="rl_questions", checkpoints=checkpoints, work=work, out=out),
    )


JOBS = {"pretrain": pretrain_job, "sft": sft_job, "rl": rl_job}


def _runtime(plan: RunPlan) -> "TrainRuntime":
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


def _paths(inputs: Folders, *, rows: str, checkpoints: Path, work: Path, out: Path) -> "TrainPaths":
    from nanochat_core.train.settings import TrainPaths

    base = next((inputs[step] for step in ("pretrain", "sft") if step in inputs), None)
    return TrainPaths(
        rows=str(inputs[rows]),
        tokenizer=str(inputs["tokenizer"]),
        base=str(base) if base else None,
        checkpoints=str(checkpoints),
        work=str(work),
        out=str(out),
    )


def _train(run: StepRun, make_job: Any) -> Metrics:
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
