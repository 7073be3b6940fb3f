"""Pretraining: packed documents, weights from scratch or of a model that goes on learning.

The entry point of the step's code closure: everything imported from here on decides the weights.
"""

from pathlib import Path

import numpy as np
import torch

from nanochat_core.base.distributed import World
from nanochat_core.data.loader import RowSource, open_text
from nanochat_core.evals.bpb import bits_per_byte
from nanochat_core.model.gpt import GPT
from nanochat_core.model.weights import load_model
from nanochat_core.optim.groups import OptimConfig
from nanochat_core.optim.optimizer import MuonAdamW
from nanochat_core.tokenizer.tokenizer import Tokenizer
from nanochat_core.train.choices import choose_rows, compile_as_asked, measure_machine, prepare_products
from nanochat_core.train.loop import Training
from nanochat_core.train.rows import RowPrediction
from nanochat_core.train.settings import TrainJob


def build(job: TrainJob, *, world: World, device: torch.device) -> Training:
    """Model, optimizer and rows of a pretraining."""
    settings = job.settings
    model = GPT(settings.model) if job.paths.base is None else load_model(Path(job.paths.base))
    if job.paths.base is None:
        model.init_weights(settings.seed)
    rows = open_text(Path(job.paths.rows), "train", vocab_size=settings.model.vocab_size)
    held_out = open_text(Path(job.paths.rows), "validation", vocab_size=settings.model.vocab_size)
    training = assemble(job, model, rows, held_out, world=world, device=device)
    if job.paths.base is not None:
        training.choices["choices"].append("a model goes on learning: the optimizer starts anew")
    return training


def assemble(
    job: TrainJob, model: GPT, rows: RowSource, held_out: RowSource, *, world: World, device: torch.device
) -> Training:
    """Optimizer and validation around a model; fine-tuning uses it too."""
    settings = job.settings
    model.to(device)
    choices = prepare_products(model, job, device=device)
    optimizer = MuonAdamW(model, OptimConfig(**settings.optim), is_lazy=True)
    bos = Tokenizer.load(Path(job.paths.tokenizer)).bos if settings.document_mask else None
    num_rows = max(1, settings.total_batch_rows // world.size)
    choose_rows(choices, model, job, bos=bos, num_rows=num_rows, length=rows.row_len - 1, world=world)
    compile_as_asked(choices, model, job)
    measure_machine(choices, model, world=world)
    token_bytes = torch.from_numpy(np.load(Path(job.paths.tokenizer) / "token_bytes.npy")).to(device)

    def validate() -> dict[str, float]:
        result = bits_per_byte(
            model,
            held_out,
            token_bytes,
            num_rows=settings.validation_rows,
            batch_rows=choices.batch_rows,
            world=world,
            bos=bos,
        )
        saturated = {"fp8_saturated": sum(model.fp8.saturations().values())} if model.fp8 is not None else {}
        return {"bits_per_byte": result.bits_per_byte, "validation_loss": result.nats_per_token, **saturated}

    prediction = RowPrediction(
        model, rows, job, world=world, batch_rows=choices.batch_rows, bos=bos,
        before_last=optimizer.reduce_in_next_backward,
    )  # fmt: skip
    return Training(model, optimizer, prediction, validate, choices=choices.record())
