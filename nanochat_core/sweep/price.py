"""What a sweep costs: the plan's figure for each cell before it starts, and the dollars really spent while it runs.

The figure is plan.py's estimate of the pretraining, which is nearly all of a cell; what is cached costs nothing. The
spent dollars are the seconds of every step that this sweep made, on all GPUs of the plan, at the plan's price.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from nanochat_core.base.errors import ConfigError
from nanochat_core.base.units import dollars
from nanochat_core.pipeline.step import Ref
from nanochat_core.pipeline.table import previews
from nanochat_core.plan import RunPlan, estimate
from nanochat_core.sweep.cells import Sweep, last_step


@dataclass(frozen=True, kw_only=True)
class CellPrice:
    """One row of a sweep's plan."""

    name: str
    num_params: int
    scaling_params: int
    tokens: int
    tokens_per_param: float
    """By nanochat's count: matrices and head."""
    total_batch_tokens: int
    steps: int
    flops: float
    hours: float
    usd: float
    memory_gib: float
    fits: bool
    steps_to_run: tuple[str, ...]
    """Empty: everything is cached."""

    @property
    def is_trained(self) -> bool:
        return "pretrain" not in self.steps_to_run

    @property
    def usd_to_pay(self) -> float:
        return 0.0 if self.is_trained else self.usd


def price_sweep(sweep: Sweep) -> list[CellPrice]:
    """A row per cell, with what the store already has."""
    return [price_plan(cell.name, cell.plan, steps_to_run(cell.plan)) for cell in sweep.cells]


def price_plan(name: str, plan: RunPlan, to_run: Sequence[str] = ()) -> CellPrice:
    derived, guess = plan.pretrain, estimate(plan)
    return CellPrice(
        name=name,
        num_params=derived.num_params["total"],
        scaling_params=derived.scaling_params,
        tokens=derived.num_tokens,
        tokens_per_param=derived.num_tokens / derived.scaling_params,
        total_batch_tokens=derived.total_batch_tokens,
        steps=derived.num_steps,
        flops=float(derived.total_flops),
        hours=guess.hours,
        usd=guess.usd,
        memory_gib=guess.memory_gib,
        fits=guess.fits,
        steps_to_run=tuple(to_run),
    )


def steps_to_run(plan: RunPlan) -> list[str]:
    """The steps of a cell that are not in the store, in order."""
    return [name for name, seen in previews(plan, last_step(plan)).items() if seen.state != "cached"]


def check_cost(prices: Sequence[CellPrice], max_cost_usd: float | None) -> None:
    """Refuse a sweep whose plan is over the limit, before anything runs."""
    planned = sum(price.usd_to_pay for price in prices)
    if max_cost_usd is not None and planned > max_cost_usd:
        dearest = max(prices, key=lambda price: price.usd_to_pay)
        raise ConfigError(
            f"the plan of this sweep comes to {dollars(planned)}, over the limit of {dollars(max_cost_usd)}",
            hint=f"{dearest.name} alone is {dollars(dearest.usd_to_pay)}: leave it out, or raise --max-cost-usd",
        )


def usd_per_hour(plan: RunPlan) -> float:
    """Of all the plan's GPUs together."""
    guess = estimate(plan)
    return guess.usd / guess.hours


@dataclass
class Meter:
    """The dollars that a sweep has really spent, and its limit."""

    max_cost_usd: float | None = None
    spent_usd: float = 0.0

    def add(self, plan: RunPlan, refs: Sequence[Ref]) -> None:
        """Count the steps that were made; a cached one was paid for by the run that made it.

        A training that was killed and went on counts with the seconds of all its steps, whichever attempt took them.
        """
        seconds = sum(max(ref.seconds, ref.metrics.get("train_s", 0.0)) for ref in refs if not ref.is_cached)
        self.spent_usd += seconds / 3600 * usd_per_hour(plan)

    @property
    def is_over(self) -> bool:
        return self.max_cost_usd is not None and self.spent_usd > self.max_cost_usd
