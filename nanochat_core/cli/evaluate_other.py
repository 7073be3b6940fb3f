"""`nanochat eval hf:...`: CORE of somebody else's model, through the optional extra `transformers`.

Such a model has a tokenizer of its own and is no artifact of the store, so nothing is cached: the answers are written
into a folder, and the score is printed as ours is. That is how GPT-2's own CORE is measured again.
"""

import tempfile
from pathlib import Path
from typing import Any

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError
from nanochat_core.cli.display import display
from nanochat_core.plan import RunPlan

PREFIX = "hf:"
STEP = "evaluate_core"


def is_other(ref: str) -> bool:
    """Whether a model's name means one of the Hugging Face hub or a folder in `transformers`' layout."""
    return ref.startswith(PREFIX)


def measure_other(ref: str, plan: RunPlan) -> dict[str, Any]:
    """CORE of the model as the headline numbers of `evaluate_core`, with the folder that holds every answer."""
    from nanochat_core.evals.core.bundle_source import bundle_of_config
    from nanochat_core.evals.core.huggingface import measure_huggingface
    from nanochat_core.evals.core.results import headline, write_results

    if not plan.has_core or plan.has_benchmarks:
        raise ConfigError(f"{ref} can be measured on CORE only", hint="--benchmarks core")
    name, config = ref.removeprefix(PREFIX), plan.config
    limit = config.core.max_per_benchmark
    folder = name.strip("/").replace("/", "--") + (f"-limit-{limit}" if limit else "")
    out = workspace.current().home / "evals" / folder
    with tempfile.TemporaryDirectory() as scratch, display({STEP: f"CORE of {name}"}) as watching:
        watching.step_started(STEP, f"CORE of {name}")
        measured = measure_huggingface(
            name,
            bundle_of_config(config.core, out.parent / "bundle"),
            Path(scratch),
            max_per_benchmark=config.core.max_per_benchmark,
            progress=lambda done, total, text: watching.step_progress(STEP, done, total, text),
            device=config.runtime.device,
            dtype=config.pretrain.dtype,
            batch_tokens=config.runtime.eval_batch_tokens,
        )
    write_results(out, measured.summary, measured.outcomes)
    return {**headline(measured.summary), "folder": str(out)}
