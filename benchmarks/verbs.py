"""`nanochat bench`: how fast this machine decodes, trains, reads batches and encodes text.

Random weights of nanochat's shapes: speed does not depend on what a model has learned. Each bench measures a reference
implementation in the same run; the ratios of one run compare with those of another, single figures only where nothing
else used the machine.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

DECODE_COLUMNS = (
    ("tok/s", "tokens_per_s", ",.0f"),
    ("/cpu-s", "tokens_per_cpu_s", ",.0f"),
    ("best 10%", "quiet_tokens_per_s", ",.0f"),
    ("TTFT ms", "first_token_ms", ",.1f"),
    ("MBU", "mbu", ".0%"),
    ("+tables", "mbu_with_tables", ".0%"),
    ("x ref", "times_reference", ".2f"),
)

TRAIN_COLUMNS = (
    ("tok/s", "tokens_per_s", ",.0f"),
    ("/cpu-s", "tokens_per_cpu_s", ",.0f"),
    ("step ms", "step_ms", ",.0f"),
    ("first s", "first_step_s", ",.1f"),
    ("loss", "last_loss", ".4f"),
    ("differs", "loss_difference", ".2%"),
    ("x ref", "times_reference", ".2f"),
    ("x cpu", "times_reference_cpu", ".2f"),
)
LOADER_ROWS = (
    ("read batches, tokens per CPU second", "load_tokens_per_cpu_s", ",.0f"),
    ("cut rows", "cut_rows_tokens_per_cpu_s", ",.0f"),
    ("pack", "pack_tokens_per_cpu_s", ",.0f"),
    ("encode, the reference", "encode_tokens_per_cpu_s", ",.0f"),
    ("x reference", "times_reference", ".1f"),
)
TOKENIZER_ROWS = (
    ("encode, MB per CPU second", "encode_mb_per_cpu_s", ".1f"),
    ("the reference", "reference_mb_per_cpu_s", ".1f"),
    ("x reference", "times_reference", ".2f"),
    ("documents whose tokens differ", "num_documents_that_differ", "d"),
    ("bytes per token", "bytes_per_token", ".2f"),
    ("learn the vocabulary, CPU s", "train_cpu_s", ".2f"),
    ("the reference, CPU s", "reference_train_cpu_s", ".2f"),
    ("x reference", "train_times_reference", ".2f"),
)
JSON_OPTION = typer.Option("--json", help="Print JSON and nothing else.")
OUT_OPTION = typer.Option("--out", help="Write the JSON to this file.")
THREADS_OPTION = typer.Option(help="CPU threads; default: torch's own choice.")

bench_app = typer.Typer(
    help="How fast this machine is.\n\nnanochat bench decode\n\nnanochat bench train --depth 6 --threads 2",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@bench_app.callback()
def options() -> None:
    """Measure speed; nothing is read from or written to the store."""


@bench_app.command()
def decode(
    depth: Annotated[int, typer.Option(help="The model: depth x 64 wide.")] = 6,
    rows: Annotated[int, typer.Option(help="Sequences decoded together.")] = 1,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 64,
    tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 64,
    repeats: Annotated[int, typer.Option(help="Medians are over so many.")] = 5,
    threads: Annotated[int | None, THREADS_OPTION] = None,
    variants: Annotated[str, typer.Option(help="Of reference,plain,bf16,fp16,int8.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    out: Annotated[Path | None, OUT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Tokens per second, time to the first token and bandwidth use of decoding.

    nanochat bench decode

    nanochat bench decode --rows 8 --threads 1 --json
    """
    import torch

    from benchmarks.decode import BenchConfig, bench_decode, usual_variants
    from nanochat_core.base.hardware import pick_device
    from nanochat_core.model.host_memory import keep_freed_memory

    where = pick_device(device)
    config = BenchConfig(
        depth=depth,
        num_rows=rows,
        prompt_tokens=prompt,
        new_tokens=tokens,
        num_repeats=repeats,
        variants=tuple(variants.split(",")) if variants else usual_variants(where),
    )
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    result: dict[str, Any] = bench_decode(config, device=where)
    title = (
        f"depth {depth}, {rows} rows, {result['device']}, {result['threads']} threads, "
        f"{result['read_bytes_per_s'] / 1e9:.1f} GB/s read"
    )
    if not _wrote(result, out, as_json=as_json):
        _show_variants(result["variants"], DECODE_COLUMNS, title=title, first="weights")


@bench_app.command()
def train(
    depth: Annotated[int, typer.Option(help="The model: depth x 64 wide.")] = 4,
    vocabulary: Annotated[int, typer.Option(help="Tokens of the vocabulary.")] = 32768,
    rows: Annotated[int, typer.Option(help="Sequences of a step.")] = 4,
    length: Annotated[int, typer.Option(help="Tokens of a sequence.")] = 2048,
    steps: Annotated[int, typer.Option(help="Medians are over so many, after two more.")] = 5,
    threads: Annotated[int | None, THREADS_OPTION] = None,
    variants: Annotated[str, typer.Option(help="Of plain,plain-compiled,fp32,bf16,bf16-blocks-compiled.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    first_step: Annotated[bool, typer.Option("--first-step", help="Also: seconds from a process's start.")] = False,
    profile: Annotated[Path | None, typer.Option(help="Also: a trace and a table by kind of work, here.")] = None,
    out: Annotated[Path | None, OUT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Tokens per second of training steps, optimizer included, against the step as it is usually first written.

    The shapes are nanochat's: context 2,048, vocabulary 32,768. Rows of 256 tokens: --length 256 --rows 16.

    nanochat bench train

    nanochat bench train --depth 6 --threads 1 --variants plain,plain-compiled,bf16 --profile /tmp/profile
    """
    import torch

    from benchmarks.train_step import StepBenchConfig, bench_step, profile_variant, usual_variants
    from benchmarks.train_step import first_step as measure_first_step
    from nanochat_core.base.hardware import pick_device
    from nanochat_core.model.host_memory import keep_freed_memory

    where = pick_device(device)
    config = StepBenchConfig(
        depth=depth,
        vocab_size=vocabulary,
        num_rows=rows,
        sequence_len=length,
        num_steps=steps,
        variants=tuple(variants.split(",")) if variants else usual_variants(where),
    )
    if threads is not None:
        torch.set_num_threads(threads)
    keep_freed_memory()
    result = bench_step(config, device=where)
    if first_step:
        result["tiny_first_step"] = measure_first_step(threads=threads)
    if profile is not None:
        result["profile"] = profile_variant(config.variants[-1], config, profile, device=where)
    if not _wrote(result, out, as_json=as_json):
        title = f"depth {depth}, {rows} x {length} tokens, {result['device']}, {result['threads']} threads"
        _show_variants(result["variants"], TRAIN_COLUMNS, title=title, first="step")
        _show_rest(result)


@bench_app.command()
def loader(
    row_len: Annotated[int, typer.Option(help="Tokens of a row, and one.")] = 2049,
    batch_rows: Annotated[int, typer.Option(help="Rows of a batch.")] = 16,
    steps: Annotated[int, typer.Option(help="Batches read.")] = 200,
    documents: Annotated[int | None, typer.Option(help="Of the embedded corpus; default: all.")] = None,
    out: Annotated[Path | None, OUT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Tokens per CPU second of reading batches, against encoding their text anew.

    nanochat bench loader

    nanochat bench loader --row-len 257 --batch-rows 32 --json
    """
    from benchmarks.loader import LoaderBenchConfig, bench_loader
    from nanochat_core.data.documentation import documents as corpus

    config = LoaderBenchConfig(row_len=row_len, batch_rows=batch_rows, num_steps=steps, max_documents=documents)
    result = bench_loader(corpus(), config)
    if not _wrote(result, out, as_json=as_json):
        _show_rows(result, LOADER_ROWS, title=f"batches of {batch_rows} rows of {row_len} tokens")


@bench_app.command()
def tokenizer(
    vocabulary: Annotated[int, typer.Option(help="Tokens to learn.")] = 4096,
    megabytes: Annotated[float, typer.Option(help="At most so much of the text.")] = 10.0,
    repeats: Annotated[int, typer.Option(help="Medians are over so many.")] = 5,
    corpus: Annotated[Path | None, typer.Option(help="Text of one's own: a folder of parquet files.")] = None,
    out: Annotated[Path | None, OUT_OPTION] = None,
    as_json: Annotated[bool, JSON_OPTION] = False,
) -> None:
    """Megabytes per CPU second of encoding, and CPU seconds to learn a vocabulary.

    nanochat bench tokenizer

    nanochat bench tokenizer --vocabulary 32768 --json
    """
    from benchmarks.tokenizer import TokenizerBenchConfig, bench_tokenizer
    from nanochat_core.data.documentation import documents
    from nanochat_core.data.shards import read_documents

    config = TokenizerBenchConfig(vocab_size=vocabulary, max_bytes=int(1e6 * megabytes), num_repeats=repeats)
    result = bench_tokenizer(documents() if corpus is None else read_documents(corpus), config)
    if not _wrote(result, out, as_json=as_json):
        _show_rows(result, TOKENIZER_ROWS, title=f"{result['text_bytes'] / 1e6:.1f} MB, vocabulary {vocabulary:,}")


def _wrote(result: dict[str, Any], out: Path | None, *, as_json: bool) -> bool:
    """Put the JSON where it was asked for; True when the screen has had its part."""
    text = json.dumps(result, indent=1)
    if out is not None:
        out.write_text(text + "\n", encoding="utf-8")
    if as_json:
        print(text)
    return as_json


def _show_variants(
    variants: dict[str, dict[str, Any]], columns: tuple[tuple[str, str, str], ...], *, title: str, first: str
) -> None:
    from rich.table import Table

    from nanochat_core.cli.output import Page

    table = Table(title=title, title_justify="left")
    table.add_column(first, no_wrap=True)
    for name, _, _ in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for name, figures in variants.items():
        table.add_row(name, *(format(figures[key], form) if key in figures else "" for _, key, form in columns))
    Page().print(table)


def _show_rows(result: dict[str, Any], rows: tuple[tuple[str, str, str], ...], *, title: str) -> None:
    from rich.table import Table

    from nanochat_core.cli.output import Page

    table = Table(title=title, title_justify="left", show_header=False)
    for name, key, form in rows:
        table.add_row(name, format(result[key], form))
    Page().print(table)


def _show_rest(result: dict[str, Any]) -> None:
    """What a training bench was asked for besides."""
    if first := result.get("tiny_first_step"):
        print(f"first optimizer step of tiny: {first['wall_s']:.1f} s after the start, {first['cpu_s']:.1f} s of CPU")
    if "profile" in result:
        from benchmarks.step_profile import table

        print(table(result["profile"]))
