"""Packed conversations to fine-tune on, without benchmark items, and questions held out from them."""

import json
from typing import TYPE_CHECKING, Any

from nanochat_core.base.fingerprint import package_versions
from nanochat_core.base.neutral import identity
from nanochat_core.data.documentation import PACKAGES
from nanochat_core.data.licences import talk_terms
from nanochat_core.pipeline.data_files import local_folder, stamps, texts
from nanochat_core.pipeline.step import LOG_FOLDER, Metrics, Step, StepRun
from nanochat_core.plan import RunPlan
from nanochat_core.steps.benchmarks import benchmarks
from nanochat_core.steps.tokenizer import tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nanochat_core.data.files import Found
    from nanochat_core.data.mixture import Conversation

PLACES = "{split}.places.parquet"
MIXED = ("mmlu_repeats", "gsm8k_repeats", "num_letter_counts", "num_spellings")


def sequence_len(plan: RunPlan) -> int:
    """Tokens of a row of conversations."""
    return plan.config.sft.sequence_len_tokens or plan.pretrain.model.sequence_len


def settings(plan: RunPlan) -> dict[str, Any]:
    """What the mix is made of, not how it is learnt."""
    sft = plan.config.sft
    chosen: dict[str, Any] = {"source": sft.source, "sequence_len": sequence_len(plan), "seed": plan.config.seed}
    if sft.source == "builtin":
        counts = ("num_documentation", "num_arithmetic", "num_spelling", "num_identity")
        chosen |= {name: getattr(sft, name) for name in counts}
        documented = package_versions(PACKAGES)
        chosen |= {"documented": documented, "num_questions": plan.config.evaluate.num_questions}
        return chosen
    if sft.source == "path":
        from nanochat_core.data.asked import asked
        from nanochat_core.data.conversations import select

        chosen["files"] = _talks(select(sft.path, asked=asked(sft.form, sft.columns)))
        said = identity(sft)
        chosen |= {name: said[name] for name in ("form", "columns") if name in said}
    else:
        chosen |= {"smoltalk": sft.smoltalk, "num_smoltalk": sft.num_smoltalk}
        chosen["files"] = stamps(sft.smoltalk) if local_folder(sft.smoltalk) else []
    return {**chosen, **_mixed_in(plan)}


def _mixed_in(plan: RunPlan) -> dict[str, Any]:
    """What is added to conversations: from the benchmarks' training questions, generated, or a file of the user's."""
    sft, source = plan.config.sft, plan.config.benchmarks
    chosen: dict[str, Any] = {name: getattr(sft, name) for name in MIXED} | {"identity": []}
    if sft.identity_path:
        from nanochat_core.data.conversations import select

        chosen["identity"] = _talks(select(sft.identity_path, setting="sft.identity_path"))
    if not any(getattr(sft, name) for name in MIXED):
        return chosen
    files = stamps(source.path) if source.source == "path" else []
    return {**chosen, "added_from": source.source, "added_files": files, "documented": package_versions(PACKAGES)}


def _talks(found: "Found") -> list[list[str]]:
    """Files of conversations, and which of them are held out."""
    from nanochat_core.data.files import held_out

    chosen = held_out(found.names)
    return texts(found, ["held out" if name in chosen else "" for name in found.names])


def body(run: StepRun) -> Metrics:
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
    row_len = sequence_len(run.plan) + 1
    counts = {}
    (run.out / LOG_FOLDER).mkdir(exist_ok=True)
    for split, chosen in (("train", train), ("validation", mixture.validation)):
        ids, mask, counts[split] = pack_conversations(
            encoder,
            chosen,
            row_len=row_len,
            progress=lambda done: run.progress(done, len(train), "conversations"),
            places=run.out / LOG_FOLDER / PLACES.format(split=split),  # a log: what files are called decides nothing
        )
        if counts[split]["cut"]:
            run.note(
                f"{split}: {counts[split]['cut']:,} conversations are longer than a row of {row_len - 1:,} tokens and"
                " are learnt in pieces, of which none sees those before it"
            )
        np.save(run.out / f"{split}.ids.npy", ids)
        np.save(run.out / f"{split}.mask.npy", mask)
    (run.out / "counts.json").write_text(json.dumps(counts, indent=1))
    write_questions(run.out / "questions.jsonl", mixture.questions)
    said = talk_terms(run.plan.config.sft)
    return {"licence": said.licence, "origin": said.origin,
            "conversations": counts["train"]["conversations"], "rows": counts["train"]["rows"],
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


def title(plan: RunPlan) -> str:
    sft = plan.config.sft
    return {"builtin": "built-in mix", "path": str(sft.path), "mix": sft.smoltalk}[sft.source]


def notes(plan: RunPlan) -> list[str]:
    """What of the named files is left out, and on what terms they are."""
    sft = plan.config.sft
    if sft.source == "builtin":
        return []
    from nanochat_core.data.asked import asked
    from nanochat_core.data.conversations import notes_of

    mine = notes_of(sft.path, asked=asked(sft.form, sft.columns)) if sft.source == "path" else []
    terms = talk_terms(sft).note("conversations", "sft.licence")
    return [*mine, terms, *notes_of(sft.identity_path, setting="sft.identity_path")]


conversations = Step(
    name="conversations",
    description="Make or read the conversations to fine-tune on.",
    title=title,
    headline=lambda metrics: f"{metrics['conversations']:,} conversations in {metrics['rows']:,} rows",
    settings=settings,
    packages=("tiktoken", "numpy", "pyarrow", "datasets"),
    inputs=(tokenizer, benchmarks),
    body=body,
    notes=notes,
)
