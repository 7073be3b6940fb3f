"""The loop beside its steps: what it saves and when, what it says when a step is no number, how it goes on."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nanochat_core.base.distributed import World
from nanochat_core.base.errors import HardwareError
from nanochat_core.base.records import read_records
from nanochat_core.train import checkpoint, pretrain
from nanochat_core.train.examine import examine
from nanochat_core.train.loop import NonFiniteLossError, Training, TrainingLoop
from nanochat_core.train.loss_scale import GROWTH_STEPS, INITIAL, SMALLEST, next_scale
from nanochat_core.train.settings import TrainJob

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def loop_of(
    job: TrainJob, *, is_stopping: Callable[[], bool] = lambda: False, change: Callable[[Training], None] | None = None
) -> TrainingLoop:
    training = pretrain.build(job, world=World(), device=CPU)
    if change is not None:
        change(training)
    return TrainingLoop(training, job, world=World(), device=CPU, is_stopping=is_stopping)


def saved(job: TrainJob) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in Path(job.paths.checkpoints).glob("step-*"))


def weights(loop: TrainingLoop) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loop._tensors().items()}


def test_a_training_stopped_at_any_step_goes_on_to_the_same_bits(pretrain_job, tmp_path) -> None:
    unbroken = loop_of(pretrain_job(tmp_path / "a"))
    assert unbroken.run()
    for stop_at in (1, 5, 11):
        job = pretrain_job(tmp_path / f"b{stop_at}")
        first = loop_of(job)
        first.is_stopping = lambda first=first, stop_at=stop_at: first.progress.step == stop_at
        assert not first.run()
        assert saved(job) == [stop_at]
        second = loop_of(job)
        assert second.run()
        expected = weights(unbroken)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights(second).items())
        ours, theirs = (vars(loop.progress) for loop in (second, unbroken))
        assert {k: v for k, v in ours.items() if k != "train_s"} == {k: v for k, v in theirs.items() if k != "train_s"}


def test_the_number_of_micro_batches_does_not_change_the_losses(pretrain_job, tmp_path) -> None:
    losses = []
    for rows in (1, 8):
        job = pretrain_job(tmp_path / f"{rows}", device_batch_rows=rows)
        assert loop_of(job).run()
        records = read_records(Path(job.paths.work) / "metrics.jsonl")
        losses.append([record["loss"] for record in records if record["event"] == "step"])
    assert len(losses[0]) == 12
    assert losses[0] == pytest.approx(losses[1], abs=2e-4)


def test_a_checkpoint_is_begun_before_every_validation(pretrain_job, tmp_path) -> None:
    job = pretrain_job(tmp_path, validate_every_steps=4)
    seen = []

    def watch(training: Training) -> None:
        validate = training.validate

        def validate_and_look() -> dict[str, float]:
            loop.saver.wait()
            seen.append(saved(job)[-1])
            return validate()

        training.validate = validate_and_look

    loop = loop_of(job, change=watch)
    assert loop.run()
    assert seen == [4, 8, 12]


def test_the_last_two_and_the_best_on_held_out_text_are_kept(pretrain_job, tmp_path) -> None:
    job = pretrain_job(tmp_path, validate_every_steps=2)
    losses = iter([5.0, 3.0, 4.0, 6.0, 7.0, 8.0])

    def script(training: Training) -> None:
        training.validate = lambda: {"validation_loss": next(losses)}

    loop = loop_of(job, change=script)
    assert loop.run()
    assert (loop.progress.best_step, loop.progress.best_loss) == (4, 3.0)
    assert saved(job) == [4, 10, 12]


def test_checkpoints_by_step_come_at_their_steps(pretrain_job, tmp_path) -> None:
    job = pretrain_job(tmp_path, checkpoint_every_steps=5)
    assert loop_of(job).run()
    records = read_records(tmp_path / "metrics.jsonl")
    assert [record["step"] for record in records if record["event"] == "checkpoint"] == [5, 10, 12]
    assert saved(job) == [10, 12]


def test_the_order_of_the_log_does_not_depend_on_when_a_write_ends(pretrain_job, tmp_path) -> None:
    assert loop_of(pretrain_job(tmp_path, checkpoint_every_s=0.0)).run()
    step = 0
    for record in read_records(tmp_path / "metrics.jsonl"):
        step = record["step"] if record["event"] == "step" else step
        assert record["step"] == step


def test_a_write_that_fails_ends_the_training_at_the_next_step_and_says_why(pretrain_job, tmp_path) -> None:
    job = pretrain_job(tmp_path, checkpoint_every_steps=3)
    (tmp_path / "checkpoints").write_text("in the way")
    loop = loop_of(job)
    with pytest.raises(HardwareError, match="step 3 was not written"):
        loop.run()
    assert loop.progress.step in (4, 5, 6)  # the one before may still be under way when a step ends


def spoil(training: Training, token: int) -> None:
    with torch.no_grad():
        training.model.embed.weight[token] = float("nan")


def test_rows_without_a_finite_loss_are_named_and_nothing_of_the_step_is_applied(pretrain_job, tmp_path) -> None:
    job = pretrain_job(tmp_path, num_steps=40)
    token, first_bad = rare_token(job)
    loop = loop_of(job, change=lambda training: spoil(training, token))
    before = None

    def remember() -> bool:
        nonlocal before
        before = weights(loop)
        return False

    loop.is_stopping = remember
    with pytest.raises(NonFiniteLossError, match=f"the loss of step {first_bad} is nan"):
        loop.run()
    assert loop.progress.step == first_bad
    after = weights(loop)
    assert all(torch.equal(tensor, after[name]) or name == "model.embed.weight" for name, tensor in before.items())
    told = examine(loop.training, job, first_bad, world=World())
    found = json.loads((tmp_path / "non-finite.json").read_text())
    rows = loop.training.objective.rows
    expected = [row for row in found["rows"] if token in rows.read(row)[0][:-1]]
    assert found["rows_without_a_finite_loss"] == expected != []
    assert str(expected[0]) in told
    assert found["rows_file"].endswith("train.rows.npz")
    piece = found["documents"][str(expected[0])][0]
    first = rows.shards.doc_starts[piece["shard"]][piece["document"]]
    assert first <= piece["first_token"] < first + 1000
    assert rows.shards.tokens[piece["shard"]][piece["first_token"]] == rows.read(expected[0])[0][0]


def rare_token(job: TrainJob) -> tuple[int, int]:
    """A token that no batch but a later one holds, and the step of that batch."""
    objective = pretrain.build(job, world=World(), device=CPU).objective
    batches = [[objective.rows.read(int(row))[0][:-1] for row in objective.order.rows_at(step)] for step in range(4)]
    present = [{int(token) for row in batch for token in row} for batch in batches]
    candidates = [(token, step) for step in (1, 2, 3) for token in present[step] - set().union(*present[:step])]
    if candidates:
        return candidates[0]
    return max(present[0]), 0


def test_a_checkpoint_of_another_number_of_files_is_passed_over(pretrain_job, tmp_path) -> None:
    """A kill in mid-write leaves a folder that is no checkpoint: the loop takes the one before."""
    job = pretrain_job(tmp_path, checkpoint_every_steps=4)
    assert loop_of(job).run()
    torn = Path(job.paths.checkpoints) / "step-00000012"
    shutil.copytree(torn, torn.with_suffix(".tmp99"))
    (torn / checkpoint.COMPLETE).unlink()
    loop = loop_of(job)
    loop._resume()
    assert loop.progress.step == 8


def in_fp16(job: TrainJob) -> TrainJob:
    return dataclasses.replace(job, settings=dataclasses.replace(job.settings, dtype="fp16"))


def test_fp16_learns_what_fp32_learns(pretrain_job, tmp_path) -> None:
    losses = {}
    for name, job in (("fp32", pretrain_job(tmp_path / "a")), ("fp16", in_fp16(pretrain_job(tmp_path / "b")))):
        loop = loop_of(job)
        assert loop.progress.loss_scale == (INITIAL if name == "fp16" else 1.0)
        loop.progress.loss_scale = min(loop.progress.loss_scale, 2.0**10)  # the first scale costs the first few steps
        assert loop.run()
        records = read_records(Path(job.paths.work) / "metrics.jsonl")
        losses[name] = [record["loss"] for record in records if record["event"] == "step"]
    # later ones part: at a toy's high rates every last bit grows
    assert losses["fp16"][:5] == pytest.approx(losses["fp32"][:5], rel=5e-3)
    assert losses["fp16"][:5] != losses["fp32"][:5]
    assert (loop.progress.loss_scale, loop.progress.good_steps) == (2.0**10, 12)
    assert any("float16, with a scaled loss" in line for line in loop.training.choices["choices"])


def test_a_step_in_fp16_whose_gradients_overflow_is_left_out_and_the_scale_halved(pretrain_job, tmp_path) -> None:
    loop = loop_of(in_fp16(pretrain_job(tmp_path, num_steps=20)))
    loop.progress.loss_scale = 2.0**40
    before = weights(loop)
    loop._take_step()
    after = weights(loop)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert (loop.progress.step, loop.progress.loss_scale, loop.progress.good_steps) == (1, 2.0**39, 0)
    while loop.progress.good_steps == 0:
        loop._take_step()
    assert INITIAL < 2 * loop.progress.loss_scale < 2.0**40
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(loop).items())


def test_the_loss_scale_grows_after_many_good_steps() -> None:
    assert next_scale(8.0, GROWTH_STEPS - 1, is_sound=True) == (16.0, 0)
    assert next_scale(8.0, 5, is_sound=True) == (8.0, 6)
    assert next_scale(8.0, 5, is_sound=False) == (4.0, 0)
    assert next_scale(SMALLEST, 0, is_sound=False) == (SMALLEST, 0)
