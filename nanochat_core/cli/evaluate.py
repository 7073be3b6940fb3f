"""`nanochat eval`: measure one model on CORE and the chat benchmarks, with the pipeline's own steps.

So what was measured before is found in the store, and what is measured here is found by a run that needs it. The data
come from the hub, or from a folder on this machine. Somebody else's model (hf:...) has a tokenizer of its own and is no
artifact of the store: nothing of it is cached, and the answers are written into a folder.
"""

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from nanochat_core import observe, workspace
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.cli.display import display
from nanochat_core.cli.output import Json, Page, answer, table
from nanochat_core.pipeline.execute import execute
from nanochat_core.pipeline.models import StoredModel, find_model
from nanochat_core.pipeline.step import Ref
from nanochat_core.pipeline.table import STEPS
from nanochat_core.pipeline.training import run_seed
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.store.store import Store

CORE = "core"
CORE_FILE = "core.yaml"
CHAT_FOLDERS = ("mmlu", "arc", "gsm8k", "humaneval")
PREFIX = "hf:"
STEP = "evaluate_core"


def evaluate(
    ref: Annotated[
        str, typer.Argument(help="A model: NAME or NAME@VERSION, such as tiny-base; hf:NAME or hf:FOLDER for others'.")
    ],
    benchmarks: Annotated[
        str | None, typer.Option(help="core, mmlu, arc_easy, ..., separated by commas; default: all.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="Folder with the data (core_eval/, chat_eval/); default: download.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many items of each benchmark; the result says so.")] = None,
    samples: Annotated[int, typer.Option(help="Answers per generative item, for pass@k.")] = 1,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Change a setting: section.field=value.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Measure again although the result is in the store.")] = False,
    unsafe: Annotated[
        bool, typer.Option("--unsafe", help="Run generated code also where there is no sandbox without a network.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure a model: CORE (22 benchmarks, DCLM), MMLU, ARC, GSM8K, HumanEval, spelling.

    nanochat eval tiny-base --benchmarks core --data ../data --limit 100

    nanochat eval tiny-chat --benchmarks gsm8k,humaneval --samples 4 --json

    nanochat eval hf:openai-community/gpt2-xl --benchmarks core
    """
    names = [name.strip() for name in (benchmarks or "").split(",") if name.strip()]
    names = names or ([CORE] if is_other(ref) else [])
    overrides = _overrides(names, data, limit=limit, samples=samples, unsafe=unsafe)
    plan = plan_run(load_config("tiny", [*overrides, *(sets or [])]))
    if is_other(ref):
        _tell_other(ref, plan, as_json=as_json)
        return
    model = find_model(workspace.current().store, ref)
    own = _made_with(model)  # so that what its run has measured is found
    plan = plan_run(load_config("tiny", [*overrides, *own, *(sets or [])]))
    steps = _steps(plan, model, is_named=bool(names))
    if fresh:
        plan = plan_run(plan.config, fresh=tuple(steps))
    with display({name: STEPS[name].title(plan) for name in steps}) as watching:
        observe.use(watching)
        refs = measure_model(plan, model, steps)
    answer(_record(model, refs), lambda: show(Page(), model, refs), as_json=as_json)


def _made_with(model: StoredModel) -> list[str]:
    """Seed and compute type of the run that made the model."""
    artifact = model.artifact
    return [f"seed={run_seed(artifact.step, artifact.config)}", f"pretrain.dtype={artifact.config['dtype']}"]


def _tell_other(ref: str, plan: RunPlan, *, as_json: bool) -> None:
    metrics = measure_other(ref, plan)

    def show_other() -> None:
        _show_scores(Page(), metrics)
        print(f"{ref}  {STEPS['evaluate_core'].headline(metrics)}  {metrics['folder']}")

    answer({"model": ref, "results": {"evaluate_core": metrics}}, show_other, as_json=as_json)


def _overrides(names: list[str], data: Path | None, *, limit: int | None, samples: int, unsafe: bool) -> list[str]:
    """The settings that these options mean."""
    chat = [name for name in names if name != CORE]
    chosen = []
    if not names or CORE in names:
        chosen += _source("core", "url", _core_folder(data) if data else None, data=data, is_named=CORE in names)
    if not names or chat:
        chosen += _source("benchmarks", "hub", _chat_folder(data) if data else None, data=data, is_named=bool(chat))
    if chat:
        chosen.append(f"benchmarks.names={','.join(chat)}")
    if limit is not None:
        chosen += [f"core.max_per_benchmark={limit}", f"benchmarks.max_per_benchmark={limit}"]
    return [*chosen, f"benchmarks.num_samples={samples}", f"runtime.allow_unsafe_code={str(unsafe).lower()}"]


def _source(section: str, remote: str, found: Path | None, *, data: Path | None, is_named: bool) -> list[str]:
    if found is not None:
        return [f"{section}.source=path", f"{section}.path={found}"]
    if data is None:
        return [f"{section}.source={remote}"]
    if is_named:
        what = CORE_FILE if section == "core" else " or ".join(CHAT_FOLDERS)
        raise MissingError(f"{data} has no {what}", hint="docs/evaluation.md says how the folder is laid out")
    return []


def _core_folder(data: Path) -> Path | None:
    places = (data, data / "core_eval", data / "eval_bundle")
    return next((place for place in places if (place / CORE_FILE).is_file()), None)


def _chat_folder(data: Path) -> Path | None:
    places = (data, data / "chat_eval")
    return next((place for place in places if any((place / name).is_dir() for name in CHAT_FOLDERS)), None)


def _steps(plan: RunPlan, model: StoredModel, *, is_named: bool) -> list[str]:
    """The steps of this measurement. A base model is asked to write only when a benchmark was named."""
    steps = ["core_bundle", "core_prompts", "evaluate_core"] if plan.has_core else []
    if plan.has_benchmarks:
        asked = {"sft": "benchmark_chat", "rl": "benchmark_rl"}.get(model.artifact.step)
        steps += ["benchmarks", asked or ("benchmark_chat" if is_named else "benchmark_base")]
    if not steps:
        raise ConfigError("there is nothing to measure", hint="name --benchmarks, or a --data folder that has some")
    return steps


def measure_model(plan: RunPlan, model: StoredModel, steps: list[str]) -> dict[str, Ref]:
    """Run the steps on `model`; refs by step. A step's model input is this model, whichever step made it."""
    refs = {"tokenizer": model.tokenizer_ref, "pretrain": model.ref, "sft": model.ref, "rl": model.ref}
    for name in steps:
        refs[name] = execute(STEPS[name], plan, {source: refs[source] for source in STEPS[name].sources})
    return refs


def was_checked(store: Store, model: StoredModel) -> bool | None:
    """Whether a chat model's conversations were searched for benchmark items; None for a base model."""
    tuned = model.artifact.inputs.get("sft")  # where it practised after fine-tuning
    trained = next((a for a in store.artifacts("sft") if a.result_digest == tuned), model.artifact)
    digest = trained.inputs.get("conversations")
    if digest is None:
        return None
    found = (a for a in store.artifacts("conversations") if a.result_digest == digest)
    return any("benchmarks" in artifact.inputs for artifact in found)


def _measured(refs: dict[str, Ref]) -> list[Ref]:
    measured = ("evaluate_core", "benchmark_base", "benchmark_chat", "benchmark_rl")
    return [refs[name] for name in measured if name in refs]


def _record(model: StoredModel, refs: dict[str, Ref]) -> dict[str, Any]:
    results = {ref.step: {"artifact": ref.short, "is_cached": ref.is_cached, **ref.metrics} for ref in _measured(refs)}
    checked = was_checked(workspace.current().store, model)
    return {
        "model": model.name,
        "training_was_checked_for_items": checked,
        "artifact": model.ref.short,
        "digest": model.ref.digest,
        "results": results,
    }


def show(console: Console, model: StoredModel, refs: dict[str, Ref]) -> None:
    """The results as tables, the summary line of each under it."""
    for ref in _measured(refs):
        _show_scores(console, ref.metrics)
        if ref.step in ("benchmark_chat", "benchmark_rl") and was_checked(workspace.current().store, model) is False:
            console.print("[yellow]its fine-tuning conversations were not searched for these items")
        console.print(f"[bold]{model.name}[/bold]  {STEPS[ref.step].headline(ref.metrics)}  [dim]{ref.short}[/dim]")
        console.print()


def _show_scores(console: Console, metrics: dict[str, Any]) -> None:
    scores = table("benchmark", "right", "", wraps=("",), right=("right", ""))
    for name, score in metrics["benchmarks"].items():
        scores.add_row(name, f"{score['accuracy']:.1%}", _note(score))
    console.print(scores)


def _note(score: dict[str, Any]) -> str:
    if "centered" in score:
        return f"centered {score['centered']:+.3f}"
    low, high = score["interval_95"]
    said = [f"{100 * low:.1f} to {100 * high:.1f}% of {score['num_asked']:,}"]
    said += [f"pass@{k} {value:.1%}" for k, value in (score["pass_at_k"] or {}).items() if k != "1"]
    said += [f"{score['num_too_long']:,} too long for the context"] if score["num_too_long"] else []
    return ", ".join([*said, "limited"] if score["is_limited"] else said)


def is_other(ref: str) -> bool:
    """Whether a model's name means one of the Hugging Face hub or a folder in `transformers`' layout."""
    return ref.startswith(PREFIX)


def measure_other(ref: str, plan: RunPlan) -> dict[str, Any]:
    """CORE of the model as the headline numbers of `evaluate_core`, with the folder that holds every answer."""
    from nanochat_core.evals.core.bundle_source import bundle_of_config
    from nanochat_core.evals.core.huggingface import measure_huggingface
    from nanochat_core.evals.core.results import headline, write_results

    if not plan.has_core or plan.has_benchmarks:
        raise ConfigError(f"{ref} can be measured on CORE only", hint="--benchmarks core")
    name, config = ref.removeprefix(PREFIX), plan.config
    limit = config.core.max_per_benchmark
    folder = name.strip("/").replace("/", "--") + (f"-limit-{limit}" if limit else "")
    out = workspace.current().home / "evals" / folder
    with tempfile.TemporaryDirectory() as scratch, display({STEP: f"CORE of {name}"}) as watching:
        watching.step_started(STEP, f"CORE of {name}")
        measured = measure_huggingface(
            name,
            bundle_of_config(config.core, out.parent / "bundle"),
            Path(scratch),
            max_per_benchmark=config.core.max_per_benchmark,
            progress=lambda done, total, text: watching.step_progress(STEP, done, total, text),
            device=config.runtime.device,
            dtype=config.pretrain.dtype,
            batch_tokens=config.runtime.eval_batch_tokens,
        )
    write_results(out, measured.summary, measured.outcomes)
    return {**headline(measured.summary), "folder": str(out)}


def register(app: typer.Typer) -> None:
    """Add the verb to the command line."""
    app.command("eval")(evaluate)
