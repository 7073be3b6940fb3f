"""Golden numbers: what nanochat itself gave, on a CPU in float32, for a tiny model with every feature on.

From nanochat (MIT licence, commit 92d63d4), run once; facts about its architecture, none of its code.
- golden/plan.json: derived numbers for depths 2 to 32, two vocabularies, two ratios.
- golden/nanochat_d4/golden.json: shape, input ids, mean loss, a greedy continuation, optimizer groups, five training
  steps with the norm of every parameter after each.
- golden/nanochat_d4/expected.npz: logits of the last 32 positions and of the first, the loss of every token.
- golden/nanochat_d4/after_5_steps.npz: every 101st value of each parameter after the fifth step.

The weights are 3 MB and no file: they are random numbers, drawn here in the order in which nanochat drew them.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

GOLDEN = Path(__file__).with_name("golden")
D4 = GOLDEN / "nanochat_d4"
EVERY = 101
LAYERS, WIDTH, KV_WIDTH, ROWS = 4, 128, 64, 320  # ROWS: the vocabulary of 272, padded
WITH_VALUES = (1, 3)  # layers with value embeddings
SCALARS = {
    "resid_lambdas": [1.123515009880066, 1.0814189910888672, 1.0797804594039917, 1.0388693809509277],
    "x0_lambdas": [0.2319042682647705, 0.14893838763237, 0.0225689634680748, 0.08536292612552643],
    "smear_lambda": [0.37],
    "backout_lambda": [0.23],
}


def plan_table() -> list[dict[str, Any]]:
    return json.loads((GOLDEN / "plan.json").read_text(encoding="utf-8"))


def numbers() -> dict[str, Any]:
    return json.loads((D4 / "golden.json").read_text(encoding="utf-8"))


def arrays(name: str) -> dict[str, Tensor]:
    with np.load(D4 / f"{name}.npz") as found:
        return {key: torch.from_numpy(found[key]) for key in found}


def write_checkpoint(folder: Path) -> Path:
    """The model's folder as nanochat's exporter writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights(), folder / "model.safetensors")
    (folder / "golden.json").write_bytes((D4 / "golden.json").read_bytes())
    return folder


def weights() -> dict[str, Tensor]:
    """By nanochat's names. The global generator is used, as it was then, and left as it was found."""
    state = torch.get_rng_state()
    try:
        torch.manual_seed(1234)
        _construct()
        drawn = dict(_initialise())
        torch.manual_seed(99)
        drawn |= dict(_fill_zeros())
    finally:
        torch.set_rng_state(state)
    return drawn | {name: torch.tensor(values) for name, values in SCALARS.items()}


def _construct() -> None:
    """Torch's modules draw when they are made; all of it was overwritten, the generator moved on."""
    nn.Embedding(ROWS, WIDTH)
    for layer in range(LAYERS):
        for rows in (WIDTH, KV_WIDTH, KV_WIDTH, WIDTH):  # q, k, v, projection
            nn.Linear(WIDTH, rows, bias=False)
        if layer in WITH_VALUES:
            nn.Linear(12, 2, bias=False)
        nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        nn.Linear(4 * WIDTH, WIDTH, bias=False)
    nn.Linear(WIDTH, ROWS, bias=False)
    nn.Linear(24, 1, bias=False)
    for _ in WITH_VALUES:
        nn.Embedding(ROWS, KV_WIDTH)


def _initialise() -> Iterator[tuple[str, Tensor]]:
    """nanochat's initialisation."""
    bound = (3 / WIDTH) ** 0.5
    yield "transformer.wte.weight", torch.empty(ROWS, WIDTH).normal_(0, 0.8)
    torch.empty(ROWS, WIDTH).normal_(0, 0.001)  # the head, drawn again below
    for layer in range(LAYERS):
        for name, rows in (("q", WIDTH), ("k", KV_WIDTH), ("v", KV_WIDTH)):
            yield f"transformer.h.{layer}.attn.c_{name}.weight", torch.empty(rows, WIDTH).uniform_(-bound, bound)
        wide = torch.empty(4 * WIDTH, WIDTH)
        yield f"transformer.h.{layer}.mlp.c_fc.weight", wide.uniform_(-0.4 * bound, 0.4 * bound)
    yield "smear_gate.weight", torch.empty(1, 24).uniform_(0, 0.02)
    for layer in WITH_VALUES:
        yield f"value_embeds.{layer}.weight", torch.empty(ROWS, KV_WIDTH).uniform_(-bound, bound)
    for layer in WITH_VALUES:
        yield f"transformer.h.{layer}.attn.ve_gate.weight", torch.empty(2, 12).uniform_(0, 0.02)


def _fill_zeros() -> Iterator[tuple[str, Tensor]]:
    """What starts at zero, or nearly, was filled so that every number counts."""
    for layer in range(LAYERS):
        yield f"transformer.h.{layer}.attn.c_proj.weight", 0.02 * torch.randn(WIDTH, WIDTH)
        yield f"transformer.h.{layer}.mlp.c_proj.weight", 0.02 * torch.randn(WIDTH, 4 * WIDTH)
    yield "lm_head.weight", 0.02 * torch.randn(ROWS, WIDTH)
