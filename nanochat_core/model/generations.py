"""Which network a checkpoint of nanochat's, or of transformers' `nanochat`, was made for.

nanochat's architecture grew, and its files name no version: what a model has is seen by its tensors, and what no tensor
shows (gains, the rotary base, how long a short window is) goes with the tensors that came at the same time. Dates are
of nanochat's commits; each difference is an option of `GPTConfig`, whose defaults are today's network.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from nanochat_core.base.foreign import MAX_MODEL
from nanochat_core.base.neutral import NEUTRAL
from nanochat_core.config import GPTConfig
from nanochat_core.model.shape import MLP_RATIO, short_window

OPTIONS = {item.name: item.metadata[NEUTRAL] for item in fields(GPTConfig) if NEUTRAL in item.metadata}
"""What may differ -> its value in today's network."""
SOFTCAP = 15.0
SOFTCAPS = {32: (SOFTCAP, 20.0)}
"""Channels of the value gate -> caps that a model with such a gate may have had: 20 from 2026-03-02 to 03-09."""
GATE_SCALES = {12: 3.0, 32: 2.0}  # 32 channels from 2026-01-16, 12 since 2026-03-09
OLD_ROTARY_BASE = 10_000.0

TRANSFORMERS_MODEL_TYPE = "nanochat"
TRANSFORMERS_NAMES = {
    "vocab_size": "vocab_size",
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "num_key_value_heads": "n_kv_head",
    "max_position_embeddings": "sequence_len",
}
TRANSFORMERS_ONLY = {"attention_bias": False, "tie_word_embeddings": False, "hidden_act": "relu2"}


def options_of(weights: Iterable[str], gate_channels: int, *, sequence_len: int) -> dict[str, Any]:
    """Options of the network whose tensors have the names `weights` (ours); `gate_channels` 0: no value gate."""
    names = set(weights)
    has_lambdas = bool(names & {"residual_weights", "skip_weights"})
    has_smear = bool(names & {"smear_weight", "smear_gate.weight", "backout_weight"})
    is_march = has_smear or gate_channels == 12
    return {
        "residual_weights": has_lambdas,
        "skip_weights": has_lambdas,
        "smear": has_smear,
        "backout": has_smear,
        "value_gate_channels": gate_channels,
        "value_gate_scale": GATE_SCALES.get(gate_channels, OPTIONS["value_gate_scale"]),
        "qk_gain": OPTIONS["qk_gain"] if has_smear else 1.15 if is_march else 1.0,
        "rotary_base": OPTIONS["rotary_base"] if is_march else OLD_ROTARY_BASE,
        # a half since 2026-01, a third since 2026-03-09, a quarter with the smear
        "short_window_tokens": None if has_smear else short_window(sequence_len, 3) if is_march else sequence_len // 2,
    }


def transformers_options(values: Mapping[str, Any]) -> dict[str, Any]:
    """Shape and options that the config.json of transformers' `nanochat` tells; ValueError: of another network."""
    for name, value in {**TRANSFORMERS_ONLY, "intermediate_size": MLP_RATIO * values["hidden_size"]}.items():
        if values.get(name, value) != value:
            raise ValueError(f"{name} is {values[name]!r}, and {value!r} in every nanochat")
    rope = values.get("rope_parameters") or {"rope_theta": values.get("rope_theta", OLD_ROTARY_BASE)}
    if rope.get("rope_type", "default") != "default" or values.get("rope_scaling"):
        raise ValueError(f"its positions are {rope.get('rope_type')!r}, and plain rotary ones in every nanochat")
    shape = {ours: values.get(theirs) for theirs, ours in TRANSFORMERS_NAMES.items()}
    return {
        **options_of((), 0, sequence_len=values["max_position_embeddings"]),
        **shape,
        "n_kv_head": shape["n_kv_head"] or shape["n_head"],
        "window_pattern": "L",
        "rotary_base": float(rope["rope_theta"]),
        "softcap": float(values["final_logit_softcapping"]),
    }


def problem_of(values: Mapping[str, Any]) -> str | None:
    """Why `values` are the shape of no model; None: a `GPTConfig` may be made of them."""
    for name, most in MAX_MODEL.items():
        if type(values[name]) is not int or not 1 <= values[name] <= most:
            return f"{name} is {values[name]!r:.40}, not a number between 1 and {most:,}"
    pattern = values["window_pattern"]
    if not isinstance(pattern, str) or not pattern or set(pattern) - {"S", "L"}:
        return f"window_pattern is {pattern!r:.40}, not letters S and L"
    if values["n_embd"] % values["n_head"]:
        return f"n_embd {values['n_embd']} does not divide into {values['n_head']} heads"
    wrong = [name for name, neutral in OPTIONS.items() if not _fits(values.get(name, neutral), neutral)]
    return f"{wrong[0]} is {values[wrong[0]]!r:.40}" if wrong else None


def _fits(value: Any, neutral: Any) -> bool:
    if value is None or isinstance(neutral, bool):
        return type(value) is type(neutral)
    is_number = type(value) is int or (isinstance(neutral, float) and type(value) is float)
    return is_number and 0 <= value <= MAX_MODEL["sequence_len"] and (value > 0 or isinstance(neutral, int))
