"""Evaluation of one model in a process of its own: `python -m nanochat_core.evals.worker plan.json`.

Writes bpb.json, samples.json and, where there are questions, outcomes.jsonl with every single item, so that each score
can be checked later.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanochat_core.base.hardware import pick_dtype
from nanochat_core.data.loader import SeveralSources, open_text
from nanochat_core.evals import samples
from nanochat_core.evals.bpb import bits_per_byte, by_source, together
from nanochat_core.evals.items import read_questions
from nanochat_core.evals.process import Rank, run_ranks
from nanochat_core.evals.questions import ask, scores
from nanochat_core.inference.engine import Engine
from nanochat_core.model.probe import own_forward
from nanochat_core.model.weights import load_model
from nanochat_core.tokenizer.tokenizer import Tokenizer

TELLING_SAMPLE = 1  # of each list in samples.py: the one that goes into headlines


@dataclass(frozen=True, kw_only=True)
class EvalJob:
    """What to evaluate; plan.json holds it."""

    model: str
    tokenizer: str
    tokens: str
    questions: str | None
    """A folder with questions.jsonl; None: a base model, which answers none."""
    is_chat: bool
    bpb_tokens: int
    sample_tokens: int
    dtype: str
    batch_tokens: int
    document_mask: bool
    out: str


def evaluate(plan: dict[str, Any], rank: Rank) -> dict[str, Any]:
    """Everything the job asks for; returns the headline numbers. All ranks share the bits per byte, the first one
    does the few answers alone."""
    job = EvalJob(**{field: plan[field] for field in EvalJob.__dataclass_fields__})
    model = load_model(Path(job.model)).to(rank.device)
    model.compute_dtype = pick_dtype(job.dtype, rank.device)
    tokenizer = Tokenizer.load(Path(job.tokenizer))
    out = Path(job.out)
    source = open_text(Path(job.tokens), "validation", vocab_size=tokenizer.vocab_size)
    token_bytes = torch.from_numpy(np.load(Path(job.tokenizer) / "token_bytes.npy")).to(rank.device)
    num_rows = min(source.num_rows, math.ceil(job.bpb_tokens / model.config.sequence_len))
    rank.progress(0, 1, f"bits per byte on {num_rows} rows")
    batch_rows = max(1, job.batch_tokens // model.config.sequence_len)
    bos = tokenizer.bos if job.document_mask else None
    told: dict[str, Any] = {"num_rows": num_rows, "batch_rows": batch_rows, "world": rank.world, "bos": bos}
    parts = by_source(model, source, token_bytes, **told) if isinstance(source, SeveralSources) else {}
    bpb = together([*parts.values()]) if parts else bits_per_byte(model, source, token_bytes, **told)
    if not rank.world.is_main:
        return {}
    if parts:
        of_source = {name: asdict(part) for name, part in parts.items()}
        (out / "sources.json").write_text(json.dumps(of_source, indent=1))
    (out / "bpb.json").write_text(json.dumps(asdict(bpb), indent=1))
    engine = Engine(model, tokenizer)
    rank.progress(0, 1, "samples")
    if job.is_chat:
        shown = samples.conversations(engine, num_tokens=job.sample_tokens)
    else:
        shown = samples.continuations(engine, num_tokens=job.sample_tokens, temperature=0.0)
        shown += samples.continuations(engine, num_tokens=job.sample_tokens, temperature=0.8)
    (out / "samples.json").write_text(json.dumps([sample.record() for sample in shown], indent=1))
    headline = shown[TELLING_SAMPLE].record()
    result: dict[str, Any] = {"bits_per_byte": bpb.bits_per_byte, "sample": headline}
    if parts:
        result["sources"] = {name: part.bits_per_byte for name, part in parts.items()}
    result |= own_forward(engine.why_plain)
    if job.questions:
        result["benchmarks"] = _questions(job, engine, rank, out)
    return result


def _questions(job: EvalJob, engine: Engine, rank: Rank, out: Path) -> dict[str, Any]:
    questions = read_questions(Path(job.questions or "") / "questions.jsonl")
    outcomes = ask(engine, questions, lambda done, total: rank.progress(done, total, "held-out questions"))
    (out / "outcomes.jsonl").write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))
    return scores(outcomes)


if __name__ == "__main__":
    run_ranks(evaluate)
