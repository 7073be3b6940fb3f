"""Bits per byte: how many bits the model needs for each byte of text it has not seen.

Unlike the loss per token it does not depend on the vocabulary, so runs with different tokenizers compare. Targets
without bytes (special tokens, ignored ones) count for neither side. bpb = nats / (ln 2 x bytes).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from nanochat_core.base.distributed import World, sum_over_ranks
from nanochat_core.base.errors import MissingError
from nanochat_core.data.loader import IGNORED, RowSource, read_batch
from nanochat_core.model.documents import Documents
from nanochat_core.model.gpt import GPT


@dataclass(frozen=True)
class BitsPerByte:
    """Sums over the targets that were looked at."""

    bits_per_byte: float
    nats_per_token: float
    num_bytes: int
    num_tokens: int
    byte_nats: float
    """Summed over the targets that have bytes: bits_per_byte is this / (ln 2 x num_bytes)."""
    nats: float
    """Summed over all targets: nats_per_token is this / num_tokens."""


@torch.no_grad()
def bits_per_byte(
    model: GPT,
    source: RowSource,
    token_bytes: torch.Tensor,
    *,
    num_rows: int,
    batch_rows: int,
    world: World | None = None,
    bos: int | None = None,
) -> BitsPerByte:
    """Over the first `num_rows` rows of a source (all, where it has fewer), shared out over the ranks.

    `bos`: the id that begins a document, where documents of a row are not to see each other.
    """
    world = world or World()
    device = token_bytes.device
    rows = np.arange(min(num_rows, source.num_rows))[world.rank :: world.size]
    sums = torch.zeros(4, dtype=torch.float64, device=device)  # nats of byte targets, bytes, nats of all, targets
    model.eval()
    for first in range(0, len(rows), batch_rows):
        batch = read_batch(source, rows[first : first + batch_rows])
        ids, wanted = batch.ids.to(device), batch.targets.to(device)
        nats = model.loss(ids, wanted, reduction="none", documents=Documents.of(ids, bos=bos)).reshape(-1).double()
        targets = wanted.reshape(-1)
        counted = targets != IGNORED
        num_bytes = torch.where(counted, token_bytes[targets.clamp(min=0)], 0)
        sums += torch.stack(
            [(nats * (num_bytes > 0)).sum(), num_bytes.sum().double(), nats.sum(), counted.sum().double()]
        )
    model.train()
    byte_nats, total_bytes, nats_all, total = sum_over_ranks(sums.cpu(), world).tolist()
    if not total_bytes:
        raise MissingError(
            f"{min(num_rows, source.num_rows):,} validation rows hold no text to predict: there is no bits per byte",
            hint="look at the validation text, or at the answers of the held-out conversations",
        )
    return BitsPerByte(
        bits_per_byte=byte_nats / (math.log(2) * total_bytes),
        nats_per_token=nats_all / total,
        num_bytes=int(total_bytes),
        num_tokens=int(total),
        byte_nats=byte_nats,
        nats=nats_all,
    )
