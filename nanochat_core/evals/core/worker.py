"""CORE of one model in a process of its own: `python -m nanochat_core.evals.core.worker plan.json`, or under torchrun.

The plan names "model", "prompts" (a folder of write_prompts), "out", "work", "device", "num_threads", "dtype" and
"batch_tokens". Writes core.json and outcomes.jsonl into "out"; the result is their headline numbers.
"""

from pathlib import Path
from typing import Any

import torch

from nanochat_core.base.errors import ConfigError, HardwareError
from nanochat_core.base.hardware import pick_dtype
from nanochat_core.evals.core.measure import measure
from nanochat_core.evals.core.plain_scoring import scorer_for, why_plain
from nanochat_core.evals.core.prompts import Prompts
from nanochat_core.evals.core.results import headline, write_results
from nanochat_core.evals.process import Rank, run_ranks
from nanochat_core.model.host_memory import keep_freed_memory
from nanochat_core.model.probe import own_forward
from nanochat_core.model.weights import load_model


def evaluate(plan: dict[str, Any], rank: Rank) -> dict[str, Any]:
    """Measure the model of `plan`; every rank takes its share of the items, the first one writes."""
    keep_freed_memory()
    prompts = Prompts(Path(plan["prompts"]))
    model = load_model(Path(plan["model"])).to(rank.device)
    model.compute_dtype = pick_dtype(plan["dtype"], rank.device)
    if prompts.vocab_size != model.config.vocab_size:
        raise ConfigError(
            f"prompts of a vocabulary of {prompts.vocab_size} for a model with {model.config.vocab_size}",
            hint="write the prompts with the tokenizer that the model was trained with",
        )
    scorer = scorer_for(model, batch_tokens=plan["batch_tokens"])
    try:
        measured = measure(scorer, prompts, rank.progress, world=rank.world)
    except torch.OutOfMemoryError as error:
        raise HardwareError(
            f"the GPU's memory is too small for batches of {plan['batch_tokens']} tokens: {error}",
            hint="a lower runtime.eval_batch_tokens changes no result",
        ) from error
    if rank.world.is_main:
        write_results(Path(plan["out"]), measured.summary, measured.outcomes)
    return headline(measured.summary) | own_forward(why_plain(model.config))


if __name__ == "__main__":
    run_ranks(evaluate)
