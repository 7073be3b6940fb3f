"""Bits per byte: how many bits the model needs for each byte of text it has not seen.

Unlike the loss per token it does not depend on the vocabulary, so runs with different tokenizers compare. Targets
without bytes (special tokens, ignored ones) count for neither side. bpb = nats / (ln 2 x bytes).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nanochat_core.base.distributed import World, sum_over_ranks
from nanochat_core.base.errors import MissingError
from nanochat_core.data.draws import in_turn
from nanochat_core.data.loader import IGNORED, RowSource, SeveralSources, read_batch
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


def together(parts: Sequence[BitsPerByte]) -> BitsPerByte:
    """Of several measurements, as if they were one."""
    num_bytes, num_tokens = sum(part.num_bytes for part in parts), sum(part.num_tokens for part in parts)
    byte_nats, nats = sum(part.byte_nats for part in parts), sum(part.nats for part in parts)
    return BitsPerByte(
        bits_per_byte=byte_nats / (math.log(2) * num_bytes),
        nats_per_token=nats / num_tokens,
        num_bytes=num_bytes,
        num_tokens=num_tokens,
        byte_nats=byte_nats,
        nats=nats,
    )


def by_source(
    model: GPT, source: SeveralSources, token_bytes: torch.Tensor, *, num_rows: int, **told: Any
) -> dict[str, BitsPerByte]:
    """Of each of several sources, which take turns in giving a row until there are `num_rows`."""
    shares = in_turn({name: part.num_rows for name, part in source.parts.items()}, num_rows)
    return {
        name: bits_per_byte(model, source.parts[name], token_bytes, num_rows=share, **told)
        for name, share in shares.items()
        if share
    }


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
    """Over the first `num_rows` rows of a source (all, where it has fewer), shared out over the ranks; of several
    sources as `by_source` counts them.

    `bos`: the id that begins a document, where documents of a row are not to see each other.
    """
    if isinstance(source, SeveralSources):
        told = {"batch_rows": batch_rows, "world": world, "bos": bos}
        return together([*by_source(model, source, token_bytes, num_rows=num_rows, **told).values()])
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
