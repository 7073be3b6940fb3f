"""What a configuration may be, checked before anything runs: what fails only after an hour of training costs it."""

import dataclasses
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.redaction import refuse
from nanochat_core.config import RunConfig
from nanochat_core.data.files import matches
from nanochat_core.mixing import check_mix
from nanochat_core.named_tables import OF_ONE_TEXT, TABLES, in_table
from nanochat_core.settings import BOUNDS, described

BENCHMARKS = ("arc_easy", "arc_challenge", "mmlu", "gsm8k", "humaneval", "spelling_bee")  # evals/benchmarks has them
BENCHMARK_DATA = ("mmlu_repeats", "gsm8k_repeats", "num_letter_counts", "num_spellings")


def check_sources(config: RunConfig) -> None:
    """Raise ConfigError for data that a step after the training would not find: by then the training is paid for."""
    check_mix(config)
    unknown = [name for name in config.benchmarks.names.split(",") if name.strip() not in BENCHMARKS]
    if unknown:
        raise ConfigError(f"there is no benchmark {unknown[0].strip()!r}", hint=f"there are {', '.join(BENCHMARKS)}")
    if config.clean.benchmarks and config.core.source == config.benchmarks.source == "none":
        raise ConfigError(
            "clean.benchmarks leaves out items of benchmarks, and this run has none",
            hint="set core.source or benchmarks.source",
        )
    if config.clean.languages is not None:
        from nanochat_core.data.languages import wanted_languages  # its model takes half a second to load

        wanted_languages(config.clean.languages)
    if config.sft.columns:
        from nanochat_core.data.asked import asked  # what reads tables takes a while to import

        asked(config.sft.form, config.sft.columns)
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
        for told, value in _values_of(name, values).items():
            if value is not None and not least <= value <= most:
                raise ConfigError(f"{told} = {value} is out of range", hint=f"it must be {described(told)}")
    vocab_size, least = config.tokenizer.vocab_size, BOUNDS["tokenizer.vocab_size"][0]
    if config.tokenizer.pattern == "bytes" and vocab_size != least:
        raise ConfigError(
            f"tokenizer.pattern = bytes has {least} tokens, and tokenizer.vocab_size is {vocab_size:,}",
            hint=f"--set tokenizer.vocab_size={least}",
        )


def _values_of(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """A setting's value by its full name, or those of the tables that have it: of a source also what a corpus has."""
    found: dict[str, Any] = {}
    general = in_table(name)
    section, _, field = name.rpartition(".")
    if general is None:
        found[name] = values[section][field] if section else values[field]
    for tables in TABLES:
        where, _, names = tables.partition(".")
        is_shared = tables == "corpus.sources" and section == "corpus" and field in OF_ONE_TEXT
        if is_shared or (general is not None and general.tables == tables):
            for table in values[where][names]:
                of_table = table[field]
                inner = of_table if isinstance(of_table, dict) else {"": of_table}
                told = f"{tables}.{table['name']}.{field}"
                found |= {f"{told}.{key}" if key else told: each for key, each in inner.items()}
    return found
