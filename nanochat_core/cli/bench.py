"""`nanochat bench decode`: how fast this machine generates, by every way of holding the weights.

Random weights of nanochat's shapes: speed does not depend on what a model has learned. The figures of one run compare
with each other; those of two runs only where nothing else used the machine.
"""

import json
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

bench_app = typer.Typer(
    help="How fast this machine is.\n\nnanochat bench decode\n\nnanochat bench decode --rows 8 --json",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)


@bench_app.callback()
def options() -> None:
    """Measure speed; nothing is read from or written to the store."""


def register(app: typer.Typer) -> None:
    """Add the verbs of this module to the command line."""
    app.add_typer(bench_app, name="bench")


@bench_app.command()
def decode(
    depth: Annotated[int, typer.Option(help="The model: depth x 64 wide.")] = 6,
    rows: Annotated[int, typer.Option(help="Sequences decoded together.")] = 1,
    prompt: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 64,
    tokens: Annotated[int, typer.Option(help="Tokens to generate.")] = 64,
    repeats: Annotated[int, typer.Option(help="Medians are over so many.")] = 5,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's own choice.")] = None,
    variants: Annotated[str, typer.Option(help="Of reference,plain,bf16,fp16,int8.")] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Tokens per second, time to the first token and bandwidth use of decoding.

    nanochat bench decode

    nanochat bench decode --rows 8 --threads 1 --json
    """
    import torch

    from nanochat_core.base.hardware import pick_device
    from nanochat_core.inference.decoder_bench import BenchConfig, bench_decode, usual_variants
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
    result = bench_decode(config, device=where)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _show(result)


def _show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    config = result["config"]
    table = Table(
        title=f"depth {config['depth']}, {config['num_rows']} rows, {result['device']}, {result['threads']} threads, "
        f"{result['read_bytes_per_s'] / 1e9:.1f} GB/s read",
        title_justify="left",
    )
    table.add_column("weights", no_wrap=True)
    for title, _, _ in DECODE_COLUMNS:
        table.add_column(title, justify="right")
    for name, figures in result["variants"].items():
        cells = (format(figures[key], form) if key in figures else "" for _, key, form in DECODE_COLUMNS)
        table.add_row(name, *cells)
    Console().print(table)
