"""Text as parquet shards, training and validation apart: from files, from the hub, or what is installed here.

Of several sources each is an artifact of this step by itself, the same that a run with it alone has; here they are put
together. Weights are no part of it: they decide what is drawn, and only pretraining has them in its key.
"""

from pathlib import Path
from typing import Any

from nanochat_core import mixing
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.fingerprint import package_versions
from nanochat_core.base.neutral import identity
from nanochat_core.base.units import count
from nanochat_core.data.documentation import PACKAGES
from nanochat_core.data.files import listing
from nanochat_core.data.licences import corpus_terms
from nanochat_core.pipeline.data_files import local_folder, stamps, texts
from nanochat_core.pipeline.step import Check, Metrics, Step, StepRun
from nanochat_core.plan import RunPlan

COUNTS = ("train_docs", "train_bytes", "validation_docs", "validation_bytes", "empty_docs", "repeated_docs")
LEAK_GROUPS = 200  # row groups of training text that are looked at, spread evenly: all of a small corpus


def settings(plan: RunPlan) -> dict[str, Any]:
    """The embedded corpus is what is installed, so the versions of what it reads are part of it."""
    if plan.is_mix:
        return {"sources": {name: of_source(name, alone) for name, alone in plan.sources.items()}}
    config = identity(plan.config.corpus)
    del config["mirrors"]  # where the same bytes come from
    for name in ("licence", "origin"):  # what is said of them
        config.pop(name, None)
    if plan.config.corpus.source == "embedded":
        chosen = {name: config[name] for name in ("source", "max_bytes", "validation_docs")}
        return {**chosen, "documented": package_versions(PACKAGES)}
    if plan.config.corpus.source == "hub" and (folder := local_folder(plan.config.corpus.dataset)):
        config["files"] = stamps(str(folder))
    if plan.config.corpus.source == "path":
        from nanochat_core.data.corpora import least_validation_bytes, select
        from nanochat_core.data.splits import roles

        del config["path"]  # where the files are
        found = select(plan.config.corpus)
        config["files"] = texts(found, roles(found.names))
        config["least_bytes"] = least_validation_bytes(found, sequence_len=plan.pretrain.model.sequence_len)
    return config


def of_source(name: str, alone: RunPlan) -> dict[str, Any]:
    """The settings of one source of several; errors say which it is."""
    try:
        return settings(alone)
    except NanochatError as error:
        raise type(error)(f"corpus.sources.{name}: {error.message}", hint=error.hint) from error


def body(run: StepRun) -> Metrics:
    from nanochat_core.data.corpora import build_corpus

    if run.plan.is_mix:
        return joined(run)
    config = run.plan.config
    said = corpus_terms(config.corpus)
    made = build_corpus(
        config.corpus,
        run.out,
        downloads=run.work / "downloads",
        log=run.note,
        least_bytes=run.settings.get("least_bytes", 1),
        progress=run.progress,
        num_downloads=config.runtime.num_downloads,
    )
    return {**made, "licence": said.licence, "origin": said.origin}


def joined(run: StepRun) -> Metrics:
    """Put the sources together; returns their counts, and all of each under `sources`."""
    from nanochat_core.data.joined import join

    counts = {name: dict(run.parts[name].metrics) for name in run.inputs}
    lost = join(run.inputs, run.out)
    for name, (docs, num_bytes) in lost.items():
        if docs:
            run.note(f"{name}: {docs:,} documents for training that another source holds out for validation, left out")
        metrics = counts[name]
        metrics["train_docs"] -= docs
        metrics["train_bytes"] -= num_bytes
        metrics["held_out_by_others"] = docs
        held = f"{metrics['validation_docs']:,} held out for validation ({metrics['validation_is']})"
        run.note(f"{name}: {metrics['train_docs']:,} documents to train on, {held}")
    totals = {key: sum(each[key] for each in counts.values()) for key in COUNTS}
    told = {key: "; ".join(f"{name}: {each[key]}" for name, each in counts.items()) for key in ("licence", "origin")}
    left_out = [f"{name}: {each}" for name, metrics in counts.items() for each in metrics.get("left_out", [])]
    return {**totals, **told, "left_out": left_out, "sources": counts}


def checks(run: StepRun, metrics: Metrics) -> list[Check]:
    return [no_leak(run.out / "train", run.out / "validation")]


def no_leak(train: Path, validation: Path) -> Check:
    """No document of the validation set is among the training documents that are looked at."""
    from nanochat_core.data.shards import document_key, read_documents, read_row_group, row_groups

    held_out = {document_key(text) for text in read_documents(validation)}
    groups = row_groups(train)
    step = max(1, -(-len(groups) // LEAK_GROUPS))
    keys = [document_key(text) for group in groups[::step] for text in read_row_group(*group)]
    leaked = sum(key in held_out for key in keys)
    seen = f"{leaked:,} of {len(keys):,} documents" + (f" (one row group in {step})" if step > 1 else "")
    return Check("no validation text in training", seen, "0", leaked == 0)


def title(plan: RunPlan) -> str:
    if plan.is_mix:
        return f"{len(plan.sources)} sources: {mixing.told(plan.phases)}"
    config = plan.config.corpus
    named = {"embedded": "documentation of this environment", "path": config.path, "hub": config.dataset}
    return named[config.source] or ""


def headline(metrics: Metrics) -> str:
    text = f"{count(metrics['train_docs'])} documents, {count(metrics['train_bytes'])}B of text"
    if sources := metrics.get("sources"):
        text += f" of {len(sources)} sources"
    num = len(metrics.get("left_out", []))
    return f"{text}; {num:,} file{'s' if num > 1 else ''} left out" if num else text


def notes(plan: RunPlan) -> list[str]:
    """What of a named folder is left out, and on what terms the text is."""
    if plan.is_mix:
        return mix_notes(plan)
    config = plan.config.corpus
    if config.source == "embedded":
        return []
    from nanochat_core.data.corpora import notes_of

    return [*notes_of(config), corpus_terms(config).note("text", "corpus.licence")]


def mix_notes(plan: RunPlan) -> list[str]:
    """What is taken of each source, and what each is told of its own."""
    told = [f"{name} weighs 0 and is left out, of the vocabulary as well" for name in mixing.left_out(plan.config)]
    if unused := mixing.unused_text(plan.config):
        told.append(
            f"{unused} is no source of this mix; --set corpus.sources.NAME.weight=1, and no place, makes it one"
        )
    told.append(f"shares of the tokens: {mixing.told(plan.phases)}")
    if again := files_in_several(plan):
        told.append(again)
    of_one = [(name, note) for name, alone in plan.sources.items() for note in notes(alone)]
    return [
        *told,
        *(f"{name}: {note.replace('--set corpus.', f'--set corpus.sources.{name}.')}" for name, note in of_one),
    ]


def files_in_several(plan: RunPlan) -> str | None:
    """The files that more than one source has: their text weighs with each of them."""
    from nanochat_core.data.corpora import select

    owners: dict[Path, list[str]] = {}
    for name, alone in plan.sources.items():
        if alone.config.corpus.source == "path":
            for file in select(alone.config.corpus).files:
                owners.setdefault(file.resolve(), []).append(name)
    twice = {file: names for file, names in owners.items() if len(names) > 1}
    told = [f"{file.name} ({' and '.join(names)})" for file, names in twice.items()]
    return f"in several sources, so that its text weighs with each: {listing(told)}" if told else None


corpus = Step(
    name="corpus",
    description="Fetch or collect the text.",
    title=title,
    headline=headline,
    settings=settings,
    packages=("pyarrow", "datasets"),
    body=body,
    checks=checks,
    notes=notes,
    parts=lambda plan: plan.sources,
)
