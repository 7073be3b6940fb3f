"""The plan as people read it: what will be trained, what it takes, which steps run and why."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from nanochat_core import plan as plans
from nanochat_core.base.units import count, dollars, duration
from nanochat_core.cli.output import grid, table
from nanochat_core.pipeline.table import STEPS, previews
from nanochat_core.plan import RunPlan

REASONS_SHOWN = 3


def preview_steps(plan: RunPlan, until: str | None = None) -> list[dict[str, Any]]:
    """Per step: cached or run, and why; in order."""
    return [
        {
            "step": name,
            "state": seen.state,
            "what": STEPS[name].title(plan),
            "why": seen.reasons,
            "saved_s": seen.artifact.provenance.get("seconds") if seen.artifact and seen.state == "accepted" else None,
        }
        for name, seen in previews(plan, until).items()
    ]


def show_plan(console: Console, plan: RunPlan, rows: list[dict[str, Any]]) -> None:
    """Print the derived numbers and the steps."""
    derived, model, guess = plan.pretrain, plan.pretrain.model, plans.estimate(plan)
    shape = f"depth {model.n_layer}, width {model.n_embd}, {model.n_head} heads of {model.head_dim}"
    size = f"{count(derived.num_params['total'])} in all, {count(derived.scaling_params)} in matrices and head"
    steps = f"{derived.num_steps:,} steps of {derived.total_batch_tokens:,}"
    price = f", {dollars(guess.usd)}" if guess.usd else ""
    where = f"{guess.num_gpus} x {guess.gpu} at {guess.assumed_mfu:.0%} of peak{price}"
    fits = "" if guess.fits else " [red](does not fit: lower runtime.device_batch_rows)"
    facts = grid()
    facts.add_row("[bold]model", f"{shape}, context {model.sequence_len:,}, vocabulary {model.vocab_size:,}")
    facts.add_row("[bold]parameters", size)
    trained = f"{count(derived.num_tokens)} tokens in {steps}; {count(derived.total_flops)}FLOP"
    if plan.config.base.model is not None:
        facts.add_row("[bold]starts from", escape(plan.config.base.model))
    facts.add_row("[bold]pretraining", "none" if plan.is_base_kept else trained)
    facts.add_row("[bold]estimate", f"{duration(guess.hours * 3600)} of pretraining on {where}")
    facts.add_row("[bold]memory", f"{guess.memory_gib:.1f} GiB per device{fits}")
    console.print(facts)
    console.print()
    show_steps(console, rows)


def show_steps(console: Console, rows: list[dict[str, Any]]) -> None:
    """The steps that will run, those that are cached, and the reasons."""
    steps = table("step", "", "what", "why", wraps=("what", "why"))
    for row in rows:
        shown = "; ".join(row["why"][:REASONS_SHOWN]) + (" ..." if len(row["why"]) > REASONS_SHOWN else "")
        style = "green" if row["state"] in ("run", "resumed") else "blue"
        steps.add_row(row["step"], f"[{style}]{row['state']}", escape(row["what"]), f"[dim]{escape(shown)}")
    console.print(steps)
    if saved := [row["saved_s"] for row in rows if row.get("saved_s")]:
        console.print(f"accepted as they are: {len(saved)} steps that took {duration(sum(saved))}")
