"""Plans side by side: several depths of one preset, or the cells of a sweep, with their price and what is cached."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from nanochat_core.base.errors import ConfigError
from nanochat_core.base.units import count, dollars, duration
from nanochat_core.cli.output import Listing, Page, answer
from nanochat_core.plan import estimate
from nanochat_core.sweep.cells import LeftOut, Sweep, plan_miniseries
from nanochat_core.sweep.price import CellPrice, price_sweep


def parse_depths(text: str) -> list[int]:
    """ "12,16,20" -> [12, 16, 20]."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a list of depths", hint="write them as 12,16,20,24") from error


def parse_flops(text: str) -> list[float]:
    """ "1e18,3e18" -> [1e18, 3e18]."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a list of FLOP budgets", hint="write them as 1e18,3e18,1e19") from error


def print_comparison(preset: str, overrides: Sequence[str], depths: str, *, as_json: bool) -> None:
    """`nanochat plan --compare`: the plans of several depths, written as 12,16,20,24."""
    sweep = plan_miniseries(preset, overrides, depths=parse_depths(depths))
    prices = price_sweep(sweep)
    answer(comparison_json(sweep, prices), lambda: show_comparison(Page(), sweep, prices), as_json=as_json)


def comparison_json(sweep: Sweep, prices: Sequence[CellPrice]) -> dict[str, Any]:
    """What --json prints: a row per cell, and totals."""
    return {
        "preset": sweep.preset,
        "cells": [{**asdict(price), "is_trained": price.is_trained} for price in prices],
        "left_out": [asdict(cell) for cell in sweep.left_out],
        "total": {
            "flops": sum(price.flops for price in prices),
            "hours": sum(price.hours for price in prices),
            "usd": sum(price.usd for price in prices),
            "usd_to_pay": sum(price.usd_to_pay for price in prices),
            "num_to_train": sum(not price.is_trained for price in prices),
        },
    }


def show_comparison(console: Console, sweep: Sweep, prices: Sequence[CellPrice]) -> None:
    """A row per cell, their sum, and what was left out."""
    guess, has_price = estimate(sweep.cells[0].plan), any(price.usd for price in prices)
    table = Listing(
        box=None, padding=(0, 2, 0, 0), header_style="dim", show_footer=len(prices) > 1, footer_style="bold"
    )
    table.spare = ("tok/param", "scaling", "batch")
    total = sum(price.hours for price in prices) * 3600
    columns = [
        ("cell", ""), ("params", ""), ("scaling", ""), ("tokens", ""), ("tok/param", ""), ("batch", ""),
        ("steps", ""), ("FLOPs", f"{sum(price.flops for price in prices):.2e}".replace("e+", "e")),
        ("time", duration(total)), *([("price", dollars(sum(price.usd for price in prices)))] if has_price else []),
    ]  # fmt: skip
    for name, footer in columns:
        table.add_column(name, footer, justify="left" if name == "cell" else "right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for price in prices:
        table.add_row(*_row(price, has_price))
    console.print(table)
    where = f"{guess.num_gpus} x {guess.gpu} at {guess.assumed_mfu:.0%} of peak"
    console.print(f"[dim]time{' and price' if has_price else ''}: pretraining, estimated for {where}")
    if any(price.is_trained for price in prices):
        console.print(_to_pay(prices, has_price), highlight=False)
    _show_rest(console, sweep.left_out, sweep.notes)


def _to_pay(prices: Sequence[CellPrice], has_price: bool) -> str:
    left = [price for price in prices if not price.is_trained]
    cost = f", {dollars(sum(price.usd_to_pay for price in left))}" if has_price else ""
    return f"{len(left)} of {len(prices)} to train: {duration(sum(price.hours for price in left) * 3600)}{cost}"


def _row(price: CellPrice, has_price: bool) -> list[str]:
    state = "[blue]cached" if not price.steps_to_run else "[blue]trained" if price.is_trained else "[green]run"
    return [
        price.name, count(price.num_params), count(price.scaling_params), count(price.tokens),
        f"{price.tokens_per_param:.3g}", f"{price.total_batch_tokens:,}", f"{price.steps:,}",
        f"{price.flops:.2e}".replace("e+", "e"), duration(price.hours * 3600),
        *([dollars(price.usd)] if has_price else []), state + ("" if price.fits else " [red]does not fit"),
    ]  # fmt: skip


def _show_rest(console: Console, left_out: Sequence[LeftOut], notes: Sequence[str]) -> None:
    for cell in left_out:
        console.print(f"[yellow]{cell.name}[/yellow] is left out: {cell.reason}", highlight=False)
    for note in notes:
        console.print(f"[yellow]{note}", highlight=False)
