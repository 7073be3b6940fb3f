"""Evaluation of one model in a process of its own: `python -m nanochat_core.evals.worker plan.json`.

Writes bpb.json, samples.json and, where there are questions, outcomes.jsonl with every single item, so that each score
can be checked later.
"""

import json
import math
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanochat_core.base.errors import NanochatError
from nanochat_core.base.hardware import num_threads, pick_device, pick_dtype
from nanochat_core.base.process import die_with_parent
from nanochat_core.base.records import RECORDS_NAME, RecordWriter, failure, write_result
from nanochat_core.data.loader import PackedDocuments
from nanochat_core.evals import samples
from nanochat_core.evals.bpb import bits_per_byte
from nanochat_core.evals.items import read_questions
from nanochat_core.evals.questions import ask, scores
from nanochat_core.inference.engine import Engine
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
    device: str
    batch_rows: int
    num_threads: int | None
    work: str
    out: str


def main() -> None:
    die_with_parent()
    job = EvalJob(**json.loads(Path(sys.argv[1]).read_text()))
    try:
        result, code = evaluate(job), 0
    except NanochatError as error:
        result, code = failure(error), 2
    except Exception as error:
        traceback.print_exc()
        result, code = {"status": "crashed", "message": f"{type(error).__name__}: {error}"}, 1
    write_result(Path(job.work), result)
    sys.exit(code)


def evaluate(job: EvalJob) -> dict[str, Any]:
    """Everything the job asks for; returns the headline numbers."""
    torch.set_num_threads(num_threads(job.num_threads, num_processes=1))
    device = pick_device(job.device)
    model = load_model(Path(job.model)).to(device)
    model.compute_dtype = pick_dtype(job.dtype, device)
    tokenizer = Tokenizer.load(Path(job.tokenizer))
    records = RecordWriter(Path(job.work) / RECORDS_NAME)
    out = Path(job.out)
    source = PackedDocuments(Path(job.tokens), "validation", vocab_size=tokenizer.vocab_size)
    token_bytes = torch.from_numpy(np.load(Path(job.tokenizer) / "token_bytes.npy")).to(device)
    num_rows = min(source.num_rows, math.ceil(job.bpb_tokens / model.config.sequence_len))
    records.write("progress", done=0, total=1, text=f"bits per byte on {num_rows} rows")
    bpb = bits_per_byte(model, source, token_bytes, num_rows=num_rows, batch_rows=job.batch_rows)
    (out / "bpb.json").write_text(json.dumps(asdict(bpb), indent=1))
    engine = Engine(model, tokenizer)
    records.write("progress", done=0, total=1, text="samples")
    if job.is_chat:
        shown = samples.conversations(engine, num_tokens=job.sample_tokens)
    else:
        shown = samples.continuations(engine, num_tokens=job.sample_tokens, temperature=0.0)
        shown += samples.continuations(engine, num_tokens=job.sample_tokens, temperature=0.8)
    (out / "samples.json").write_text(json.dumps([sample.record() for sample in shown], indent=1))
    headline = shown[TELLING_SAMPLE].record()
    result: dict[str, Any] = {"status": "completed", "bits_per_byte": bpb.bits_per_byte, "sample": headline}
    if job.questions:
        result["benchmarks"] = _questions(job, engine, records, out)
    return result


def _questions(job: EvalJob, engine: Engine, records: RecordWriter, out: Path) -> dict[str, Any]:
    questions = read_questions(Path(job.questions or "") / "questions.jsonl")

    def progress(done: int, total: int) -> None:
        records.write("progress", done=done, total=total, text="held-out questions")

    outcomes = ask(engine, questions, progress)
    (out / "outcomes.jsonl").write_text("".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))
    return scores(outcomes)


if __name__ == "__main__":
    main()
