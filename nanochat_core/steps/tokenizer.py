"""A BPE vocabulary learnt from the corpus, with its table of bytes per token and how it does on other kinds of text."""

import itertools
import json
from typing import TYPE_CHECKING, Any

from nanochat_core.base.neutral import identity
from nanochat_core.pipeline.cleaning import text_of
from nanochat_core.pipeline.step import Check, Metrics, Step, StepRun
from nanochat_core.pipeline.training import AS_IT_IS, TOKENIZER
from nanochat_core.plan import RunPlan
from nanochat_core.steps.base import base
from nanochat_core.steps.decontaminate import TEXTS as EARLIER
from nanochat_core.steps.decontaminate import decontaminate

if TYPE_CHECKING:
    from nanochat_core.tokenizer.tokenizer import Tokenizer


TEXTS = (*EARLIER, decontaminate)


def settings(plan: RunPlan) -> dict[str, Any]:
    return AS_IT_IS if plan.has_base else identity(plan.config.tokenizer)


def body(run: StepRun) -> Metrics:
    import numpy as np

    from nanochat_core.data.shards import read_in_turn
    from nanochat_core.tokenizer.bpe import train_tokenizer
    from nanochat_core.tokenizer.domains import NUM_VALIDATION_DOCS, bytes_per_token
    from nanochat_core.tokenizer.patterns import NAMED
    from nanochat_core.tokenizer.scripts import by_script, dear_languages, sentence_tokens
    from nanochat_core.tokenizer.tokenizer import Tokenizer

    config = run.plan.config.tokenizer
    if "base" in run.inputs:
        trained = Tokenizer.load(run.inputs["base"])
    else:
        trained = train_tokenizer(
            read_in_turn(text_of(run.inputs) / "train"),
            vocab_size=config.vocab_size,
            max_train_bytes=config.max_train_bytes,
            max_doc_bytes=config.max_doc_bytes,
            pattern=NAMED[config.pattern],
        )
    trained.save(run.out)
    np.save(run.out / "token_bytes.npy", trained.token_bytes())
    domains = bytes_per_token(trained, read_in_turn(text_of(run.inputs) / "validation"))
    (run.out / "domains.json").write_text(json.dumps(domains, indent=1))
    scripts = by_script(itertools.islice(read_in_turn(text_of(run.inputs) / "validation"), NUM_VALIDATION_DOCS))
    for told in dear_languages(trained, scripts):
        run.note(told)
    (run.out / "languages.json").write_text(json.dumps(sentence_tokens(trained), indent=1))
    return {"vocab_size": trained.vocab_size, "bytes_per_token": domains["validation text"]}


def checks(run: StepRun, metrics: Metrics) -> list[Check]:
    import numpy as np

    from nanochat_core.data.shards import read_in_turn
    from nanochat_core.tokenizer.domains import NUM_VALIDATION_DOCS, SAMPLES
    from nanochat_core.tokenizer.tokenizer import Tokenizer

    held_out = itertools.islice(read_in_turn(text_of(run.inputs) / "validation"), NUM_VALIDATION_DOCS)
    texts = [*SAMPLES.values(), *held_out]
    saved = Tokenizer.load(run.out)
    sizes = np.load(run.out / "token_bytes.npy")
    return [round_trip(saved, texts), compresses(saved, sizes, texts)]


def round_trip(encoder: "Tokenizer", texts: list[str]) -> Check:
    """Decoding what was encoded gives the text again."""
    same = sum(encoder.decode_bytes(encoder.encode(text)) == text.encode("utf-8") for text in texts)
    return Check("same text after decoding", f"{same:,} of {len(texts):,} texts", "all", same == len(texts))


def compresses(encoder: "Tokenizer", token_bytes: Any, texts: list[str]) -> Check:
    """Tokens stand for more than a byte each, and the table that bits per byte is counted with adds up."""
    ids = [token for text in texts for token in encoder.encode(text)]
    num_bytes = sum(len(text.encode("utf-8")) for text in texts)
    has_merges = len(encoder.ranks) > 256
    ratio, counted = num_bytes / max(1, len(ids)), int(token_bytes[ids].sum())
    found = f"{ratio:.2f}" + ("" if counted == num_bytes else f"; {counted:,} of {num_bytes:,} bytes counted")
    is_passed = counted == num_bytes and (ratio > 1 or not has_merges)
    return Check("bytes per token", found, "more than 1, all bytes counted", is_passed)


tokenizer = Step(
    name="tokenizer",
    description="Learn the vocabulary.",
    title=lambda plan: f"vocabulary of {plan.config.tokenizer.vocab_size:,} tokens",
    headline=lambda metrics: f"{metrics['bytes_per_token']:.2f} bytes per token",
    settings=settings,
    packages=("ffbpe", "rustbpe", "tiktoken", "pyarrow"),
    inputs=(*TEXTS, base),
    last_of=TEXTS,
    reads=lambda settings: {"base": [TOKENIZER]} if settings == AS_IT_IS else {},
    body=body,
    checks=checks,
)
