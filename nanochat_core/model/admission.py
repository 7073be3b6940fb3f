"""Whether what is computed apart from the modules of the network still computes the same: the loss, the fp8 MLP.

The loss never makes all logits, and an MLP in fp8 is one function; both repeat a formula that stands in gpt.py. Each
is compared once per process with the plain one, at drawn weights (probe.py). What differs is not used.
"""

import logging
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from nanochat_core.base.errors import ConfigError
from nanochat_core.config import GPTConfig

if TYPE_CHECKING:
    from nanochat_core.model.gpt import GPT

log = logging.getLogger(__name__)

TOLERANCE = 1e-4  # of the loss, in fp32
FP8_TOLERANCE = 0.15  # of the norm: rounding to fp8 costs about 0.05
FP8_ROWS = 32


@lru_cache(maxsize=16)
def is_loss_of_logits(config: GPTConfig) -> bool:
    """Whether the loss in chunks is the cross entropy of `GPT.forward`; else it is taken from all logits, and said.

    `ConfigError` where the stream itself is another one while gradients are recorded: no evaluation could be right.
    """
    from nanochat_core.model import probe
    from nanochat_core.model.cross_entropy import linear_cross_entropy

    small = probe.probe_config(config)
    ids = probe.probe_ids(small).unsqueeze(0)
    targets = ids.roll(-1, dims=1)
    with torch.enable_grad():
        model = probe.drawn(small)
        hidden = model.hidden(ids)
        total = linear_cross_entropy(
            hidden, model.head.weight, targets, vocab_size=small.vocab_size, softcap=small.softcap
        )
        loss = total / targets.numel()
    with torch.no_grad():
        measured = model.hidden(ids)
        plain = F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    off = float((hidden.detach() - measured).abs().max())
    if not off <= probe.TOLERANCE:
        raise ConfigError(
            f"with gradients the network computes something else than without: the stream differs by {off:.2g}",
            hint="a function of nanochat_core/model has two formulas (rms_norm in stream.py has): change both",
        )
    is_same = abs(loss.item() - plain.item()) <= TOLERANCE * abs(plain.item())
    if not is_same:
        log.warning(
            "the loss is taken from all logits, with more memory: in chunks (model/cross_entropy.py) it is %.4f, and "
            "the cross entropy of the model's logits is %.4f",
            loss,
            plain,
        )
    return is_same


def is_fused_mlp(model: "GPT") -> bool:
    """Whether the MLP as one fp8 function is that of gpt.py; else its two products run in fp8 one by one, and said."""
    from nanochat_core.model.fp8 import SLOT_DTYPES, Fp8Product, fp8_mlp
    from nanochat_core.model.fp8_scaling import Fp8State
    from nanochat_core.model.gpt import MLP

    generator = torch.Generator().manual_seed(0)
    mlp = MLP(model.config).to(model.device)
    slots = {f"{name}.{kind}": dtype for name in ("fc", "proj") for kind, dtype in SLOT_DTYPES.items()}
    state = Fp8State(slots, scaling="dynamic").to(model.device)
    with torch.no_grad():
        for weight in mlp.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight.size(1) ** 0.5)
        x = torch.randn(FP8_ROWS, model.config.n_embd, generator=generator).to(model.device, model.compute_dtype)
        plain = mlp(x)
        products = (Fp8Product(state, "fc"), Fp8Product(state, "proj"))
        fused = fp8_mlp(x, first=products[0], second=products[1], weights=(mlp.fc.weight, mlp.proj.weight))
    off = float((fused - plain).float().norm() / plain.float().norm())
    if off > FP8_TOLERANCE:
        log.warning("the MLP runs in fp8 product by product: as one function it differs by %.2g from gpt.py's", off)
    return off <= FP8_TOLERANCE
