"""What a training decides for its machine: rows of a pass, fp8, documents, compiled layers; and that it says so."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nudge import nudge
from threads import one_thread

from nanochat_core.base.distributed import World
from nanochat_core.base.errors import ConfigError, HardwareError
from nanochat_core.base.records import read_records
from nanochat_core.data.loader import PackedDocuments
from nanochat_core.model.documents import Documents
from nanochat_core.model.fp8_scaling import BOOTSTRAP_STEPS
from nanochat_core.model.gpt import Block
from nanochat_core.tokenizer.tokenizer import Tokenizer
from nanochat_core.train import choices, fit, pretrain
from nanochat_core.train.loop import TrainingLoop
from nanochat_core.train.settings import TrainJob

__all__ = ["one_thread"]
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
CPU = torch.device("cpu")


def asking(job: TrainJob, **settings: object) -> TrainJob:
    return dataclasses.replace(job, settings=dataclasses.replace(job.settings, **settings))


def loop_of(job: TrainJob) -> TrainingLoop:
    training = pretrain.build(job, world=World(), device=CPU)
    return TrainingLoop(training, job, world=World(), device=CPU, is_stopping=lambda: False)


def tensors(loop: TrainingLoop) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in loop._tensors().items()}


@pytest.mark.parametrize(
    ("limit", "most", "found"), [(9, 64, 8), (8, 64, 8), (1, 64, 1), (100, 64, 64), (100, 6, 6), (5, 6, 4)]
)
def test_rows_are_doubled_while_they_fit(limit: int, most: int, found: int) -> None:
    tried: list[int] = []

    def fits(rows: int) -> bool:
        tried.append(rows)
        return rows <= limit

    assert fit.largest(fits, most=most) == found
    assert tried == sorted(set(tried)), "each once, the small ones first"


def test_no_row_that_fits_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(HardwareError, match="not even one row") as raised:
        fit.largest(lambda rows: False, most=4)
    assert "depth" in str(raised.value.hint)


def test_a_processor_takes_a_pass_of_some_thousand_tokens_and_no_more_than_there_are(pretrain_job, tmp_path) -> None:
    job = pretrain_job(tmp_path, num_steps=1, device_batch_rows=None)
    assert loop_of(job).run()
    [start] = [record for record in read_records(tmp_path / "metrics.jsonl") if record["event"] == "start"]
    assert 0.0005 < start["machine_tflops"] < 50, "of a processor"
    assert start["device_batch_rows"] == 8, "the whole batch: 8 rows of 64 tokens are few"
    told = " ".join(start["choices"])
    assert "float32, as asked" in told
    assert "blocked attention" in told
    assert "8 rows in a pass" in told


def test_what_was_measured_is_remembered_and_a_damaged_note_is_not_believed(tmp_path) -> None:
    path = tmp_path / "measured/rows.json"
    assert fit._remembered(path) is None
    fit._remember(path, 16)
    assert fit._remembered(path) == 16
    path.write_text("{")
    assert fit._remembered(path) is None
    assert fit._remembered(None) is None


@pytest.mark.parametrize(
    ("fp8", "dtype", "told"),
    [("auto", "fp32", None), ("auto", "bf16", None), ("off", "bf16", None),
     ("dynamic", "bf16", "fp8 with dynamic scales, as asked")],
)  # fmt: skip
def test_fp8_is_chosen_with_a_reason(pretrain_job, tmp_path, fp8: str, dtype: str, told: str | None) -> None:
    job = asking(pretrain_job(tmp_path), fp8=fp8, dtype=dtype)
    training = pretrain.build(job, world=World(), device=CPU)
    said = " ".join(training.choices["choices"])
    assert (training.model.fp8 is not None) == (fp8 == "dynamic")
    assert told in said if told else "fp8" not in said


def test_a_training_in_fp8_goes_on_to_the_same_bits(pretrain_job, tmp_path) -> None:
    num_steps = BOOTSTRAP_STEPS + 4

    def job_in(name: str) -> TrainJob:
        return asking(pretrain_job(tmp_path / name, num_steps=num_steps), fp8="delayed")

    unbroken = loop_of(job_in("a"))
    assert unbroken.run()
    fp8 = unbroken.training.model.fp8
    assert fp8.num_steps == num_steps
    assert not fp8.is_dynamic
    first = loop_of(job_in("b"))
    first.is_stopping = lambda: first.progress.step == BOOTSTRAP_STEPS + 2
    assert not first.run()
    second = loop_of(first.job)
    assert second.run()
    expected = tensors(unbroken)
    assert {"fp8.history", "fp8.num_steps", "fp8.total_saturated"} <= expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(second).items())


def test_saturated_values_are_part_of_every_validation(pretrain_job, tmp_path) -> None:
    assert loop_of(asking(pretrain_job(tmp_path, num_steps=2), fp8="dynamic")).run()
    [seen] = [record for record in read_records(tmp_path / "metrics.jsonl") if record["event"] == "validate"]
    assert seen["fp8_saturated"] == 0


@pytest.fixture
def short_documents(monkeypatch: pytest.MonkeyPatch, tokenizer: Tokenizer) -> None:
    """Rows of three documents each."""
    read = PackedDocuments.read

    def read_cut(self: PackedDocuments, row: int) -> tuple[np.ndarray, None]:
        ids = read(self, row)[0].copy()
        ids[[20, 45]] = tokenizer.bos
        return ids, None

    monkeypatch.setattr(PackedDocuments, "read", read_cut)


@pytest.mark.usefixtures("short_documents")
def test_with_a_document_mask_a_row_has_the_loss_of_its_documents_alone(pretrain_job, tmp_path, tokenizer) -> None:
    job = asking(pretrain_job(tmp_path), document_mask=True)
    training = pretrain.build(job, world=World(), device=CPU)
    nudge(training.model, 0.05, seed=1)
    ids, _ = training.objective.rows.read(0)
    row = torch.from_numpy(ids.astype("int64"))[None]
    inputs, targets = row[:, :-1], row[:, 1:]
    starts = [*(inputs[0] == tokenizer.bos).nonzero().flatten().tolist(), inputs.size(1)]
    assert starts == [0, 20, 45, 64]
    pieces = [slice(a, b) for a, b in itertools.pairwise(starts)]
    alone = sum(training.model.loss(inputs[:, piece], targets[:, piece], reduction="sum") for piece in pieces)
    torch.testing.assert_close(training.objective.loss(inputs, targets), alone)
    seeing_all = training.model.loss(inputs, targets, reduction="sum")
    assert not torch.allclose(seeing_all, alone)
    assert Documents.of(inputs, bos=None) is None


@pytest.mark.usefixtures("short_documents")
def test_a_mask_changes_the_training_and_its_validation(pretrain_job, tmp_path) -> None:
    found = {}
    for is_masked in (False, True):
        job = asking(pretrain_job(tmp_path / str(is_masked), num_steps=3), document_mask=is_masked)
        assert loop_of(job).run()
        records = read_records(Path(job.paths.work) / "metrics.jsonl")
        found[is_masked] = [record["loss"] for record in records if record["event"] == "step"]
    assert found[False] != found[True]


def test_layers_are_compiled_when_asked_for(pretrain_job, tmp_path, monkeypatch) -> None:
    modes = []
    monkeypatch.setattr(Block, "compile", lambda block, *, dynamic, mode: modes.append(mode))
    for how in ("none", "blocks", "max-autotune"):
        training = pretrain.build(pretrain_job(tmp_path / how, compile=how), world=World(), device=CPU)
        assert any("compiled" in line for line in training.choices["choices"]) == (how != "none")
    assert modes == [None, None, "max-autotune-no-cudagraphs", "max-autotune-no-cudagraphs"]


def test_compiled_layers_and_fp8_are_refused_together(pretrain_job, tmp_path) -> None:
    job = asking(pretrain_job(tmp_path, compile="blocks"), fp8="delayed", dtype="bf16")
    with pytest.raises(ConfigError, match="does not go together with fp8"):
        pretrain.build(job, world=World(), device=CPU)


@pytest.mark.torture
def test_compiled_layers_train_to_the_same_loss(pretrain_job, tmp_path) -> None:
    losses = {}
    for how in ("none", "blocks"):
        job = pretrain_job(tmp_path / how, num_steps=2, compile=how)
        loop = loop_of(job)
        assert loop.run()
        losses[how] = loop.progress.smooth_loss
    assert losses["blocks"] == pytest.approx(losses["none"], rel=1e-5)


def test_names_that_are_none_are_refused(pretrain_job, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.compile 'all'"):
        pretrain.build(pretrain_job(tmp_path, compile="all"), world=World(), device=CPU)
    with pytest.raises(ConfigError, match="no attention 'best'"):
        pretrain.build(pretrain_job(tmp_path, attention="best"), world=World(), device=CPU)
    with pytest.raises(HardwareError, match="attention fa2 does not take"):
        pretrain.build(pretrain_job(tmp_path, attention="fa2"), world=World(), device=CPU)
    choices.attention_ladder.force(None)


def test_the_record_of_a_job_without_the_new_fields_is_read(pretrain_job, tmp_path) -> None:
    job = pretrain_job(tmp_path)
    job.save(tmp_path / "plan.json")
    stored = json.loads((tmp_path / "plan.json").read_text())
    for name in ("fp8", "document_mask"):
        del stored["settings"][name]
    for name in ("attention", "compile", "measured"):
        del stored["runtime"][name]
    (tmp_path / "plan.json").write_text(json.dumps(stored))
    assert TrainJob.load(tmp_path / "plan.json") == job


def test_a_resumed_training_takes_the_rows_of_its_checkpoint(pretrain_job, tmp_path) -> None:
    first = loop_of(pretrain_job(tmp_path, device_batch_rows=2))
    first.is_stopping = lambda: first.progress.step == 4
    assert not first.run()
    for chosen, rows in ((None, 2), (4, 4)):
        again = loop_of(pretrain_job(tmp_path, device_batch_rows=chosen))
        again._resume()
        assert (again.progress.step, again.training.objective.batch_rows) == (4, rows)


@pytest.mark.parametrize(("before", "after"), [("off", "dynamic"), ("dynamic", "off"), ("dynamic", "delayed")])
def test_a_checkpoint_with_other_scales_is_refused_by_name(pretrain_job, tmp_path, before: str, after: str) -> None:
    first = loop_of(asking(pretrain_job(tmp_path), fp8=before))
    first.is_stopping = lambda: first.progress.step == 2
    assert not first.run()
    with pytest.raises(ConfigError, match="of step 2 was computed in") as raised:
        loop_of(asking(pretrain_job(tmp_path), fp8=after)).run()
    assert "pretrain.fp8" in str(raised.value.hint)
