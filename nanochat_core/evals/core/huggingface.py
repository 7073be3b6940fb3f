"""CORE of other people's models, from a folder or the Hugging Face hub, with their own tokenizers.

The items, spans and rules are the same; prompts are written anew because the tokens differ. Rows longer than the
model's positions (1,024 for GPT-2) lose their beginning, each choice by its own length, as in nanochat. No prefix is
shared here: it works with any causal model, and only the head is kept to the scored places where that is possible.
Needs the optional extra `transformers`.
"""

from pathlib import Path
from typing import Any

import torch

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.hardware import pick_device, pick_dtype
from nanochat_core.evals.core.bundle import Bundle
from nanochat_core.evals.core.measure import Measured, Progress, measure
from nanochat_core.evals.core.prompts import Prompts, write_prompts
from nanochat_core.evals.core.row_scoring import RowScorer

BOS_NAMES = ("<|bos|>", "<|endoftext|>")
INSTALL_HINT = "pip install 'nanochat-prefect[transformers]'"


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


class HuggingFaceScorer(RowScorer):
    """Scores with a causal language model of transformers."""

    def __init__(self, model: Any, *, batch_tokens: int) -> None:
        self.model = model.eval()
        self.batch_tokens, self.device, self.vocab_size = batch_tokens, model.device, model.config.vocab_size
        self.max_tokens = int(getattr(model.config, "max_position_embeddings", None) or 1 << 30)
        self._has_plain_head = _has_plain_head(model)

    def _streams(self, ids: torch.Tensor) -> torch.Tensor:
        """(B T, C) before the head; (B T, V) where the model does more than a head."""
        if self._has_plain_head:
            stream = self.model.base_model(ids, use_cache=False).last_hidden_state
        else:
            stream = self.model(ids, use_cache=False).logits
        return stream.flatten(0, 1)

    def _logits(self, stream: torch.Tensor) -> torch.Tensor:
        return (self.model.get_output_embeddings()(stream) if self._has_plain_head else stream).float()


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
