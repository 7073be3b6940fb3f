"""The model that a run starts from: one of this store, or a folder of anybody's, as an artifact of its own."""

from typing import Any

from nanochat_core.base.units import count
from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.plan import RunPlan


def settings(plan: RunPlan) -> dict[str, Any]:
    """Its content alone: where it lies, and what it is called there, is no part of the key; a commit of the hub is."""
    return {"content": plan.config.base.content, "network": plan.config.base.network}


def body(run: StepRun) -> Metrics:
    from nanochat_core.pipeline.beginning import find, write

    config = run.plan.config.base
    found = find(config)
    found.check(config)
    for note in found.notes:
        run.note(note)
    write(found, run.out)
    return {
        "origin": found.origin,
        "licence": found.licence,
        "notes": found.notes,
        "num_params": run.plan.pretrain.num_params["total"],
        "n_layer": found.shape.n_layer,
        "vocab_size": found.shape.vocab_size,
    }


def title(plan: RunPlan) -> str:
    model = plan.pretrain.model
    shape = f"{model.n_layer} layers, width {model.n_embd}, context {model.sequence_len:,}"
    return f"{shape}, vocabulary {model.vocab_size:,}: the model's own, whatever depth says"


base = Step(
    name="base",
    description="Take the model to start from into the store, with its tokenizer.",
    title=title,
    headline=lambda metrics: (
        f"{count(metrics['num_params'])} parameters from {metrics['origin']}, licence {metrics['licence']}"
    ),
    settings=settings,
    packages=("torch",),
    body=body,
    is_wanted=lambda plan: plan.has_base,
)
