"""What a person may choose when starting a run from the UI: the fields, bounds and texts of its form.

Prefect builds the form from a flow's signature. Descriptions of the flow's own parameters come from its docstring;
inside a model each field keeps its own, so the settings people change most are a model. Everything else is still
reachable through `overrides`. Choices are given as JSON schema only: the API refuses anything else, while a call from
Python may name a preset by its path.
"""

import json
from typing import Annotated, Any, Literal

from prefect import runtime
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from nanochat_core.base.errors import NanochatError
from nanochat_core.base.units import dollars
from nanochat_core.config import RunConfig
from nanochat_core.pipeline.steps import STEPS
from nanochat_core.plan import RunPlan, estimate
from nanochat_core.presets import load_config, preset_names

Placement = Literal["inline", "pool"]
PresetName = Annotated[str, WithJsonSchema({"type": "string", "enum": preset_names()})]
StepName = Annotated[str, WithJsonSchema({"type": "string", "enum": list(STEPS)})]
# form field -> setting; the fields below have the setting's own bounds
SETTINGS = {
    "depth": "pretrain.depth",
    "seed": "seed",
    "corpus_source": "corpus.source",
    "corpus_path": "corpus.path",
    "corpus_dataset": "corpus.dataset",
    "corpus_max_shards": "corpus.max_shards",
    "tokens_per_param": "pretrain.tokens_per_param",
    "max_tokens": "pretrain.max_tokens",
    "sft_epochs": "sft.epochs",
    "num_processes": "runtime.num_processes",
    "device_batch_rows": "runtime.device_batch_rows",
    "checkpoint_every_s": "runtime.checkpoint_every_s",
}


class Settings(BaseModel):
    """The handful of settings that people change; empty: as the preset has it."""

    model_config = ConfigDict(extra="forbid", title="Settings")

    depth: int | None = Field(None, ge=1, le=128, description="The one dial: layers; everything else follows from it.")
    seed: int | None = Field(None, ge=0, description="Same seed, same model.")
    corpus_source: Literal["embedded", "path", "hub"] | None = Field(
        None, description="Where the text comes from: this environment's documentation, files, or Hugging Face."
    )
    corpus_path: str | None = Field(None, description="source = path: a folder or glob of .parquet, .jsonl or .txt.")
    corpus_dataset: str | None = Field(None, description="source = hub: a dataset as owner/name, or a URL of shards.")
    corpus_max_shards: int | None = Field(None, ge=2, description="Only the first shards, and the last to validate.")
    tokens_per_param: float | None = Field(
        None, gt=0, le=1000, description="Training tokens per parameter; 12 is compute-optimal, more is overtrained."
    )
    max_tokens: int | None = Field(None, ge=1, description="Ceiling on training tokens, whatever the depth says.")
    sft_epochs: int | None = Field(None, ge=1, le=10_000, description="Passes over the conversations.")
    num_processes: int | None = Field(None, ge=1, le=100_000, description="Ranks per node: one per GPU.")
    device_batch_rows: int | None = Field(
        None, ge=1, description="Rows per GPU and pass: lower needs less memory and gives the same model."
    )
    checkpoint_every_s: float | None = Field(None, ge=0, description="At most so much training is lost to a kill.")
    max_cost_usd: float | None = Field(None, ge=0, description="Refuse to start when the plan costs more than this.")

    def overrides(self) -> list[str]:
        """The chosen values as section.field=value, as `--set` takes them."""
        chosen = {name: getattr(self, name) for name in SETTINGS}
        return [f"{SETTINGS[name]}={json.dumps(value)}" for name, value in chosen.items() if value is not None]


def check_cost(plan: RunPlan, max_cost_usd: float | None) -> None:
    """Refuse a plan that costs more than the person said."""
    cost = estimate(plan).usd
    if max_cost_usd is not None and cost > max_cost_usd:
        raise NanochatError(
            f"the plan costs about {dollars(cost)}, and the limit is {dollars(max_cost_usd)}",
            hint="a lower depth, or a higher max_cost_usd",
        )


def speedrun_name() -> str:
    """speedrun-d24-2026-11-22-a1b2: depth, day, and the run's own first four digits, so that a retry keeps it."""
    return run_name("speedrun", depth_of(runtime.flow_run.parameters))


def run_name(flow: str, *parts: str) -> str:
    """A name that says what ran and when, for the current flow run."""
    run_id, scheduled = str(runtime.flow_run.id or "0000"), runtime.flow_run.scheduled_start_time
    return "-".join([flow, *filter(None, parts), f"{scheduled:%Y-%m-%d}", run_id.replace("-", "")[-4:]])


def depth_of(parameters: dict[str, Any]) -> str:
    """d24, from a run's parameters; the preset's name where they make no plan (the run itself will say why)."""
    preset, settings = parameters.get("preset", "tiny"), parameters.get("settings") or Settings()
    try:
        config: RunConfig = load_config(preset, [*settings.overrides(), *(parameters.get("overrides") or [])])
    except (NanochatError, AttributeError):
        return str(preset)[:20]
    return f"d{config.pretrain.depth}"
