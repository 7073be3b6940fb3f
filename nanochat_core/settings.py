"""Every setting by its full name: its type, its bounds, and what it means.

A meaning is written once, below its field in config.py. Errors, Prefect's form and docs/settings.md show it from there.
"""

import ast
import dataclasses
import difflib
import functools
import inspect
import json
import math
import textwrap
import types
import typing
from itertools import pairwise
from typing import Any, Literal

from nanochat_core import named_tables
from nanochat_core.config import RunConfig
from nanochat_core.named_tables import TABLES, general

INF = math.inf
# setting -> (least, most); None as a value means "off" or "derived" and is always allowed where the type allows it
BOUNDS: dict[str, tuple[float, float]] = {
    "seed": (0, 2**63 - 1),
    "base.softcap": (1, 1000),
    "corpus.validation_docs": (1, INF),
    "corpus.max_shards": (2, INF),
    "corpus.max_bytes": (1, INF),
    "corpus.sources.NAME.weight": (0, 1_000_000),
    "corpus.sources.NAME.repeats": (0.001, 1_000_000),
    "corpus.sources.NAME.max_tokens": (1, INF),
    "clean.min_language_score": (0, 1),
    "clean.min_words": (0, INF),
    "clean.max_words": (1, INF),
    "clean.min_mean_word_chars": (0, INF),
    "clean.max_mean_word_chars": (0, INF),
    "clean.max_symbols_per_word": (0, INF),
    "clean.max_bullet_lines_frac": (0, 1),
    "clean.max_ellipsis_lines_frac": (0, 1),
    "clean.min_letter_words_frac": (0, 1),
    "clean.min_stop_words": (0, 8),
    "clean.max_repeated_lines_frac": (0, 1),
    "clean.max_repeated_line_chars_frac": (0, 1),
    "clean.max_top_2gram_frac": (0, 1),
    "clean.max_top_3gram_frac": (0, 1),
    "clean.max_top_4gram_frac": (0, 1),
    "clean.max_repeated_5gram_frac": (0, 1),
    "clean.min_sentences": (0, INF),
    "clean.min_sentence_lines_frac": (0, 1),
    "clean.duplicate_jaccard": (0.2, 1),
    "clean.duplicate_ngram_words": (1, 100),
    "clean.minhash_permutations": (16, 1024),
    "tokenizer.vocab_size": (265, 400_000),
    "tokenizer.max_train_bytes": (1, INF),
    "tokenizer.max_doc_bytes": (1, INF),
    "pretrain.depth": (1, 128),
    "pretrain.n_embd": (24, INF),  # what the smear gate reads
    "pretrain.head_dim": (2, INF),
    "pretrain.n_kv_head": (1, INF),
    "pretrain.sequence_len_tokens": (32, INF),
    "pretrain.tokens_per_param": (1e-6, 1e9),
    "pretrain.max_tokens": (1, INF),
    "pretrain.total_batch_tokens": (1, INF),
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
    "pretrain.phases.NAME.share": (0.0001, 1),
    "pretrain.phases.NAME.weights": (0, 1_000_000),
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


def setting_names(kind: type = RunConfig, where: str = "") -> list[str]:
    """Every setting by its full name."""
    names: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        whole = f"{where}{name}"
        names += setting_names(hint, f"{name}.") if dataclasses.is_dataclass(hint) else [whole]  # type: ignore[arg-type]
        names += named_tables.table_settings(whole) if whole in TABLES else []
    return names


def options_of(name: str) -> tuple[Any, ...]:
    """The types that a setting's value may have; none for a setting that does not exist."""
    if named_tables.in_table(name):
        return options(named_tables.hint_of(name))
    hint: Any = RunConfig
    for part in name.split("."):
        hint = typing.get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) else None
    return options(hint)


def options(hint: Any) -> tuple[Any, ...]:
    """The types of a hint, its choices among them."""
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


@functools.cache
def meanings() -> dict[str, str]:
    """What each setting means, by its name."""
    sections = {name: hint for name, hint in typing.get_type_hints(RunConfig).items() if dataclasses.is_dataclass(hint)}
    found = _below_fields(RunConfig)
    for section, kind in sections.items():
        found |= {f"{section}.{name}": text for name, text in _below_fields(kind).items()}
    for tables, kind in TABLES.items():
        found |= {f"{tables}.{named_tables.ANY}.{name}": text for name, text in _below_fields(kind).items()}
    return found


def _below_fields(kind: Any) -> dict[str, str]:
    """The line of documentation below each field, of its own or inherited: Python keeps it in the source only."""
    [made] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(made, ast.ClassDef)
    inherited = [_below_fields(above) for above in kind.__bases__ if dataclasses.is_dataclass(above)]
    return {name: text for each in inherited for name, text in each.items()} | {
        field.target.id: " ".join(text.value.value.split())
        for field, text in pairwise(made.body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant) and isinstance(text.value.value, str)
    }


def default_of(name: str) -> str:
    """A setting's default, as it is typed."""
    if found := named_tables.in_table(name):
        fields = {field.name: field for field in dataclasses.fields(TABLES[found.tables])}
        value: Any = fields[found.field].default
        return "" if value is dataclasses.MISSING else "none" if value is None else str(value)
    value = RunConfig(preset="")
    for part in name.split("."):
        value = getattr(value, part)
    if name in TABLES:
        return "none"
    return "none" if value is None else json.dumps(value) if isinstance(value, bool) else str(value)


def described(name: str) -> str:
    """What a setting may be, and what it means, in a line."""
    name = general(name)
    return f"{allowed(name)}: {meanings()[name].rstrip('.')} (docs/settings.md)"


def allowed(name: str) -> str:
    """What a setting may be: its types, and the bounds of its number."""
    least, most = BOUNDS.get(general(name), (-math.inf, math.inf))
    bounds = "" if least == -math.inf else f", at least {_plain(least)}" if most == math.inf else None
    said = f", {_plain(least)} to {_plain(most)}" if bounds is None else bounds
    kinds = kinds_of(options_of(name))
    return kinds.replace("number", f"number{said}", 1)


def _plain(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


WORDS = {"int": "a whole number", "float": "a number", "str": "text", "bool": "true or false", "NoneType": "none",
         "tuple": "tables with a name each", "dict": "names with a number each"}  # fmt: skip


def kinds_of(kinds: tuple[Any, ...]) -> str:
    """The types that a value may have, in words."""
    choices = [typing.get_args(kind) for kind in kinds if typing.get_origin(kind) is Literal]
    named = ["one of " + ", ".join(json.dumps(choice) for choice in each) for each in choices]
    others = [typing.get_origin(kind) or kind for kind in kinds if typing.get_origin(kind) is not Literal]
    return " or ".join([*named, *(WORDS[kind.__name__] for kind in others)])


def did_you_mean(asked: str) -> str | None:
    """The settings whose last part is the same, else those that are spelled alike; what one means, where it is one."""
    names = setting_names()
    last = {name: name.rpartition(".")[2] for name in names}
    wanted = asked.rpartition(".")[2]
    near = [name for name in names if last[name] == wanted]
    near = near or difflib.get_close_matches(asked, names, n=1, cutoff=0.7)
    near = near or [name for name in names if last[name] in difflib.get_close_matches(wanted, last.values(), n=1)]
    said = f" It is {described(near[0])}" if len(near) == 1 else ""
    return f"did you mean {' or '.join(near)}?{said}" if near else None
