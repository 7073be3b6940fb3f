"""Models for tests: nothing in them is switched off by the zeros that training starts from."""

import torch
from torch import nn


@torch.no_grad()
def nudge(model: nn.Module, scale: float, *, seed: int) -> None:
    """Add normal noise of this size to every parameter."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter += scale * torch.randn(parameter.shape, generator=generator)
