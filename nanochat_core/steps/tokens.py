"""The corpus as token shards and packed rows, and tokens of single files that other machines made.

Such a part is an artifact as well, keyed like any step (corpus, tokenizer, code), so a worker that died costs its file
only, and what is there is never made twice. The step does not depend on parts: it encodes what it does not find, and
its bytes are the same either way.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core import workspace
from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.base.neutral import identity
from nanochat_core.base.units import count
from nanochat_core.pipeline.cleaning import TEXT, text_of
from nanochat_core.pipeline.step import Check, Metrics, Ref, Step, StepRun, step_key
from nanochat_core.plan import RunPlan
from nanochat_core.steps.tokenizer import TEXTS, tokenizer
from nanochat_core.store.store import Store

if TYPE_CHECKING:
    from nanochat_core.tokenizer.tokenizer import Tokenizer

SPLITS = ("train", "validation")
SOURCES = "sources"  # of several sources each has a folder of its own below this one, with what one alone has
NUM_DOCS = 32  # documents of each end of a split that are decoded again


def settings(plan: RunPlan) -> dict[str, Any]:
    return {"sequence_len": plan.pretrain.model.sequence_len, **identity(plan.config.tokens)}


def body(run: StepRun) -> Metrics:
    from nanochat_core.data.shards import sources_of

    sources = sources_of(text_of(run.inputs) / "train")
    if not sources:
        return pack_text(run, run.out)
    of_source = {name: pack_text(run, run.out / SOURCES / name, source=name) for name in sources}
    if not any(counts["validation_rows"] for counts in of_source.values()):
        raise MissingError(
            f"no validation text of {', '.join(sources)} fills a row of {run.plan.pretrain.model.sequence_len + 1:,}",
            hint="more validation text, or a smaller pretrain.sequence_len_tokens",
        )
    totals = {key: sum(counts[key] for counts in of_source.values()) for key in of_source[sources[0]]}
    return {**totals, "sources": of_source}


def pack_text(run: StepRun, out: Path, *, source: str | None = None) -> Metrics:
    """Shards and rows of the whole text, or of one source of several: no row has two sources."""
    from nanochat_core.data.packing import pack_rows, packing_note
    from nanochat_core.data.tokenize import tokenize_split

    metrics: Metrics = {}
    row_len = run.plan.pretrain.model.sequence_len + 1
    name = f"{source} " if source else ""
    for split in SPLITS:
        shards = tokenize_split(
            text_of(run.inputs) / split,
            out / split,
            tokenizer_folder=run.inputs["tokenizer"],
            num_workers=run.plan.config.runtime.num_workers,
            progress=functools.partial(run.progress, text=f"{name}{split} text"),
            encoded=found_parts(run, split),
            source=source,
        )
        rows = pack_rows(shards, row_len=row_len, long_documents=run.plan.config.tokens.long_documents)
        rows.save(out / f"{split}.rows.npz")
        metrics |= {f"{split}_tokens": shards.num_tokens, f"{split}_rows": rows.num_rows,
                    f"{split}_kept_tokens": rows.kept_tokens, f"{split}_cropped_docs": rows.num_cropped}  # fmt: skip
        if source and split == "validation" and not rows.num_rows:
            run.note(f"{name}{split}: {shards.num_tokens:,} tokens fill no row of {row_len:,}: it has no bits per byte")
        elif told := packing_note(split, metrics, num_docs=shards.num_docs, row_len=row_len):
            run.note(f"{name}{told}")
    return metrics


def checks(run: StepRun, metrics: Metrics) -> list[Check]:
    from nanochat_core.tokenizer.tokenizer import Tokenizer

    saved = Tokenizer.load(run.inputs["tokenizer"])
    folders = {name: run.out / SOURCES / name for name in metrics.get("sources", ())} or {None: run.out}
    return [
        shards_hold_text(text_of(run.inputs) / split, folder / split, saved, source=name)
        for name, folder in folders.items()
        for split in SPLITS
    ]


def shards_hold_text(text: Path, ids: Path, encoder: "Tokenizer", *, source: str | None = None) -> Check:
    """The first and the last documents of a split are the ones that its token shards hold at these places."""
    from nanochat_core.data.shards import read_row_group, row_groups
    from nanochat_core.data.tokenize import load_shards

    groups = row_groups(text, source=source)
    shards = load_shards(ids, vocab_size=encoder.vocab_size)
    held = [pair for pair in zip(shards.tokens, shards.doc_starts, strict=True) if len(pair[0])]
    head, tail = read_row_group(*groups[0])[:NUM_DOCS], read_row_group(*groups[-1])[-NUM_DOCS:]
    wanted = {(0, number): document for number, document in enumerate(head)}  # a row group is never cut by a shard
    wanted |= {(len(held) - 1, len(held[-1][1]) - 1 - len(tail) + number): each for number, each in enumerate(tail)}
    same = 0
    for (shard, number), document in wanted.items():
        (tokens, starts) = held[shard]
        found = tokens[starts[number] : starts[number + 1]].tolist()
        same += found[:1] == [encoder.bos] and encoder.decode_bytes(found[1:]) == document.encode("utf-8")
    name = f"{source} {ids.name}" if source else ids.name
    return Check(
        "same text after decoding", f"{same:,} of {len(wanted):,} {name} documents", "all", same == len(wanted)
    )


def headline(metrics: Metrics) -> str:
    num, kept = metrics["train_tokens"], metrics.get("train_kept_tokens", metrics["train_tokens"])
    dropped = f", {1 - kept / num:.0%} dropped" if kept < 0.995 * num else ""
    return f"{count(num)} tokens in {metrics['train_rows']:,} rows{dropped}"


tokens = Step(
    name="tokens",
    description="Tokenize and pack the corpus.",
    title=lambda plan: f"text in rows of {plan.pretrain.model.sequence_len:,} tokens",
    headline=headline,
    settings=settings,
    packages=("gigatoken", "tiktoken", "numpy", "pyarrow"),
    inputs=(*TEXTS, tokenizer),
    last_of=TEXTS,
    body=body,
    checks=checks,
)


def are_parts_wanted(plan: RunPlan, inputs: Mapping[str, Ref]) -> bool:
    """Whether a cluster is to encode the text: one is named, and the tokens are not there yet."""
    if plan.config.runtime.scale_out == "none":
        return False
    key = step_key(tokens, plan, tokens.digests(inputs))
    return "tokens" in plan.fresh or workspace.current().store.find("tokens", key.fingerprint) is None


def files_of(store: Store, text: Ref) -> list[str]:
    """The shards of the text, as "train/00000.parquet"."""
    artifact = store.find(text.step, text.fingerprint)
    if artifact is None:
        raise MissingError(f"{text.short} is not in {store.url}", hint="run the pipeline again")
    return sorted(name for name in artifact.files if name.endswith(".parquet") and name.split("/")[0] in SPLITS)


def found_parts(run: StepRun, split: str) -> dict[str, Path]:
    """Folders of the parts that are in the store for the inputs of a `tokens` step, by file name."""
    store = workspace.current().store
    parts = {}
    for path in sorted((text_of(run.inputs) / split).glob("*.parquet")):
        key = step_key(part_step(f"{split}/{path.name}"), run.plan, run.digests)
        artifact = store.find("token_part", key.fingerprint)
        if artifact is not None:
            try:
                parts[path.name] = store.fetch(artifact)
            except CorruptError:
                run.note(f"the encoded {path.name} was damaged; it is encoded again")
                store.discard(artifact)
    return parts


def part_step(file: str) -> Step:
    """Of one shard of text. Its inputs are given to it where it is made: a key that names them holds all their code."""
    return Step(
        name="token_part",
        description="Encode one file.",
        title=lambda plan: file,
        headline=lambda metrics: f"{file}: {metrics['tokens']:,} tokens",
        settings=lambda plan: {"file": file},
        packages=("gigatoken", "tiktoken", "numpy", "pyarrow"),
        body=encode,
        reads=lambda settings: {name: [str(settings["file"])] for name in TEXT},
    )


def encode(run: StepRun) -> Metrics:
    from nanochat_core.data.tokenize import encode_file

    return encode_file(text_of(run.inputs) / run.settings["file"], run.out, tokenizer_folder=run.inputs["tokenizer"])
