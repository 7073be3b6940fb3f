"""Tokens of single files, made on other machines: artifacts that the `tokens` step picks up where they are.

A part is keyed like any step (corpus, tokenizer, code), so a worker that died costs its file only, and what is there
is never made twice. The `tokens` step does not depend on parts: it encodes what it does not find, and its bytes are the
same either way.
"""

from dataclasses import replace
from pathlib import Path

from nanochat_core import workspace
from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.pipeline.execute import execute
from nanochat_core.pipeline.step import Metrics, Ref, Step, StepRun, step_key
from nanochat_core.plan import RunPlan
from nanochat_core.steps.tokens import tokens
from nanochat_core.store.store import Store

SPLITS = ("train", "validation")


def are_wanted(plan: RunPlan, corpus: Ref, tokenizer: Ref) -> bool:
    """Whether a cluster is to encode the corpus: one is named, and the tokens are not there yet."""
    if plan.config.runtime.scale_out == "none":
        return False
    key = step_key(tokens, plan, {"corpus": corpus.digest, "tokenizer": tokenizer.digest})
    return "tokens" in plan.fresh or workspace.current().store.find("tokens", key.fingerprint) is None


def files_of(store: Store, corpus: Ref) -> list[str]:
    """The shards of a corpus, as "train/00000.parquet"."""
    artifact = store.find(corpus.step, corpus.fingerprint)
    if artifact is None:
        raise MissingError(f"{corpus.short} is not in {store.url}", hint="run the pipeline again")
    return sorted(name for name in artifact.files if name.endswith(".parquet") and name.split("/")[0] in SPLITS)


def make(plan: RunPlan, corpus: Ref, tokenizer: Ref, *, file: str) -> Ref:
    """Encode one shard, or find it encoded; whatever machine this runs on, the result is in the store."""
    step = replace(_step(file), inputs=tokens.inputs)  # here: a key that names them would hold all of their code
    return execute(step, plan, {"corpus": corpus, "tokenizer": tokenizer})


def found(run: StepRun, split: str) -> dict[str, Path]:
    """Folders of the parts that are in the store for the inputs of a `tokens` step, by file name."""
    store = workspace.current().store
    parts = {}
    for path in sorted((run.inputs["corpus"] / split).glob("*.parquet")):
        key = step_key(_step(f"{split}/{path.name}"), run.plan, run.digests)
        artifact = store.find("token_part", key.fingerprint)
        if artifact is not None:
            try:
                parts[path.name] = store.fetch(artifact)
            except CorruptError:
                run.note(f"the encoded {path.name} was damaged; it is encoded again")
                store.discard(artifact)
    return parts


def _step(file: str) -> Step:
    return Step(
        name="token_part",
        description="Encode one file.",
        title=lambda plan: file,
        headline=lambda metrics: f"{file}: {metrics['tokens']:,} tokens",
        settings=lambda plan: {"file": file},
        packages=("tiktoken", "numpy", "pyarrow"),
        body=encode,
        reads=lambda settings: {"corpus": [str(settings["file"])]},
    )


def encode(run: StepRun) -> Metrics:
    """The step's body."""
    from nanochat_core.data.tokenize import encode_file

    return encode_file(run.inputs["corpus"] / run.settings["file"], run.out, tokenizer_folder=run.inputs["tokenizer"])
