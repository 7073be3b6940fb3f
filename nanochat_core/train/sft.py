"""Supervised fine-tuning: packed conversations with a loss mask, from a base model's weights and optimizer state.

The optimizer's moments are warm-started: the base run's averages of the gradients are a better guess than zeros, and
the first steps then have no need of a warm-up (nanochat's rule). A base from elsewhere brings none.
"""

from pathlib import Path

import torch

from nanochat_core.base.distributed import World
from nanochat_core.data.loader import PackedConversations
from nanochat_core.model.weights import OPTIMIZER, load_model, load_optimizer_state
from nanochat_core.train.loop import Training
from nanochat_core.train.pretrain import assemble
from nanochat_core.train.settings import TrainJob


def build(job: TrainJob, *, world: World, device: torch.device) -> Training:
    """Model, optimizer and rows of a fine-tuning."""
    assert job.paths.base is not None
    model = load_model(Path(job.paths.base))
    rows = PackedConversations(Path(job.paths.rows), "train")
    held_out = PackedConversations(Path(job.paths.rows), "validation")
    training = assemble(job, model, rows, held_out, world=world, device=device)
    if (Path(job.paths.base) / OPTIMIZER).is_file():
        training.optimizer.load_state_dict(load_optimizer_state(Path(job.paths.base)))
    else:
        training.choices["choices"].append("the optimizer starts anew: the base came without its averages")
    return training
