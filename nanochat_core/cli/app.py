"""The verbs that need no Prefect: plan, why, chat, doctor; and how every verb fails.

stdout is the answer, stderr the progress. A NanochatError is one line and a hint, with the exit code of its kind.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from nanochat_core import __version__
from nanochat_core.base.errors import EXIT_CODES, ConfigError, NanochatError
from nanochat_core.base.limits import limit_error
from nanochat_core.base.stopping import stop_on_signals, was_told
from nanochat_core.base.text import typed
from nanochat_core.cli.output import Json, Page, answer, tell
from nanochat_core.config import RunConfig
from nanochat_core.plan import RunPlan, plan_run, summary
from nanochat_core.presets import load_config, portable, preset_names
from nanochat_core.workspace import home_from_environment

if TYPE_CHECKING:
    from nanochat_core.pipeline.step import Step

EXIT_INTERRUPTED = 130


def complete_setting(incomplete: str) -> list[str]:
    """Names of settings that begin so, for a shell; the last one that is left with its default as well.

    Two that begin alike keep the shell from putting a blank behind the =.
    """
    from nanochat_core.settings import default_of, setting_names

    found = [name for name in setting_names() if name != "preset" and name.startswith(incomplete)]
    return (
        [f"{name}=" for name in found] if len(found) > 1 else [f"{n}={d}" for n in found for d in ("", default_of(n))]
    )


Preset = Annotated[str, typer.Argument(help=f"{', '.join(preset_names())}, or a .toml file.")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Change a setting: section.field=value. May be repeated.",
        autocompletion=complete_setting,
    ),
]
Depth = Annotated[int | None, typer.Option("--depth", help="The one dial; everything else follows.")]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Start from this model: a name, a run, a fingerprint, a folder, or hf:OWNER/NAME (docs/begin.md).",
    ),
]
Drift = Annotated[
    list[str] | None,
    typer.Option(
        "--accept-drift",
        help="Reuse this step, and what it is made from, although code or packages changed; all: what can be.",
    ),
]
VerifyInputs = Annotated[
    bool, typer.Option("--verify-inputs", help="Read every input file whole, also large ones, and say what differs.")
]


class Verbs(TyperGroup):
    """Runs a verb; what it raises becomes one line, a hint and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            raise _stopped() from interrupt
        except Exception as error:
            if was_told() and not ctx.params.get("debug"):  # whatever broke, broke because it was told to stop
                raise _stopped() from error
            told = limit_error(error, near=_home()) or error
            if not isinstance(told, NanochatError):
                raise
            raise typer.Exit(tell(told, debug=bool(ctx.params.get("debug")))) from error


def _home() -> Path | None:
    """The home, for a message: what went wrong may be that there is none."""
    try:
        return home_from_environment()
    except ConfigError:
        return None


def _stopped() -> typer.Exit:
    print("stopped; the same command goes on from here", file=sys.stderr)
    return typer.Exit(EXIT_INTERRUPTED)


app = typer.Typer(
    cls=Verbs,
    help="Train your own chat model as a Prefect DAG.\n\nnanochat run tiny   the whole pipeline on a laptop\n\n"
    "nanochat chat       talk to what it made",
    epilog="Exit codes. " + "\n\n".join(f"{code}: {text}" for code, text in EXIT_CODES.items()),
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _tell_version(is_asked: bool) -> None:
    if is_asked:
        from nanochat_core.store.provenance import versions

        print(f"nanochat {__version__} ({', '.join(versions())})")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_tell_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options of every verb."""


def chosen(sets: list[str] | None, depth: int | None, model: str | None = None) -> list[str]:
    """The settings that were typed, `--depth` and `--from` among them."""
    typed_in = [portable(text) for text in sets or []]
    typed_in += [f"pretrain.depth={depth}"] if depth is not None else []
    return [*typed_in, *([portable(f"base.model={model}")] if model is not None else [])]


def configured(preset: str, sets: Sequence[str]) -> RunConfig:
    """The settings of a run, with the model that it starts from looked up."""
    config = load_config(preset, sets)
    if config.base.model is None:
        return config
    from nanochat_core.pipeline.beginning import settle

    return settle(config)


SWITCHES = {"core": ("source", "url"), "benchmarks": ("source", "hub"), "rl": ("enabled", True)}


def _switches(step: "Step", plan: RunPlan) -> str:
    """The settings without which the plan has no such step, as they are typed."""
    on = {section: replace(getattr(plan.config, section), **dict([change])) for section, change in SWITCHES.items()}
    needed = []
    for section, (field, value) in SWITCHES.items():
        others = {name: config for name, config in on.items() if name != section}
        if not step.is_wanted(replace(plan, config=replace(plan.config, **others))):
            needed.append(f"--set {section}.{field}={str(value).lower()}")
    return " ".join(needed)


def check_step(name: str | None, plan: RunPlan) -> str | None:
    """The name of a step that the plan has, or ConfigError naming those."""
    from nanochat_core.pipeline.table import STEPS, wanted

    if name is None or name in wanted(plan):
        return name
    if name in STEPS:
        raise ConfigError(f"this run has no step {name}", hint=f"{_switches(STEPS[name], plan)} turns it on")
    raise ConfigError(f"there is no step {name!r}", hint=f"steps: {', '.join(wanted(plan))}")


@app.command()
def plan(
    preset: Preset = "gpt2",
    depth: Depth = None,
    sets: Sets = None,
    model: From = None,
    accept_drift: Drift = None,
    compare: Annotated[str | None, typer.Option(help="Several depths side by side, such as 12,16,20,24.")] = None,
    verify_inputs: VerifyInputs = False,
    as_json: Json = False,
) -> None:
    """What a run would do: every derived number, hours, dollars, and which steps are cached.

    nanochat plan tiny

    nanochat plan --depth 24 --set runtime.gpu=H200
    """
    if compare:
        from nanochat_core.cli.plan_compare import print_comparison

        return print_comparison(preset, chosen(sets, depth), compare, as_json=as_json)
    from nanochat_core.cli.plan_view import preview_steps, show_plan

    derived = derived_plan(
        preset, chosen(sets, depth, model), accept_drift=accept_drift, verify_inputs=verify_inputs, is_checked=False
    )
    rows = preview_steps(derived)
    answer({**summary(derived), "steps": rows}, lambda: show_plan(Page(), derived, rows), as_json=as_json)


@app.command()
def why(
    step: Annotated[str, typer.Argument(help="A step, such as pretrain.")],
    preset: Preset = "tiny",
    depth: Depth = None,
    sets: Sets = None,
    model: From = None,
    accept_drift: Drift = None,
    as_json: Json = False,
) -> None:
    """Why a step would run again: which setting, input, code or package differs from the nearest earlier artifact.

    nanochat why pretrain

    nanochat why sft tiny --set sft.epochs=2
    """
    from nanochat_core.cli.plan_view import preview_steps

    derived = derived_plan(preset, chosen(sets, depth, model), accept_drift=accept_drift, is_checked=False)
    check_step(step, derived)
    rows = preview_steps(derived, until=step)
    answer(rows[-1], lambda: _show_why(rows), as_json=as_json)


def _show_why(rows: list[dict[str, Any]]) -> None:
    *before, row = rows
    if row["state"] != "run":
        said = "" if row["state"] == "cached" else f" although: {'; '.join(row['why'])}"
        return print(f"{row['step']} is {row['state']}{said}")
    print(f"{row['step']} would run:")
    for reason in row["why"]:
        print(f"  {reason}")
    for earlier in before:
        if earlier["state"] == "run":
            print(f"  ({earlier['step']} runs first: {'; '.join(earlier['why'])})")


@app.command()
def chat(
    ref: Annotated[
        str | None, typer.Argument(help="A model: NAME or NAME@VERSION; default: the newest chat model.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="Ask this one thing and leave.")] = None,
    temperature: Annotated[float, typer.Option(help="0: always the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Sample among the k likeliest tokens.")] = 50,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 256,
    seed: Annotated[int, typer.Option(help="Same seed, same answer.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
) -> None:
    """Talk to a model.

    nanochat chat

    nanochat chat -p "What is 37 + 58?"
    """
    from nanochat_core.cli.chat import Session, open_chat, talk
    from nanochat_core.inference.sampling import Sampling

    sampling = Sampling(temperature=temperature, top_k=top_k, max_new_tokens=max_tokens, seed=seed)
    session = Session(open_chat(ref, device=device), sampling)
    if prompt is None:
        talk(session)
    else:
        session.ask(typed(prompt))


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is wrong with this machine's set-up, and the command that mends it.

    nanochat doctor

    nanochat doctor --json
    """
    from nanochat_core.cli.doctor import examine, show

    findings = examine()
    answer(findings, lambda: show(findings), as_json=as_json)
    if not all(finding.is_good for finding in findings):
        raise typer.Exit(1)


@app.command()
def node(
    preset: Preset = "gpt2",
    depth: Depth = None,
    sets: Sets = None,
    until: Annotated[str | None, typer.Option(help="Stop after this step, as the first node does.")] = None,
    wait_hours: Annotated[float, typer.Option(help="Give up when the first node is silent for so long.")] = 24.0,
) -> None:
    """Lend this machine to a training on several nodes; the first node runs `nanochat run` with the same settings.

    NANOCHAT_NODE_RANK=1 NANOCHAT_RENDEZVOUS=first:29500 nanochat node gpt2 --set runtime.num_nodes=2

    srun infra/slurm/node.sh gpt2
    """
    from nanochat_core.pipeline.node import join

    stop_on_signals()
    plan = plan_run(configured(preset, chosen(sets, depth)))
    check_step(until, plan)
    say = partial(print, file=sys.stderr, flush=True)
    join(plan, note=say, wait_s=wait_hours * 3600, until=until)


def _add_verbs() -> None:
    """The verbs that have files of their own."""
    from nanochat_core.cli import curves, data, evaluate, export, housekeeping, records, reproduce, store

    for verbs in (curves, data, evaluate, export, housekeeping, records, reproduce, store):
        verbs.register(app)
    housekeeping.register_gc(records.runs_app)


def derived_plan(
    preset: str,
    sets: list[str] | None,
    *,
    fresh: Sequence[str] | None = None,
    accept_drift: Sequence[str] | None = None,
    verify_inputs: bool = False,
    is_checked: bool = True,
) -> RunPlan:
    """The plan of a run command, with the names of its steps checked; `is_checked`: and what is to be kept is there."""
    from nanochat_core.pipeline.table import above, check_drift

    plan = plan_run(
        configured(preset, sets or ()),
        fresh=tuple(fresh or ()),
        verify_inputs=verify_inputs,
    )
    kept = [*(accept_drift or ())]
    for name in [*plan.fresh, *(name for name in kept if name != "all")]:
        check_step(name, plan)
    plan = replace(plan, accept_drift=above(kept), kept=tuple(kept))
    if is_checked:
        check_drift(plan, kept)
    return plan


_add_verbs()
