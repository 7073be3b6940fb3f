"""Text as parquet shards, training and validation apart: from files, from the hub, or what is installed here."""

from pathlib import Path
from typing import Any

from nanochat_core.base.fingerprint import package_versions
from nanochat_core.base.neutral import identity
from nanochat_core.base.units import count
from nanochat_core.data.documentation import PACKAGES
from nanochat_core.data.licences import corpus_terms
from nanochat_core.pipeline.data_files import local_folder, stamps, texts
from nanochat_core.pipeline.step import Check, Metrics, Step, StepRun
from nanochat_core.plan import RunPlan

LEAK_GROUPS = 200  # row groups of training text that are looked at, spread evenly: all of a small corpus


def settings(plan: RunPlan) -> dict[str, Any]:
    """The embedded corpus is what is installed, so the versions of what it reads are part of it."""
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


def body(run: StepRun) -> Metrics:
    from nanochat_core.data.corpora import build_corpus

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
    config = plan.config.corpus
    named = {"embedded": "documentation of this environment", "path": config.path, "hub": config.dataset}
    return named[config.source] or ""


def headline(metrics: Metrics) -> str:
    text = f"{count(metrics['train_docs'])} documents, {count(metrics['train_bytes'])}B of text"
    num = len(metrics.get("left_out", []))
    return f"{text}; {num:,} file{'s' if num > 1 else ''} left out" if num else text


def notes(plan: RunPlan) -> list[str]:
    """What of a named folder is left out, and on what terms the text is."""
    from nanochat_core.data.corpora import notes_of

    config = plan.config.corpus
    told = [] if config.source == "embedded" else [corpus_terms(config).note("text", "corpus.licence")]
    return [*notes_of(config), *told]


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
)
