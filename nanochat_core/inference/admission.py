"""Which decoder answers for a model: the fast one, once it was seen to compute what the model computes.

Its compiled step is seen apart: where that alone is off, few rows go the way that many go, by the decoder's operations.
"""

import logging
from functools import lru_cache, partial

import torch
from torch import Tensor

from nanochat_core.config import GPTConfig
from nanochat_core.inference.decoder import Decoder
from nanochat_core.inference.native import library
from nanochat_core.inference.plain_decoder import PlainDecoder
from nanochat_core.inference.threads import one_thread
from nanochat_core.model.gpt import GPT
from nanochat_core.model.probe import why_not

log = logging.getLogger(__name__)

# T tokens, V vocabulary
AnyDecoder = Decoder | PlainDecoder
NUM_STEPS = 6  # tokens decoded one by one after the prompt


@lru_cache(maxsize=16)
def why_plain(config: GPTConfig) -> str | None:
    """Why models of this shape are decoded by their own forward; None: by the fast decoder. Said once in the log."""
    with one_thread():
        reason = why_not(config, partial(decoded, is_compiled=False))
    if reason is not None:
        log.warning("the fast decoder is not used, answers come from the model's own forward, slowly: %s", reason)
    return reason


@lru_cache(maxsize=16)
def is_compiled(config: GPTConfig) -> bool:
    """Whether the fast decoder may take compiled steps for models of this shape. A refusal is said once in the log."""
    if library() is None:
        return False
    with one_thread():
        reason = why_not(config, partial(decoded, is_compiled=True))
    if reason is not None:
        log.warning("compiled decoding steps are not used: %s", reason)
    return reason is None


def decoder_for(model: GPT, *, num_rows: int, max_len: int, weights: str) -> AnyDecoder:
    """A decoder that computes what `model` computes; the plain one takes no notice of `weights`."""
    if why_plain(model.config) is None:
        may_compile = model.device.type == "cpu" and is_compiled(model.config)
        return Decoder(model, num_rows=num_rows, max_len=max_len, weights=weights, is_compiled=may_compile)
    return PlainDecoder(model, num_rows=num_rows, max_len=max_len)


def decoded(model: GPT, ids: Tensor, *, is_compiled: bool) -> Tensor:
    """Logits (n, V) after the last tokens of ids (T,) in the decoder's ways: chunks, a copied row, steps."""
    decoder = Decoder(model, num_rows=2, max_len=len(ids), weights="plain", is_compiled=is_compiled)
    prompt, steps = ids[:-NUM_STEPS].tolist(), ids[-NUM_STEPS:].tolist()
    half = len(prompt) // 2
    decoder.prefill(1, prompt[:half])
    parts = [decoder.prefill(1, prompt[half:])]
    decoder.copy_row(1, 0)
    parts += [decoder.step([token, token])[0] for token in steps]
    return torch.stack(parts)
