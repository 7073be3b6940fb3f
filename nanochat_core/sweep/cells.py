"""The cells of a sweep: which runs it is made of, each as settings that `nanochat run` understands.

A miniseries lets the plan's own rules decide everything but depth. An iso-FLOP cell trains a depth for
budget / FLOPs-per-token tokens; the batch and the weight decay then follow the plan's laws in the tokens really seen,
measured from the preset's own reference, so that cells differ in nothing but size and length.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from nanochat_core.base.errors import ConfigError
from nanochat_core.base.units import count
from nanochat_core.config import PretrainConfig
from nanochat_core.plan import PretrainPlan, RunPlan, optimal_batch_tokens, plan_run, reference_tokens_of
from nanochat_core.presets import load_config

# Even depths: at head_dim 128 an odd depth gets the width of the next even one, and is another shape of model.
GPU_DEPTHS = tuple(range(12, 27, 2))
CPU_DEPTHS = (2, 3, 4)
CPU_GRID_DEPTHS = (1, 2, 3, 4)  # the best model of 1e12 FLOPs is smaller than two layers
GPU_BUDGETS = (1e18, 2.15e18, 4.64e18, 1e19)  # a third of a decade apart, as in nanochat's own sweep
CPU_BUDGETS = (1e12, 2e12, 4e12)
MIN_STEPS = 20  # below this a run is warm-up and warm-down with nothing in between
Kind = Literal["miniseries", "scaling_laws"]
Overrides = Sequence[str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep."""

    name: str
    """What people call it: d12, or d12@1e+18."""
    overrides: tuple[str, ...]
    """Settings on top of the preset that make this cell, so `nanochat run` can make it alone."""
    plan: RunPlan
    budget_flops: float | None = None

    @property
    def depth(self) -> int:
        return self.plan.pretrain.model.n_layer


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A cell that is not run, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Every cell of a sweep, planned."""

    kind: Kind
    preset: str
    overrides: tuple[str, ...]
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    """What a reader of the results should know beforehand."""
    settings: dict[str, Any] = field(default_factory=dict)


def last_step(plan: RunPlan) -> str:
    """Where a cell ends: a sweep compares base models."""
    return "evaluate_core" if plan.has_core else "evaluate_base"


def plan_miniseries(
    preset: str, overrides: Overrides = (), *, depths: Iterable[int] | None = None, parallel: int = 1
) -> Sweep:
    """One compute-optimal run per depth; a depth that cannot be planned is an error."""
    base = plan_run(load_config(preset, overrides))
    chosen = _depths(depths, base, on_cpu=CPU_DEPTHS)
    cells = []
    for depth in chosen:
        changes = (*overrides, f"pretrain.depth={depth}", *_threads(base, parallel))
        cells.append(Cell(name=f"d{depth}", overrides=changes, plan=plan_run(load_config(preset, changes))))
    return Sweep(
        kind="miniseries",
        preset=preset,
        overrides=tuple(overrides),
        cells=tuple(cells),
        notes=_notes(base.config.pretrain),
        settings={"depths": list(chosen)},
    )


def plan_scaling_laws(
    preset: str,
    overrides: Overrides = (),
    *,
    budgets: Iterable[float] | None = None,
    depths: Iterable[int] | None = None,
    min_steps: int = MIN_STEPS,
    parallel: int = 1,
) -> Sweep:
    """Every depth at every FLOP budget; cells that would be too short are left out, with the reason."""
    base = plan_run(load_config(preset, overrides))
    chosen, flops = _depths(depths, base, on_cpu=CPU_GRID_DEPTHS), _budgets(budgets, base)
    cells: list[Cell] = []
    left_out: list[LeftOut] = []
    for budget in flops:
        for depth in chosen:
            made = _iso_flop_cell(preset, (*overrides, *_threads(base, parallel)), budget, depth, min_steps=min_steps)
            if isinstance(made, Cell):
                cells.append(made)
            else:
                left_out.append(made)
    if not cells:
        raise ConfigError(f"no cell of this grid can run; {left_out[0].name}: {left_out[0].reason}",
                          hint="raise --flops, or take smaller depths")  # fmt: skip
    return Sweep(
        kind="scaling_laws",
        preset=preset,
        overrides=tuple(overrides),
        cells=tuple(cells),
        left_out=tuple(left_out),
        notes=_notes(base.config.pretrain),
        settings={"depths": list(chosen), "budgets_flops": list(flops), "min_steps": min_steps},
    )


def budget_name(flops: float) -> str:
    """1e18 -> "1e18", 2.15e18 -> "2.15e18": as one types it."""
    mantissa, _, exponent = f"{flops:.3g}".partition("e")
    if not exponent:
        mantissa, _, exponent = f"{flops:.2e}".partition("e")
        mantissa = f"{float(mantissa):g}"
    return f"{mantissa}e{int(exponent)}"


def _iso_flop_cell(preset: str, overrides: Overrides, budget: float, depth: int, *, min_steps: int) -> Cell | LeftOut:
    changes = [*overrides, f"pretrain.depth={depth}"]
    name = f"d{depth}@{budget_name(budget)}"
    natural = load_config(preset, [*changes, "pretrain.max_tokens=none"])
    # plan_run refuses a depth that cannot be built at any length, before the budget comes into it
    shape = plan_run(natural).pretrain
    tokens = int(budget / shape.flops_per_token)
    reference = reference_tokens_of(natural.pretrain, vocab_size=shape.model.vocab_size)
    batch = natural.pretrain.total_batch_tokens or optimal_batch_tokens(tokens, reference)
    num_steps = tokens // batch
    if num_steps < min_steps:
        return LeftOut(
            name=name,
            reason=f"too large for the budget: {count(tokens)} tokens are {num_steps} steps of {batch:,}, "
            f"fewer than {min_steps}",
        )
    changes += _length(natural.pretrain, shape, tokens=tokens, batch=batch)
    try:
        plan = plan_run(load_config(preset, changes))
    except ConfigError as error:  # the depth alone could be planned, so it is this length that cannot
        return LeftOut(name=name, reason=error.message)
    return Cell(name=name, overrides=tuple(changes), plan=plan, budget_flops=budget)


def _length(config: PretrainConfig, shape: PretrainPlan, *, tokens: int, batch: int) -> list[str]:
    """Settings for exactly this many tokens.

    plan.py takes its reference from tokens_per_param, which a budget changes from cell to cell; the decay is scaled
    back by the same ratio, so that what is applied is the law at the preset's reference.
    """
    # a hair more than needed: the product is cut to whole tokens, and max_tokens says the exact number
    ratio = (tokens + 1) / shape.scaling_params
    return [
        f"pretrain.tokens_per_param={ratio!r}",
        f"pretrain.max_tokens={tokens}",
        f"pretrain.total_batch_tokens={batch}",
        f"pretrain.weight_decay={config.weight_decay * config.tokens_per_param / ratio!r}",
    ]


def _depths(depths: Iterable[int] | None, base: RunPlan, *, on_cpu: tuple[int, ...]) -> tuple[int, ...]:
    usual = on_cpu if base.config.runtime.gpu == "CPU" else GPU_DEPTHS
    return tuple(sorted(set(depths or usual)))


def _budgets(budgets: Iterable[float] | None, base: RunPlan) -> tuple[float, ...]:
    usual = CPU_BUDGETS if base.config.runtime.gpu == "CPU" else GPU_BUDGETS
    chosen = tuple(sorted(set(budgets or usual)))
    if chosen[0] <= 0:
        raise ConfigError(f"a budget of {chosen[0]:g} FLOPs is not above 0", hint="--flops 1e12,3e12,1e13")
    return chosen


def _threads(base: RunPlan, parallel: int) -> tuple[str, ...]:
    """Trainings at once on a CPU share its cores; not part of any fingerprint."""
    if parallel < 1:
        raise ConfigError(f"--parallel {parallel} is below 1")
    runtime = base.config.runtime
    if parallel == 1 or runtime.num_threads is not None or runtime.gpu != "CPU":
        return ()
    share = (os.cpu_count() or 1) // (parallel * runtime.num_processes)
    return (f"runtime.num_threads={max(1, share)}",)


def _notes(config: PretrainConfig) -> tuple[str, ...]:
    if config.n_embd is None:
        return ()
    return (
        f"The preset fixes the width at {config.n_embd}: depths differ in layers only. "
        "--set pretrain.n_embd=none lets the width follow depth.",
    )
