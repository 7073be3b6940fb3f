"""CORE of other people's models, from a folder or the Hugging Face hub, with their own tokenizers.

The items, spans and rules are the same; prompts are written anew because the tokens differ. Rows longer than the
model's positions (1,024 for GPT-2) lose their beginning, each choice by its own length, as in nanochat. No prefix is
shared here: it works with any causal model, and only the head is kept to the scored places where that is possible.
Needs the optional extra `transformers`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.hardware import pick_device, pick_dtype
from nanochat_core.evals.core.bundle import Bundle
from nanochat_core.evals.core.measure import Measured, Progress, measure
from nanochat_core.evals.core.prompts import Prompt, Prompts, write_prompts
from nanochat_core.evals.core.scoring import Progress as ItemProgress
from nanochat_core.evals.core.scoring import Score

BOS_NAMES = ("<|bos|>", "<|endoftext|>")
INSTALL_HINT = "pip install 'nanochat-prefect[transformers]'"
HEAD_ELEMENTS = 1 << 24  # logits at once


class HuggingFaceEncoder:
    """A tokenizer of transformers as prompts are written with it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.vocab_size = len(tokenizer)
        vocabulary = tokenizer.get_vocab()
        names = [name for name in (*BOS_NAMES, tokenizer.bos_token) if name in vocabulary]
        if not names:
            raise ConfigError(f"the tokenizer of {tokenizer.name_or_path} has no token to begin with: {BOS_NAMES}")
        self.bos = int(vocabulary[names[0]])

    def encode(self, text: str) -> list[int]:
        """Ids of the text without any token added."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        if backend is not None:
            return list(backend.encode(text, add_special_tokens=False).ids)
        return list(self.tokenizer.encode(text, add_special_tokens=False))


class HuggingFaceScorer:
    """Scores with a causal language model of transformers."""

    def __init__(self, model: Any, *, batch_tokens: int) -> None:
        self.model = model.eval()
        self.batch_tokens = batch_tokens
        self.max_tokens = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        self._has_plain_head = _has_plain_head(model)

    def score(self, prompts: Sequence[Prompt], progress: ItemProgress) -> list[Score]:
        """One score per prompt; `progress` hears how many are done."""
        rows = [row for number, prompt in enumerate(prompts) for row in self._rows(number, prompt)]
        losses = [[np.inf] * len(prompt.suffixes) for prompt in prompts]
        greedy = [[False] * len(prompt.suffixes) for prompt in prompts]
        left = np.bincount([row.prompt for row in rows], minlength=len(prompts))
        for batch in self._batches(rows):
            for row, (loss, hits) in zip(batch, self._run(batch), strict=True):
                losses[row.prompt][row.choice], greedy[row.prompt][row.choice] = loss, hits
                left[row.prompt] -= 1
            progress(int((left == 0).sum()))
        return [Score(loss, hits) for loss, hits in zip(losses, greedy, strict=True)]

    def _rows(self, number: int, prompt: Prompt) -> list["_Row"]:
        rows = []
        for choice, (suffix, count) in enumerate(zip(prompt.suffixes, prompt.num_scored, strict=True)):
            if count:  # a choice with nothing to score keeps its infinite loss
                ids = np.concatenate([prompt.prefix, suffix])[-self.max_tokens :].astype(np.int64)
                rows.append(_Row(number, choice, ids, min(count, len(ids) - 1)))
        return rows

    def _batches(self, rows: list["_Row"]) -> list[list["_Row"]]:
        """Rows of similar length together, the longest first."""
        batches: list[list[_Row]] = []
        for row in sorted(rows, key=lambda row: -len(row.ids)):
            if not batches or (len(batches[-1]) + 1) * len(batches[-1][0].ids) > self.batch_tokens:
                batches.append([])
            batches[-1].append(row)
        return batches

    @torch.no_grad()
    def _run(self, batch: list["_Row"]) -> list[tuple[float, bool]]:
        """(mean loss, all most likely) of each row. Padding stands behind, where a causal model does not look."""
        device = self.model.device
        ids = torch.zeros(len(batch), len(batch[0].ids) - 1, dtype=torch.long)
        for number, row in enumerate(batch):
            ids[number, : len(row.ids) - 1] = torch.from_numpy(row.ids[:-1])
        places = np.concatenate(
            [
                np.arange(len(row.ids) - 1 - row.num_scored, len(row.ids) - 1) + i * ids.size(1)
                for i, row in enumerate(batch)
            ]
        )
        targets = torch.from_numpy(np.concatenate([row.ids[-row.num_scored :] for row in batch])).to(device)
        streams = self._streams(ids.to(device))[torch.from_numpy(places).to(device)]
        losses, hits = [], []
        step = max(1, HEAD_ELEMENTS // self.model.config.vocab_size)
        for part, target in zip(streams.split(step), targets.split(step), strict=True):
            logits = self._logits(part)
            losses.append(logits.logsumexp(1) - logits.gather(1, target.unsqueeze(1)).squeeze(1))
            hits.append(logits.argmax(1) == target)
        counts = [row.num_scored for row in batch]
        by_row = zip(torch.cat(losses).double().cpu().split(counts), torch.cat(hits).cpu().split(counts), strict=True)
        return [(float(loss.mean()), bool(hit.all())) for loss, hit in by_row]

    def _streams(self, ids: torch.Tensor) -> torch.Tensor:
        """(B T, C) before the head; (B T, V) where the model does more than a head."""
        if self._has_plain_head:
            stream = self.model.base_model(ids, use_cache=False).last_hidden_state
        else:
            stream = self.model(ids, use_cache=False).logits
        return stream.flatten(0, 1)

    def _logits(self, stream: torch.Tensor) -> torch.Tensor:
        return (self.model.get_output_embeddings()(stream) if self._has_plain_head else stream).float()


@dataclass(frozen=True)
class _Row:
    """One choice of one prompt, cropped."""

    prompt: int
    choice: int
    ids: np.ndarray
    num_scored: int


@torch.no_grad()
def _has_plain_head(model: Any) -> bool:
    """Whether logits are the head's product with the base model's output: some models scale or cap them."""
    head = model.get_output_embeddings()
    if head is None or model.base_model is model:
        return False
    ids = torch.arange(4, device=model.device).unsqueeze(0)
    whole = model(ids, use_cache=False).logits
    parts = head(model.base_model(ids, use_cache=False).last_hidden_state)
    return whole.shape == parts.shape and torch.allclose(whole, parts, atol=1e-3, rtol=1e-3)


def load_huggingface(
    name: str, *, device: str, dtype: str, batch_tokens: int
) -> tuple[HuggingFaceEncoder, HuggingFaceScorer]:
    """A model's tokenizer and scorer; `name` is a folder that save_pretrained wrote, or a name on the hub."""
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise ConfigError(f"scoring {name} needs transformers: {error}", hint=INSTALL_HINT) from error
    where = pick_device(device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=pick_dtype(dtype, where))
    except (OSError, ValueError) as error:
        raise MissingError(
            f"{name} is no model that transformers can load: {str(error)[:300]}",
            hint="a folder written by save_pretrained, or a name on the hub such as openai-community/gpt2",
        ) from error
    return HuggingFaceEncoder(tokenizer), HuggingFaceScorer(model.to(where), batch_tokens=batch_tokens)


def measure_huggingface(
    name: str,
    bundle: Bundle,
    prompts_folder: Path,
    *,
    max_per_benchmark: int | None,
    progress: Progress,
    device: str = "auto",
    dtype: str = "auto",
    batch_tokens: int = 16_384,
) -> Measured:
    """CORE of one such model; its prompts are written into `prompts_folder`."""
    encoder, scorer = load_huggingface(name, device=device, dtype=dtype, batch_tokens=batch_tokens)
    write_prompts(
        bundle,
        encoder,
        prompts_folder,
        max_per_benchmark=max_per_benchmark,
        progress=lambda done, total: progress(done, total, "prompts"),
    )
    return measure(scorer, Prompts(prompts_folder), progress)
