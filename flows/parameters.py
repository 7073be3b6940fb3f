"""What a person may choose when starting a run from the UI: the fields, bounds and texts of its form.

Prefect builds the form from a flow's signature. Descriptions of the flow's own parameters come from its docstring;
inside a model each field keeps its own, so the settings people change most are a model. Everything else is still
reachable through `overrides`. Choices are given as JSON schema only: the API refuses anything else, while a call from
Python may name a preset by its path.
"""

import json
import math
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, WithJsonSchema, model_serializer

from nanochat_core.base.errors import ConfigError, NanochatError
from nanochat_core.base.redaction import redact
from nanochat_core.base.secret_shapes import FORM_PATTERN
from nanochat_core.base.units import exact_dollars
from nanochat_core.config import RunConfig
from nanochat_core.named_tables import TABLES
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, estimate
from nanochat_core.presets import load_config, preset_names
from nanochat_core.settings import BOUNDS

Placement = Literal["auto", "inline", "pool"]
PresetName = Annotated[str, WithJsonSchema({"type": "string", "enum": preset_names()})]
StepName = Annotated[str, WithJsonSchema({"type": "string", "enum": list(STEPS)})]
DriftName = Annotated[str, WithJsonSchema({"type": "string", "enum": ["all", *STEPS]})]
# form field -> setting
SETTINGS = {
    "start_from": "base.model",
    "depth": "pretrain.depth",
    "seed": "seed",
    "corpus_source": "corpus.source",
    "corpus_path": "corpus.path",
    "corpus_dataset": "corpus.dataset",
    "corpus_max_shards": "corpus.max_shards",
    "clean_languages": "clean.languages",
    "clean_quality": "clean.quality",
    "clean_duplicates": "clean.duplicates",
    "clean_benchmarks": "clean.benchmarks",
    "tokens_per_param": "pretrain.tokens_per_param",
    "max_tokens": "pretrain.max_tokens",
    "sft_epochs": "sft.epochs",
    "num_processes": "runtime.num_processes",
    "device_batch_rows": "runtime.device_batch_rows",
    "checkpoint_every_s": "runtime.checkpoint_every_s",
    "max_cost_usd": "runtime.max_cost_usd",
}


def as_form(schema: dict[str, Any]) -> None:
    """Make a model's schema one that Prefect's page shows as people expect.

    An optional value is one input that may stay empty, not a choice between a value and None: the server takes null for
    whatever is not required and has no default (a choice of texts excepted). `position`: PostgreSQL would order the
    fields by the length of their names.
    """
    for position, field in enumerate(schema["properties"].values()):
        kinds = [kind for kind in field.pop("anyOf", []) if kind.get("type") != "null"]
        field.pop("default", None)
        field |= {**(kinds[0] if kinds else {}), "position": position}
        _refuse_secrets(field)


def form_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A flow's parameters as the form shows them best: what may be left out is an empty field or list, choices are
    selects, and an override is refused where no setting has its name."""
    for field in schema["properties"].values():
        if field.get("default", "") is None:
            [kind] = [kind for kind in field.pop("anyOf") if kind.get("type") != "null"]
            field |= kind
            del field["default"]
        _refuse_secrets(field)
    if overrides := schema["properties"].get("overrides"):
        overrides["items"] = {"type": "string", "pattern": OVERRIDE, **NO_SECRET}
    return schema


NO_SECRET = {
    "not": {
        "description": "a password, a token or a signed address: parameters are kept and shown; "
        "tokens and keys come from the worker's environment",
        "pattern": FORM_PATTERN,
    }
}


def _refuse_secrets(field: dict[str, Any]) -> None:
    """The server keeps what is typed into a form before any code of ours sees it, so it must refuse by itself."""
    if field.get("type") == "string" and "enum" not in field:
        field |= NO_SECRET


def _override_pattern() -> str:
    """What an override begins with: the name of a setting. The server shows it to whoever misspelt one."""
    sections = asdict(RunConfig(preset=""))
    names = [
        name if not isinstance(value, dict) else rf"{name}\.({'|'.join([*value, *ALIASES.get(name, ())])})"
        for name, value in sections.items()
    ]
    names += [rf"{tables}\.[A-Za-z0-9_-]+\.{_fields(kind)}".replace(".", r"\.", 1) for tables, kind in TABLES.items()]
    return f"^({'|'.join(names)})="


def _fields(kind: type) -> str:
    """Those of a table that is one of a list; of a field that has names itself any name."""
    told = [each.name + (r"\.[A-Za-z0-9_-]+" if each.name == "weights" else "") for each in fields(kind)]
    return f"({'|'.join(name for name in told if name != 'name')})"


ALIASES = {"base": ("from",)}
OVERRIDE = _override_pattern()


def _bounds(setting: str) -> dict[str, Any]:
    """A setting's own, as a field has them."""
    least, most = BOUNDS[setting]
    return {"ge": least} if most == math.inf else {"ge": least, "le": most}


class Settings(BaseModel):
    """What people change most. Leave a field empty to keep what the preset says."""

    model_config = ConfigDict(extra="forbid", title="Settings", json_schema_extra=as_form)

    start_from: str | None = Field(
        None,
        title="Start from a model",
        description="A name, run or fingerprint of the store, a folder of the worker or hf:OWNER/NAME; its shape wins.",
    )
    depth: int | None = Field(
        None,
        **_bounds("pretrain.depth"),
        title="Depth",
        description="The one dial: layers of the model; everything else follows.",
    )
    max_cost_usd: float | None = Field(
        None,
        **_bounds("runtime.max_cost_usd"),
        title="Limit in US dollars",
        description="Refuse a plan that costs more than this; stop with a checkpoint once it is spent.",
    )
    tokens_per_param: float | None = Field(
        None,
        **_bounds("pretrain.tokens_per_param"),
        title="Tokens per parameter",
        description="How long to train: 12 is compute-optimal, more is overtrained.",
    )
    max_tokens: int | None = Field(
        None,
        **_bounds("pretrain.max_tokens"),
        title="Tokens at most",
        description="Ceiling on training tokens, whatever the depth says.",
    )
    sft_epochs: int | None = Field(
        None, **_bounds("sft.epochs"), title="Fine-tuning epochs", description="Passes over the conversations."
    )
    seed: int | None = Field(None, **_bounds("seed"), title="Seed", description="Same seed, same model.")
    corpus_source: Literal["embedded", "path", "hub"] | None = Field(
        None,
        title="Text: from where",
        description="embedded: documentation of this installation. path: files. hub: a dataset of Hugging Face.",
    )
    corpus_path: str | None = Field(
        None, title="Text: path", description="For path: a folder or glob of .parquet, .jsonl or .txt."
    )
    corpus_dataset: str | None = Field(
        None, title="Text: dataset", description="For hub: a dataset as owner/name, or a URL of shards."
    )
    corpus_max_shards: int | None = Field(
        None,
        **_bounds("corpus.max_shards"),
        title="Text: shards at most",
        description="Only the first ones, and the last to validate.",
    )
    clean_languages: str | None = Field(
        None, title="Cleaning: languages", description="Keep text in these alone, as en,de; empty: all."
    )
    clean_quality: Literal["off", "gopher", "c4", "gopher+c4"] | None = Field(
        None, title="Cleaning: quality", description="Leave out what breaks published rules of English prose."
    )
    clean_duplicates: Literal["off", "exact", "near"] | None = Field(
        None, title="Cleaning: duplicates", description="Leave out text that is there already, or nearly (MinHash)."
    )
    clean_benchmarks: bool | None = Field(
        None, title="Cleaning: benchmarks", description="Leave out text that holds items of this run's benchmarks."
    )
    num_processes: int | None = Field(
        None,
        **_bounds("runtime.num_processes"),
        title="GPUs per machine",
        description="Training processes (ranks): one per GPU.",
    )
    device_batch_rows: int | None = Field(
        None,
        **_bounds("runtime.device_batch_rows"),
        title="Rows per GPU",
        description="In one pass: fewer need less memory and give the same model.",
    )
    checkpoint_every_s: float | None = Field(
        None,
        **_bounds("runtime.checkpoint_every_s"),
        title="Seconds between checkpoints",
        description="At most so much training is lost to a kill.",
    )

    @model_serializer(mode="wrap")
    def _chosen_only(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run's page then lists what somebody chose, not a dozen times null."""
        return {name: value for name, value in write(self).items() if value is not None}

    def overrides(self) -> list[str]:
        """The chosen values as section.field=value, as `--set` takes them."""
        chosen = {name: getattr(self, name) for name in SETTINGS}
        return [f"{SETTINGS[name]}={json.dumps(value)}" for name, value in chosen.items() if value is not None]


def check_cost(plan: RunPlan, max_cost_usd: float | None) -> None:
    """Refuse a plan that costs more than the person said."""
    cost = estimate(plan).usd
    if max_cost_usd is not None and cost > max_cost_usd:
        raise ConfigError(
            f"the plan costs about {exact_dollars(cost)}, and the limit is {exact_dollars(max_cost_usd)}",
            hint="a lower depth, or a higher max_cost_usd",
        )


def speedrun_name() -> str:
    """speedrun-d24-2026-11-22-a1b2: depth, day, and the run's own first four digits, so that a retry keeps it."""
    return run_name("speedrun", depth_of(_this_run().parameters))


def sweep_name() -> str:
    """miniseries-series-2026-11-22-a1b2: the flow, its preset, the day."""
    preset = redact(Path(str(_this_run().parameters.get("preset", ""))).stem)  # before a cut hides its shape
    return run_name(str(_this_run().flow_name), preset[:20])


def run_name(flow: str, *parts: str) -> str:
    """A name that says what ran and when, for the current flow run; one that a person typed stays."""
    if not is_generated(str(_this_run().name or "")):
        return redact(str(_this_run().name))
    return dated_name(flow, *parts)


def _this_run() -> Any:
    from prefect import runtime  # a form and a plan's price do not wait for it

    return runtime.flow_run


def is_generated(name: str) -> bool:
    """Whether a run's name is one that Prefect makes up: two words of its server's list, or of its form's."""
    import coolname.data

    words = {word for kind in coolname.data.config.values() if isinstance(kind, dict) for word in kind.get("words", ())}
    return not name or {*name.split("-")} <= words or re.fullmatch(r"[A-Z][a-z]+-[^\W\d_]{1,6}", name) is not None


def dated_name(flow: str, *parts: str) -> str:
    """A name from what ran, the day it was to start, and the run's own first four digits."""
    run_id, scheduled = str(_this_run().id or "0000"), _this_run().scheduled_start_time
    return "-".join([flow, *filter(None, parts), f"{scheduled:%Y-%m-%d}", run_id.replace("-", "")[-4:]])


def depth_of(parameters: dict[str, Any]) -> str:
    """d24, from a run's parameters; the preset's name where they make no plan (the run itself will say why)."""
    preset, settings = parameters.get("preset", "tiny"), parameters.get("settings") or Settings()
    try:
        config: RunConfig = load_config(preset, [*settings.overrides(), *(parameters.get("overrides") or [])])
    except (NanochatError, AttributeError):
        return redact(str(preset))[:20]
    return f"d{config.pretrain.depth}"
