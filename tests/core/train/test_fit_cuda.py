"""What needs a GPU: rows measured by memory, batches sent ahead, layers compiled with the training's own kernels."""

import dataclasses

import pytest
import torch

from nanochat_core.base.distributed import World
from nanochat_core.data.loader import BatchOrder, PackedDocuments
from nanochat_core.train import fit, pretrain
from nanochat_core.train.feed import Feed
from nanochat_core.train.loop import TrainingLoop

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
]


def on_gpu(job, **settings):
    runtime = dataclasses.replace(job.runtime, device="cuda")
    return dataclasses.replace(job, runtime=runtime, settings=dataclasses.replace(job.settings, **settings))


def build(job):
    return pretrain.build(job, world=World(), device=torch.device("cuda", 0))


def test_rows_are_measured_once_and_a_full_gpu_takes_fewer(pretrain_job, tmp_path) -> None:
    job = on_gpu(pretrain_job(tmp_path, device_batch_rows=None, measured=str(tmp_path / "measured")))
    training = build(job)
    assert training.choices["device_batch_rows"] == 8
    assert "measured" in training.choices["choices"][-1]
    assert "remembered" in build(job).choices["choices"][-1]
    assert all(parameter.grad is None for parameter in training.model.parameters())
    free, total = torch.cuda.mem_get_info()
    held = torch.empty(int(free - fit.RESERVE_FRAC * total), dtype=torch.uint8, device="cuda")
    assert not fit._fits(training.model, training.objective.loss, 4096, most=8192, length=64)
    del held


def test_batches_that_were_sent_ahead_are_those_of_their_steps(text_folder) -> None:
    rows = PackedDocuments(text_folder, "train", vocab_size=265)
    order = BatchOrder(num_rows=rows.num_rows, total_batch_rows=8, seed=1)
    ahead, plain = (Feed(rows, order, world=World(), device=torch.device(name)) for name in ("cuda", "cpu"))
    for step in (0, 1, 2, 7, 7, 3):  # also such as nobody prepared
        got, expected = ahead.at(step), plain.at(step)
        ahead.prepare(step + 1)
        assert torch.equal(got.ids.cpu(), expected.ids)
        assert torch.equal(got.targets.cpu(), expected.targets)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_compiled_layers_train_to_the_same_loss(pretrain_job, tmp_path, dtype: str) -> None:
    losses = {}
    for how in ("none", "blocks"):
        job = on_gpu(pretrain_job(tmp_path / how, num_steps=4, compile=how), dtype=dtype)
        training = build(job)
        loop = TrainingLoop(training, job, world=World(), device=torch.device("cuda", 0), is_stopping=lambda: False)
        assert loop.run()
        losses[how] = loop.progress.smooth_loss
    assert losses["blocks"] == pytest.approx(losses["none"], rel=1e-2 if dtype == "bf16" else 1e-4)
