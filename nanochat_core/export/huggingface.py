"""The small files of a folder that transformers loads: the shape, the tokenizer's settings, how to generate.

Their keys keep to what transformers 4.5x and 5.x both read. `model_type` is none of the library's own, so that no class
of a similar name is taken for ours; `auto_map` names the classes of the modelling file beside it.
"""

from pathlib import Path
from typing import Any

from nanochat_core.base.neutral import identity
from nanochat_core.config import GPTConfig
from nanochat_core.model import shape
from nanochat_core.model.import_checkpoint import HUGGINGFACE_MODEL_TYPE, HUGGINGFACE_NAMES
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.conversation import PART_TOKENS
from nanochat_core.tokenizer.tokenizer import Tokenizer

MODELING = "modeling_nanochat.py"
MAX_NEW_TOKENS = 256  # else generate() stops at 20 tokens


def model_config(config: GPTConfig, tokenizer: Tokenizer, *, dtype: str) -> dict[str, Any]:
    """config.json: the shape, and every constant that the modelling file needs."""
    return {
        "model_type": HUGGINGFACE_MODEL_TYPE,
        "architectures": ["NanochatForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_nanochat.NanochatConfig",
            "AutoModelForCausalLM": "modeling_nanochat.NanochatForCausalLM",
        },
        **{theirs: getattr(config, ours) for theirs, ours in HUGGINGFACE_NAMES.items()},
        **{name: value for name, value in identity(config).items() if name not in HUGGINGFACE_NAMES.values()},
        "padded_vocab_size": shape.padded_vocab_size(config),
        "intermediate_size": shape.MLP_RATIO * config.n_embd,
        "windows": shape.window_sizes(config),
        "value_embed_layers": [layer for layer in range(config.n_layer) if shape.has_value_embed(config, layer)],
        "smear_channels": shape.SMEAR_CHANNELS,
        "tie_word_embeddings": False,
        "torch_dtype": dtype,
        **_token_ids(tokenizer),
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """generation_config.json: greedy, ending where our own engine ends an answer."""
    return {"do_sample": False, "max_new_tokens": MAX_NEW_TOKENS, **_token_ids(tokenizer)}


def _token_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    end, bos = tokenizer.special(tk.ASSISTANT_END), tokenizer.bos
    # padding by an end token, as GPT-2 does: whatever stands there is masked
    return {"bos_token_id": bos, "eos_token_id": [end, bos], "pad_token_id": end}


def tokenizer_config(config: GPTConfig) -> dict[str, Any]:
    """tokenizer_config.json. Generation continues on the right, so padding is on the left."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tk.BOS,
        "eos_token": tk.ASSISTANT_END,
        "pad_token": tk.ASSISTANT_END,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": config.sequence_len,
        "padding_side": "left",
        "chat_template": chat_template(),
    }


def chat_template() -> str:
    """The conversation's rendering for transformers, with the special tokens written in.

    It writes what tokenizer/conversation.py renders: a system message in front of the first user message, tool calls
    and their results between their markers. A template yields text that is tokenized afterwards, so text which spells a
    special token would become one; ours encodes such text as plain text. A template cannot, so it refuses it.
    """
    text = Path(__file__).with_name("chat_template.jinja").read_text(encoding="utf-8").strip()
    markers = ", ".join(f"{kind!r}: {list(pair)!r}" for kind, pair in {"text": ("", ""), **PART_TOKENS}.items())
    tokens = {
        name: repr(getattr(tk, name)) for name in ("USER_START", "USER_END", "ASSISTANT_START", "ASSISTANT_END", "BOS")
    }
    for name, value in {"SPECIALS": repr(list(tk.SPECIAL_TOKENS)), "MARKERS": f"{{{markers}}}", **tokens}.items():
        text = text.replace(name, value)
    return text
