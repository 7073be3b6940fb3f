"""What each number of a configuration may be: one table, checked before anything runs.

A value that fails only after an hour of training costs that hour.
"""

import dataclasses
import math
from pathlib import Path

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.redaction import refuse
from nanochat_core.config import RunConfig
from nanochat_core.data.files import matches

INF = math.inf
# setting -> (least, most); None as a value means "off" or "derived" and is always allowed where the type allows it
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "corpus.validation_docs": (1, INF),
    "corpus.max_shards": (2, INF),
    "corpus.max_bytes": (1, INF),
    "tokenizer.max_train_bytes": (1, INF),
    "tokenizer.max_doc_bytes": (1, INF),
    "pretrain.max_tokens": (1, INF),
    "pretrain.embedding_lr": (0, 100),
    "pretrain.value_embedding_lr": (0, 100),
    "pretrain.unembedding_lr": (0, 100),
    "pretrain.matrix_lr": (0, 100),
    "pretrain.scalar_lr": (0, 100),
    "pretrain.weight_decay": (0, 1000),
    "pretrain.max_weight_decay": (0, 1000),
    "pretrain.warmup_steps": (0, INF),
    "pretrain.warmdown_frac": (0, 1),
    "pretrain.final_lr_frac": (0, 1),
    "pretrain.momentum_warmup_steps": (0, INF),
    "pretrain.validate_every_steps": (1, INF),
    "pretrain.validation_tokens": (1, INF),
    "sft.epochs": (1, 10_000),
    "sft.num_smoltalk": (1, INF),
    "sft.mmlu_repeats": (0, 1000),
    "sft.gsm8k_repeats": (0, 1000),
    "sft.num_letter_counts": (0, INF),
    "sft.num_spellings": (0, INF),
    "sft.num_documentation": (0, INF),
    "sft.num_arithmetic": (0, 900_000),
    "sft.num_spelling": (0, INF),
    "sft.num_identity": (0, INF),
    "sft.sequence_len_tokens": (16, INF),
    "sft.total_batch_tokens": (1, INF),
    "sft.lr_frac": (0, 100),
    "sft.warmdown_frac": (0, 1),
    "sft.final_lr_frac": (0, 1),
    "sft.validate_every_steps": (1, INF),
    "rl.num_steps": (1, INF),
    "rl.num_questions": (1, 1_000_000),
    "rl.questions_per_step": (1, INF),
    "rl.samples_per_question": (2, INF),
    "rl.temperature": (0.01, 10),
    "rl.top_k": (1, INF),
    "rl.max_answer_tokens": (1, INF),
    "rl.lr_frac": (0, 100),
    "rl.validate_every_steps": (1, INF),
    "rl.held_out_questions": (1, 10_000),
    "rl.held_out_samples": (1, 1000),
    "evaluate.bpb_tokens": (1, INF),
    "evaluate.num_questions": (0, 100_000),
    "evaluate.sample_tokens": (1, INF),
    "core.max_per_benchmark": (1, INF),
    "benchmarks.max_per_benchmark": (1, INF),
    "benchmarks.num_samples": (1, 1000),
    "benchmarks.temperature": (0, 10),
    "benchmarks.max_answer_tokens": (1, INF),
    "runtime.eval_batch_tokens": (1, INF),
    "runtime.num_processes": (1, 100_000),
    "runtime.num_nodes": (1, 100_000),
    "runtime.device_batch_rows": (1, INF),
    "runtime.num_workers": (1, 4096),
    "runtime.num_threads": (1, 4096),
    "runtime.num_downloads": (1, 256),
    "runtime.checkpoint_every_s": (0, INF),
    "runtime.checkpoint_every_steps": (1, INF),
    "runtime.hang_after_s": (1, INF),
    "runtime.max_cost_usd": (0, INF),
    "runtime.log_every_steps": (1, INF),
    "runtime.keep_runs": (0, INF),
    "runtime.keep_days": (0, 36_500),
    "runtime.num_gpus": (1, 1_000_000),
    "runtime.usd_per_gpu_hour": (0, INF),
}


BENCHMARKS = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee")  # evals/benchmarks has them
BENCHMARK_DATA = ("mmlu_repeats", "gsm8k_repeats", "num_letter_counts", "num_spellings")


def check_sources(config: RunConfig) -> None:
    """Raise ConfigError for data that a step after the training would not find: by then the training is paid for."""
    unknown = [name for name in config.benchmarks.names.split(",") if name.strip() not in BENCHMARKS]
    if unknown:
        raise ConfigError(f"there is no benchmark {unknown[0].strip()!r}", hint=f"there are {', '.join(BENCHMARKS)}")
    for section in ("core", "benchmarks", "sft"):
        chosen = getattr(config, section)
        if chosen.source == "path" and chosen.path is None:
            raise ConfigError(f"{section}.source = path without {section}.path", hint=f"--set {section}.path=FOLDER")
        if chosen.source != "path":
            continue
        if section == "sft":
            matches(chosen.path, setting="sft.path")
        elif not Path(chosen.path).expanduser().exists():
            raise MissingError(f"{section}.path = {chosen.path} is not there", hint=f"--set {section}.path=FOLDER")
    if config.rl.enabled and config.rl.source == "gsm8k" and config.benchmarks.source == "none":
        raise ConfigError(
            "rl.source = gsm8k needs the data of a benchmark, and benchmarks.source is none",
            hint="set benchmarks.source to hub or path, or rl.source to arithmetic",
        )
    if config.rl.enabled and config.rl.source == "arithmetic" and not (config.rl.num_steps or config.rl.num_questions):
        raise ConfigError("rl.source = arithmetic has no end", hint="set rl.num_steps or rl.num_questions")
    wanted = [name for name in BENCHMARK_DATA if getattr(config.sft, name)]
    if config.sft.source == "builtin" and wanted:
        raise ConfigError(
            f"sft.{wanted[0]} adds nothing to the built-in conversations", hint="set sft.source to path or mix"
        )
    if config.benchmarks.source == "none" and any(getattr(config.sft, name) for name in BENCHMARK_DATA[:2]):
        raise ConfigError(
            f"sft.{wanted[0]} needs the data of a benchmark, and benchmarks.source is none",
            hint="set benchmarks.source to hub, or to path and benchmarks.path to a folder",
        )


ELSEWHERE = (
    "tokens and keys come from the environment (HF_TOKEN, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY); what has a "
    "password or a signature in its address is fetched first, and set by its path"
)


def check_no_secrets(config: RunConfig) -> None:
    """Raise ConfigError where a setting holds a secret: all of them are recorded, sent to Prefect and published."""
    refuse(dataclasses.asdict(config), "", hint=ELSEWHERE)


def check_bounds(config: RunConfig) -> None:
    """Raise ConfigError for the first number outside of its bounds; NaN is outside of all."""
    values = dataclasses.asdict(config)
    for name, (least, most) in BOUNDS.items():
        section, _, field = name.rpartition(".")
        value = values[section][field] if section else values[field]
        if value is not None and not least <= value <= most:
            limit = f"at least {least:g}" if most == INF else f"between {least:g} and {most:g}"
            raise ConfigError(f"{name} = {value} is out of range", hint=f"it must be {limit}")
