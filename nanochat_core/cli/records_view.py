"""Records, verdicts, leaderboards and comparisons as tables on stdout."""

from typing import Any

from rich.table import Table

from nanochat_core.base.text import one_line
from nanochat_core.base.units import count, dollars, duration, size
from nanochat_core.cli.output import Page, said
from nanochat_core.cli.output import grid as _grid
from nanochat_core.cli.output import table as _table
from nanochat_core.record.compare import Comparison
from nanochat_core.record.leaderboard import WRITE_UPS, Row
from nanochat_core.record.problems import shown
from nanochat_core.record.rules import CURRENT
from nanochat_core.record.runs import RunSummary
from nanochat_core.record.verify import Verdict

NONE = "–"
PROBLEMS_SHOWN = 20
RUNS_SPARE = ("started", "until", "seed", "steps")  # the id has the time


def _minute(moment: str) -> str:
    return moment[:16].replace("T", " ")


def _hours(seconds: float) -> str:
    """As leaderboards print it."""
    return f"{seconds / 3600:.2f} h" if seconds >= 3600 else duration(seconds)


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


def _with_error(value: float | None, error: float | None, form: str = ".4f") -> str:
    return _number(value, form) + (f" ± {error:{form}}" if value is not None and error is not None else "")


def show_claims(claims: dict[str, Any]) -> None:
    """What a record says, in a few lines."""
    runs = claims["runs"]
    first = runs[0]
    where = f"{first['num_gpus']} x {first['device']}" if first["num_gpus"] else first["device"]
    commit = (first["git_commit"] or "no commit")[:12] + (", with uncommitted changes" if first["is_dirty"] else "")
    core = _with_error(claims["core"], claims["core_standard_error"]) if claims["core"] is not None else "not measured"
    if claims["core"] is not None and not claims["core_is_whole"]:
        core += ", of a part of its items or benchmarks: it does not compare"
    table = _grid()
    table.add_row(
        "[bold]record", f"{said(claims['preset'])}, depth {claims['depth']}, {count(claims['num_params'])} parameters"
    )
    table.add_row("[bold]runs", ", ".join(f"{said(run['run_id'])} (seed {run['seed']})" for run in runs))
    table.add_row("[bold]clock", f"{duration(claims['clock_s'])} ({claims['clock_s']:.1f} s) on {said(where)}")
    table.add_row("[bold]warm-up", _left_out(runs))
    table.add_row(
        "[bold]trained on",
        f"{count(claims['tokens'])} tokens, {count(claims['flops'])}FLOP, {count(claims['tokens_per_s'])} tokens/s",
    )
    table.add_row("[bold]price", NONE if claims["usd"] is None else dollars(claims["usd"]))
    table.add_row("[bold]validation", f"{claims['val_bits_per_byte']:.5f} bits per byte")
    table.add_row("[bold]CORE", core)
    for name, test in claims["significance"].items():
        if test is not None:
            p_value = "p cannot be said" if test["p_value"] is None else f"p = {test['p_value']:.2g}"
            table.add_row(
                f"[bold]{name.replace('_', ' ')}", f"{p_value} against {test['threshold']:g} ({test['method']})"
            )
    table.add_row("[bold]source", said(commit))
    for run in runs:
        for part in run["steps_by_code"]:
            made_by = f"code {part['fingerprint'][:12]}, commit {str(part['git_commit'])[:12]}"
            table.add_row("[bold]mixed", said(f"steps {part['first_step']} to {part['last_step']}: {made_by}"))
    Page().print(table)


def _left_out(runs: list[dict[str, Any]]) -> str:
    """How much of what was measured the clock does not count: the steps that count at the median of the others."""
    shares = []
    for run in runs:
        less_s = run["measured_s"] - run["clock_s"]
        shares.append(
            f"{run['num_warmup_steps']} of {run['num_steps']} steps after {run['num_starts']} start(s) count at the "
            f"median: {abs(less_s):.2f} s {'less' if less_s >= 0 else 'more'} than measured ({run['measured_s']:.1f} s)"
        )
    return "; ".join(shares)


def show_verdict(verdict: Verdict) -> None:
    """Sound, with what it claims; or refused, with every reason."""
    console = Page()
    if verdict.is_sound and verdict.claims is not None:
        console.print(f"[green]sound[/green]: {said(verdict.path)}, every claim follows from its evidence\n")
        show_claims(verdict.claims)
    else:
        num_problems = len(verdict.problems)
        many = f"{num_problems} problems" if num_problems != 1 else "1 problem"
        console.print(f"[red]refused[/red]: {said(verdict.path)}, {many}", soft_wrap=True)
        for problem in verdict.problems[:PROBLEMS_SHOWN]:
            console.print(f"  {problem}", markup=False, highlight=False, soft_wrap=True)
        if num_problems > PROBLEMS_SHOWN:
            console.print(f"  and {num_problems - PROBLEMS_SHOWN} more: --json lists all")
    console.print(f"checked by rules {verdict.rules}; this version writes {CURRENT}", highlight=False)
    for note in verdict.notes:
        console.print(f"note: {one_line(note)}", markup=False, highlight=False, soft_wrap=True)


def show_leaderboard(rows: list[Row]) -> None:
    """Those with a time to GPT-2, a line, those without."""
    table = _table(
        "#", "time", "bpb", "CORE", "what", "date", "commit", "by", wraps=("what", "by"), spare=("commit", "date")
    )
    rank = 0
    for row in rows:
        if row.lacks:
            continue
        rank += 1
        _add_row(table, str(rank), row)
    others = [row for row in rows if row.lacks]
    if others:
        table.add_section()
        table.add_row("", "[dim]not at GPT-2 yet", "", "", "", "", "", "")
    for row in others:
        _add_row(table, "", row)
    console = Page()
    console.print(table)
    console.print(f"\npublished rows: {WRITE_UPS}", style="dim", soft_wrap=True)


def _add_row(table: Table, rank: str, row: Row) -> None:
    what = said(row.description) + (f" [dim]({said(row.lacks)})" if row.lacks else "")
    by = said(row.contributors if row.is_published else row.source)
    time = NONE if row.clock_s is None else _hours(row.clock_s)
    bits, core = _number(row.val_bits_per_byte, ".5f"), _number(row.core, ".4f")
    style = "dim" if row.is_published else None
    table.add_row(rank, time, bits, core, what, said(row.date), said(row.commit or NONE), by, style=style)


def show_runs(runs: list[RunSummary]) -> None:
    """One line per run."""
    console = Page()
    if not runs:
        console.print("no runs yet: `nanochat run tiny` makes one")
        return
    table = _table("run", "started", "depth", "seed", "took", "steps", "until", "bpb", "CORE", spare=RUNS_SPARE)
    for run in runs:
        table.add_row(
            said(run.run_id),
            said(_minute(run.started_at)),
            str(run.depth or NONE),
            str(NONE if run.seed is None else run.seed),
            duration(run.seconds),
            f"{run.num_made} made, {run.num_cached} cached",
            said(run.last_step),
            _number(run.bits_per_byte, ".4f"),
            _with_error(run.core, run.core_standard_error),
        )
    console.print(table)


def show_one_run(facts: dict[str, Any]) -> None:
    """Steps, clock and machine of a run."""
    console = Page()
    started = said(_minute(facts["started_at"]))
    console.print(f"[bold]{said(facts['run_id'])}[/bold], {started}, took {duration(facts['seconds'])}\n")
    table = _table("step", "", "took", "size", "artifact")
    for line in facts["steps"]:
        kept = size(line["num_bytes"]) if line["is_in_store"] else "[red]gone"
        state = "[blue]cached" if line["is_cached"] else "[green]made"
        table.add_row(said(line["step"]), state, duration(line["seconds"]), kept, said(line["fingerprint"][:12]))
    console.print(table)
    for line in facts["steps"]:
        if told := line["steps_by_code"]:
            console.print(f"{said(line['step'])} is of several codes: {said('; '.join(told))}", soft_wrap=True)
    metrics = {line["step"]: line["metrics"] for line in facts["steps"]}
    grid = _grid()
    for step, values in metrics.items():
        numbers = {name: value for name, value in values.items() if isinstance(value, int | float)}
        if step in ("pretrain", "sft", "rl", "evaluate_base", "evaluate_core", "evaluate_chat") and numbers:
            grid.add_row(
                f"[bold]{said(step)}", ", ".join(f"{said(name)} {value:.6g}" for name, value in numbers.items())
            )
    if clock := facts["clock"]:
        grid.add_row(
            "[bold]clock", f"{clock['clock_s']:.2f} s in {clock['num_steps']} steps, {clock['num_starts']} start(s)"
        )
    if made := facts["made_on"]:
        commit = (made["git_commit"] or "no commit")[:12]
        grid.add_row("[bold]made on", said(f"{made['device']}, {made['cpu']}, {made['platform']}, commit {commit}"))
    console.print()
    console.print(grid)


def show_comparison(comparison: Comparison) -> None:
    """Differences of two runs."""
    console = Page()
    console.print(f"A  {said(comparison.a.run_id)}\nB  {said(comparison.b.run_id)}\n")
    table = _table("setting", "A", "B", wraps=("A", "B"))
    for name, ours, theirs in comparison.settings:
        table.add_row(said(name), said(shown(ours)), said(shown(theirs)))
    console.print(table if comparison.settings else "no setting differs")
    same = [step for step, state in comparison.steps.items() if state == "same"]
    console.print(f"\nsame artifacts: {', '.join(map(said, same)) or 'none'}\n", soft_wrap=True)
    table = _table("result", "A", "B", "B - A")
    for row in comparison.scores:
        form = ".4g" if row.name == "training FLOPs" else ".4f"
        difference = _with_error(row.difference, row.difference_error, form)
        table.add_row(
            said(row.name), _with_error(row.a, row.a_error, form), _with_error(row.b, row.b_error, form), difference
        )
    console.print(table)
    found = comparison.multiplier
    if found.value is None:
        console.print(f"\ncompute multiplier: cannot be said; {found.statement}", soft_wrap=True)
        return
    bound = ("at least " if found.value >= 1 else "at most ") if found.is_bound else ""
    interval = (
        f" (95%: {found.low:.3f} to {found.high:.3f})" if found.low is not None and found.high is not None else ""
    )
    console.print(f"\ncompute multiplier of A over B: {bound}{found.value:.3f}{interval}", soft_wrap=True)
    console.print(f"  {found.statement}", highlight=False, soft_wrap=True)
