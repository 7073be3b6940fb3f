"""Quality checks: what a step looks at in what it has made, before anybody may use it.

Cheap on purpose: a sample of a large corpus, one pass over a model's weights, never a second training. The code of a
step's checks is part of its key, as its body is: an edit here makes the step again. Bounds are ones that no sound run
comes near; whether a result is good is the report's and the nightly gate's matter.
"""

import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core.base.records import RECORDS_NAME, read_records
from nanochat_core.pipeline.checks_verdict import Check

if TYPE_CHECKING:
    from nanochat_core.pipeline.step import StepRun
    from nanochat_core.tokenizer.tokenizer import Tokenizer

Metrics = dict[str, Any]
LEAK_GROUPS = 200  # row groups of training text that are looked at, spread evenly: all of a small corpus
NUM_DOCS = 32  # documents of each end of a split that are decoded again
WEIGHTS = "model.safetensors"
COMPLETE = "complete.json"


def corpus(run: "StepRun", metrics: Metrics) -> list[Check]:
    return [no_leak(run.out / "train", run.out / "validation")]


def tokenizer(run: "StepRun", metrics: Metrics) -> list[Check]:
    import numpy as np

    from nanochat_core.data.shards import read_documents
    from nanochat_core.tokenizer.domains import NUM_VALIDATION_DOCS, SAMPLES
    from nanochat_core.tokenizer.tokenizer import Tokenizer

    held_out = itertools.islice(read_documents(run.inputs["corpus"] / "validation"), NUM_VALIDATION_DOCS)
    texts = [*SAMPLES.values(), *held_out]
    saved = Tokenizer.load(run.out)
    sizes = np.load(run.out / "token_bytes.npy")
    return [round_trip(saved, texts), compresses(saved, sizes, texts)]


def tokens(run: "StepRun", metrics: Metrics) -> list[Check]:
    from nanochat_core.tokenizer.tokenizer import Tokenizer

    saved = Tokenizer.load(run.inputs["tokenizer"])
    return [shards_hold_text(run.inputs["corpus"] / split, run.out / split, saved) for split in ("train", "validation")]


def training(run: "StepRun", metrics: Metrics) -> list[Check]:
    """Of pretraining and fine-tuning: both end with a loss on held-out text."""
    losses = {name: metrics[name] for name in ("smooth_loss", "validation_loss")}
    learnt = below_uniform(metrics["validation_loss"], vocab_size=run.plan.pretrain.model.vocab_size)
    return [losses_are_numbers(losses, run.attempt / RECORDS_NAME), learnt, *_model(run, metrics)]


def rl(run: "StepRun", metrics: Metrics) -> list[Check]:
    reward = metrics["held_out_reward"]
    share = Check("reward is a share", f"{reward:.3f}", "0 to 1", 0 <= reward <= 1)
    return [losses_are_numbers({"smooth_loss": metrics["smooth_loss"]}, run.attempt / RECORDS_NAME), share,
            *_model(run, metrics)]  # fmt: skip


def _model(run: "StepRun", metrics: Metrics) -> list[Check]:
    checkpoints = run.partial.folder or run.work / "checkpoints"
    return [weights_are_numbers(run.out / WEIGHTS), checkpoint_is_whole(checkpoints)]


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


def shards_hold_text(text: Path, ids: Path, encoder: "Tokenizer") -> Check:
    """The first and the last documents of a split are the ones that its token shards hold at these places."""
    from nanochat_core.data.shards import read_row_group, row_groups
    from nanochat_core.data.tokenize import load_shards

    groups = row_groups(text)
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
    return Check(
        "same text after decoding", f"{same:,} of {len(wanted):,} {ids.name} documents", "all", same == len(wanted)
    )


def losses_are_numbers(losses: dict[str, float], records: Path) -> Check:
    """No loss that was logged, and none that the training ended with, is infinite or no number."""
    logged = [record["loss"] for record in read_records(records) if "loss" in record]
    num_wrong = sum(not math.isfinite(loss) for loss in logged)
    shown = ", ".join(f"{value:.4f}" for value in losses.values())
    is_passed = num_wrong == 0 and all(math.isfinite(value) for value in losses.values())
    return Check("loss is a number", f"{shown}; {num_wrong:,} of {len(logged):,} logged are not", "finite", is_passed)


def below_uniform(loss: float, *, vocab_size: int) -> Check:
    """Guessing every token with the same probability has a loss of ln V."""
    uniform = math.log(vocab_size)
    wanted = f"above 0 and below ln {vocab_size:,} = {uniform:.4f}"  # 0: nothing was predicted
    return Check("better than guessing", f"{loss:.4f} nats per token", wanted, 0 < loss < uniform)


def weights_are_numbers(path: Path) -> Check:
    """Every weight of the model is finite."""
    import numpy as np
    from safetensors import safe_open

    num_weights, wrong = 0, []
    with safe_open(path, framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 (it is no dict)
            tensor = file.get_tensor(name)
            num_weights += tensor.size
            if not np.isfinite(tensor).all():
                wrong.append(name)
    found = f"{num_weights:,} weights" + (f"; {len(wrong)} bad tensors: {', '.join(wrong[:3])}" if wrong else "")
    return Check("weights are numbers", found, "all finite", not wrong)


def checkpoint_is_whole(folder: Path) -> Check:
    """The files of the last checkpoint have the digests that they were written with."""
    newest = max(folder.glob("step-????????"), default=folder / "no checkpoint")
    listed = newest / COMPLETE
    description = json.loads(listed.read_text()) if listed.is_file() else {}
    num_whole = sum(_sha256(newest / name) == wanted["sha256"] for name, wanted in description.items())
    found = f"{newest.name}: {num_whole} of {len(description)} files"
    is_passed = bool(description) and num_whole == len(description)
    return Check("last checkpoint is whole", found, "all files with their sha256", is_passed)


def _sha256(path: Path) -> str:
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
