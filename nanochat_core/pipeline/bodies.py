"""What each step does: from verified input folders to files in `run.out` and headline numbers.

Imports are inside the functions: a run that finds everything in the store then loads neither torch nor Arrow.
"""

import functools
import json
from typing import TYPE_CHECKING, Any

from nanochat_core.pipeline import identity
from nanochat_core.pipeline.step import LOG_FOLDER, StepRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nanochat_core.data.mixture import Conversation


Metrics = dict[str, Any]


def corpus(run: StepRun) -> Metrics:
    from nanochat_core.data.corpora import build_corpus

    config = run.plan.config
    return build_corpus(
        config.corpus,
        run.out,
        downloads=run.work / "downloads",
        log=run.note,
        least_bytes=run.settings.get("least_bytes", 1),
        progress=run.progress,
        num_downloads=config.runtime.num_downloads,
    )


def tokenizer(run: StepRun) -> Metrics:
    import numpy as np

    from nanochat_core.data.shards import read_documents
    from nanochat_core.tokenizer.bpe import train_tokenizer
    from nanochat_core.tokenizer.domains import bytes_per_token

    config = run.plan.config.tokenizer
    trained = train_tokenizer(
        read_documents(run.inputs["corpus"] / "train"),
        vocab_size=config.vocab_size,
        max_train_bytes=config.max_train_bytes,
        max_doc_bytes=config.max_doc_bytes,
    )
    trained.save(run.out)
    np.save(run.out / "token_bytes.npy", trained.token_bytes())
    domains = bytes_per_token(trained, read_documents(run.inputs["corpus"] / "validation"))
    (run.out / "domains.json").write_text(json.dumps(domains, indent=1))
    return {"vocab_size": trained.vocab_size, "bytes_per_token": domains["validation text"]}


def tokens(run: StepRun) -> Metrics:
    from nanochat_core.data.packing import pack_rows, packing_note
    from nanochat_core.data.tokenize import tokenize_split
    from nanochat_core.pipeline import token_parts

    metrics: Metrics = {}
    row_len = run.plan.pretrain.model.sequence_len + 1
    for split in ("train", "validation"):
        shards = tokenize_split(
            run.inputs["corpus"] / split,
            run.out / split,
            tokenizer_folder=run.inputs["tokenizer"],
            num_workers=run.plan.config.runtime.num_workers,
            progress=functools.partial(run.progress, text=f"{split} text"),
            encoded=token_parts.found(run, split),
        )
        rows = pack_rows(shards, row_len=row_len, long_documents=run.plan.config.tokens.long_documents)
        rows.save(run.out / f"{split}.rows.npz")
        metrics |= {f"{split}_tokens": shards.num_tokens, f"{split}_rows": rows.num_rows,
                    f"{split}_kept_tokens": rows.kept_tokens, f"{split}_cropped_docs": rows.num_cropped}  # fmt: skip
        if told := packing_note(split, metrics, num_docs=shards.num_docs, row_len=row_len):
            run.note(told)
    return metrics


def conversations(run: StepRun) -> Metrics:
    import numpy as np

    from nanochat_core.data.conversations import pack_conversations
    from nanochat_core.evals.items import write_questions
    from nanochat_core.pipeline.mixture import load_mixture
    from nanochat_core.tokenizer.tokenizer import Tokenizer

    encoder = Tokenizer.load(run.inputs["tokenizer"])
    mixture = load_mixture(run.plan, scratch=run.attempt)
    for note in mixture.notes:
        run.note(note)
    train, num_left_out = _without_benchmark_items(run, mixture.train)
    row_len = identity.sft_sequence_len(run.plan) + 1
    counts = {}
    for split, chosen in (("train", train), ("validation", mixture.validation)):
        ids, mask, counts[split] = pack_conversations(
            encoder,
            chosen,
            row_len=row_len,
            progress=lambda done: run.progress(done, len(train), "conversations"),
        )
        np.save(run.out / f"{split}.ids.npy", ids)
        np.save(run.out / f"{split}.mask.npy", mask)
    (run.out / "counts.json").write_text(json.dumps(counts, indent=1))
    write_questions(run.out / "questions.jsonl", mixture.questions)
    return {"conversations": counts["train"]["conversations"], "rows": counts["train"]["rows"],
            "targets": counts["train"]["targets"], "questions": len(mixture.questions),
            "validation_conversations": counts["validation"]["conversations"], "notes": mixture.notes,
            "left_out_as_benchmark_items": num_left_out}  # fmt: skip


def _without_benchmark_items(run: StepRun, train: "Sequence[Conversation]") -> "tuple[Sequence[Conversation], int]":
    """The conversations that hold no item of the run's benchmarks, and how many did; the report is kept in the log."""
    if "benchmarks" not in run.inputs:
        return train, 0
    import numpy as np

    from nanochat_core.data.mixture import Subset
    from nanochat_core.evals.benchmarks.contamination import find_contamination
    from nanochat_core.evals.benchmarks.protocol import EVERY_NAME, read_item_file

    run.progress(0, 1, "looking for benchmark items among the conversations")
    found = find_contamination(read_item_file(run.inputs["benchmarks"] / EVERY_NAME), train)
    (run.out / LOG_FOLDER).mkdir()
    (run.out / LOG_FOLDER / "contamination.json").write_text(json.dumps(found.report, indent=1))
    if found.conversations:
        run.note(f"{len(found.conversations):,} conversations hold benchmark items and are left out")
    return Subset(train, np.setdiff1d(np.arange(len(train)), found.conversations)), len(found.conversations)


def report(run: StepRun) -> Metrics:
    from nanochat_core.report.figures import draw_figures

    return draw_figures(run.inputs, run.out)
