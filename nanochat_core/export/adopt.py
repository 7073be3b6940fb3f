"""A model from elsewhere with its tokenizer: each is read, one is checked against the other, nothing in them is run.

What no file tells is measured: nanochat capped its logits at 20 for a week and at 15 before and since, and a model is
better on text with the cap that it was trained with.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.config import GPTConfig
from nanochat_core.export.peer_tokenizer import PICKLE, load_peer_tokenizer
from nanochat_core.export.tokenizer_import import tokenizer_from_json
from nanochat_core.model.gpt import GPT
from nanochat_core.model.import_checkpoint import Checkpoint, read_checkpoint
from nanochat_core.model.shape import padded_vocab_size
from nanochat_core.tokenizer.tokenizer import FILE_NAME, FORMAT, Tokenizer

SAMPLE_BYTES = 4_000


@dataclass(frozen=True)
class Adopted:
    """A model in our form."""

    checkpoint: Checkpoint
    tokenizer: Tokenizer | None
    notes: list[str]
    """What was decided, for a person."""

    @property
    def config(self) -> GPTConfig:
        """Its shape, with everything found out."""
        return self.checkpoint.config

    @property
    def model(self) -> GPT:
        """In fp32 on the CPU; each time a new one."""
        return self.checkpoint.model()


def adopt(folder: Path, *, tokenizer_folder: Path | None = None, softcap: float | None = None) -> Adopted:
    """Read the model in `folder`, in any form that we know; `softcap` None: found out.

    The tokenizer is that of `tokenizer_folder`, else the one beside the weights, else there is none.
    """
    checkpoint = read_checkpoint(folder)
    is_beside = any((folder / name).is_file() for name in (FILE_NAME, PICKLE))
    where = tokenizer_folder or (folder if is_beside else None)
    tokenizer = read_tokenizer(where) if where else None
    if tokenizer is not None:
        checkpoint = _speaking(checkpoint, tokenizer)
    cap, notes = (
        (softcap, [f"its logits are capped at {softcap:g}, as asked"]) if softcap else _softcap(checkpoint, tokenizer)
    )
    config = replace(checkpoint.config, softcap=cap)
    return Adopted(replace(checkpoint, config=config, softcaps=(cap,)), tokenizer, notes)


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder in any form that we can read."""
    path = folder / FILE_NAME
    if path.is_file():
        is_ours = f'"{FORMAT}"' in path.read_text(encoding="utf-8", errors="replace")[:200]
        return Tokenizer.load(folder) if is_ours else tokenizer_from_json(path)
    if (folder / PICKLE).is_file():
        return load_peer_tokenizer(folder)
    raise MissingError(f"{folder} holds neither {FILE_NAME} nor {PICKLE}", hint="point at a tokenizer's folder")


def _speaking(checkpoint: Checkpoint, tokenizer: Tokenizer) -> Checkpoint:
    """The checkpoint with the tokenizer's own number of tokens."""
    config = replace(checkpoint.config, vocab_size=tokenizer.vocab_size)
    fitting = {config.vocab_size, *([padded_vocab_size(config)] if checkpoint.counts_rows else ())}
    if checkpoint.config.vocab_size not in fitting:
        raise MissingError(
            f"the model in {checkpoint.folder} has {checkpoint.config.vocab_size:,} tokens and its tokenizer "
            f"{tokenizer.vocab_size:,}",
            hint="copy the tokenizer that it was trained with",
        )
    return replace(checkpoint, config=config)


def _softcap(checkpoint: Checkpoint, tokenizer: Tokenizer | None) -> tuple[float, list[str]]:
    """The softcap that fits, and what is to be said of it."""
    caps = checkpoint.softcaps
    if len(caps) == 1:
        return caps[0], []
    shown = " or ".join(f"{cap:g}" for cap in caps)
    if tokenizer is None:
        raise ConfigError(
            f"no file in {checkpoint.folder} tells whether its logits are capped at {shown}",
            hint="with its tokenizer beside it both are measured on text; or say which one (softcap)",
        )
    rows = _sample(tokenizer, length=checkpoint.config.sequence_len)
    losses = {cap: _nats_per_token(checkpoint.model(softcap=cap), rows) for cap in caps}
    best = min(losses, key=lambda cap: losses[cap])
    told = ", ".join(f"{loss:.4f} nats per token at {cap:g}" for cap, loss in losses.items())
    return best, [f"its logits may be capped at {shown}: {told}, so {best:g} is taken (softcap decides otherwise)"]


def _sample(tokenizer: Tokenizer, *, length: int) -> list[list[int]]:
    """A few kilobytes of English, in rows of at most `length` tokens to predict."""
    from nanochat_core.data.documentation import documents

    text = "\n\n".join(itertools.islice(documents(), 8))[:SAMPLE_BYTES]
    ids = tokenizer.encode(text)
    return [[tokenizer.bos, *ids[first : first + length]] for first in range(0, len(ids), length)]


@torch.no_grad()
def _nats_per_token(model: GPT, rows: Sequence[Sequence[int]]) -> float:
    losses = [model.loss(torch.tensor([row[:-1]]), torch.tensor([row[1:]]), reduction="sum") for row in rows]
    return float(sum(losses)) / sum(len(row) - 1 for row in rows)
