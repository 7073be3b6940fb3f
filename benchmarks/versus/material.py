"""What both sides work on: one text, one tokenizer, one model, the same batches and questions, as each side has them.

nanochat learns the tokenizer and draws the weights; ours reads both (`export/adopt.py`), trains them for a minute, so
that answers are no noise, and writes them back under nanochat's names. Made once for a folder and kept there.
"""

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.versus.clock import quiet, run_part
from nanochat_core.data.arithmetic import sums
from nanochat_core.train.settings import TrainJob

CONTEXT, BATCH_ROWS, HEAD_DIM = 2048, 4, 128
OPTIM = {  # a tenth of nanochat's rates, for a batch of 8,192 tokens; peer.py has the same numbers
    "embedding_lr": 0.3, "value_embedding_lr": 0.15, "unembedding_lr": 0.008, "matrix_lr": 0.02, "scalar_lr": 0.5,
    "lr_scale": 0.1, "weight_decay": 0.0,
}  # fmt: skip
TRAIN_STEPS, TRAIN_ROWS, TRAIN_LEN = 40, 8, 256
FILES = {
    "problems": "chat_eval/gsm8k/main/test.jsonl",
    "choices": "chat_eval/arc/ARC-Easy/test.jsonl",
    "talks": "sft/train.jsonl",
}
Given = dict[str, Any]


def sizes(depth: int) -> Given:
    """What follows from the depth, by nanochat's own rule; a vocabulary of up to `vocab_size`."""
    width = -(-64 * depth // HEAD_DIM) * HEAD_DIM
    heads = {"n_head": width // HEAD_DIM, "n_kv_head": width // HEAD_DIM}
    shape = {"sequence_len": CONTEXT, "n_layer": depth, **heads, "n_embd": width, "window_pattern": "SSSL"}
    batch = {"rows": BATCH_ROWS, "context": CONTEXT, "batch_tokens": BATCH_ROWS * CONTEXT}
    return {"depth": depth, "shape": shape, "vocab_size": 32_768, "seed": 42, "eval_batch_tokens": 16_384, **batch}


def sets(given: Given) -> list[str]:
    """The settings of a run of ours that has this model and these batches."""
    values = {
        "seed": given["seed"],
        "tokenizer.vocab_size": given["vocab_size"],
        "pretrain.depth": given["depth"],
        "pretrain.n_embd": given["shape"]["n_embd"],
        "pretrain.head_dim": HEAD_DIM,
        "pretrain.sequence_len_tokens": CONTEXT,
        "pretrain.total_batch_tokens": given["batch_tokens"],
        "sft.total_batch_tokens": given["batch_tokens"],
        "rl.enabled": "true",
        "rl.source": "arithmetic",
        "rl.num_steps": 1000,
        "rl.questions_per_step": given["num_questions"],
        "rl.samples_per_question": given["samples"],
        "rl.max_answer_tokens": given["rl_tokens"],
    }
    return [f"{name}={value}" for name, value in values.items()]


def lay(folder: Path, data: Path, given: Given) -> Given:
    """Everything that only has to be put where each side looks for it; all paths, and what is asked."""
    shards = sorted((data / "pretrain").glob("*.parquet")) or documentation_shards(folder / "text")
    train, held_out = shards[:-1][: given["num_train"]], shards[-1:]
    places = {
        "peer/base_data_climbmix": [*train, *held_out],  # of which each side takes the last for validation
        "few": [train[0], *held_out],
        "train": train,
        "tokens/train-text": train[:1],
        "tokens/validation-text": held_out,
    }
    for name, files in places.items():
        _link(folder / name, files)
    asked = benchmark_rows(data)
    problems, choices = asked["problems"][: given["num_problems"]], asked["choices"][: given["num_choices"]]
    num_core = lay_core(data / "core_eval", folder / "peer/eval_bundle", given["core_few"])
    made = ("model", "tokenizer", "tokens", "conversations", "rl_questions", "chat", "home", "peer", "train", "few")
    arrays = {name: f"{name}.npy" for name in ("pretraining", "fine_tuning", "held_out")}
    paths = {name: str(folder / path) for name, path in {**arrays, **dict(zip(made, made, strict=True))}.items()}
    return {
        **paths,
        "core": str(folder / "peer/eval_bundle"),
        "checkpoint": str(folder / "peer/base_checkpoints/d0"),
        "train_mb": _text_bytes(folder / "train") / 1e6,
        "num_core": num_core,
        "problems": problems,
        "choices": choices,
        "talks": asked["talks"],
        "problems_of": "GSM8K" if (data / FILES["problems"]).is_file() else "sums",
        "choices_of": "ARC-Easy" if (data / FILES["choices"]).is_file() else "sums",
        "num_problems": len(problems),
        "num_choices": len(choices),
        "asked": [_request(each, given["client_tokens"]) for each in itertools.islice(itertools.cycle(problems), 8)],
    }


def _link(folder: Path, files: Sequence[Path]) -> None:
    folder.mkdir(parents=True)
    for number, file in enumerate(files):
        (folder / f"shard_{number:05d}.parquet").symlink_to(file.resolve())


def _request(problem: Given, max_tokens: int) -> Given:
    """The body of a request, as OpenAI's clients send it."""
    messages = [{"role": "user", "content": problem["question"]}]
    return {"messages": messages, "max_tokens": max_tokens, "temperature": 1.0, "top_k": 50}


def documentation_shards(folder: Path) -> list[Path]:
    """The project's own documentation, where there is no other text: a shard to learn from and one that is held out."""
    from nanochat_core.data.documentation import documents
    from nanochat_core.data.shards import write_shards

    texts = list(documents())
    cut = len(texts) * 9 // 10
    for name, part in (("train", texts[:cut]), ("validation", texts[cut:])):
        write_shards(part, folder / name)
    return [folder / name / "00000.parquet" for name in ("train", "validation")]


def _text_bytes(folder: Path) -> int:
    from nanochat_core.data.shards import read_documents

    return sum(len(text.encode()) for text in read_documents(folder))


def lay_core(bundle: Path, out: Path, few: Sequence[str]) -> int:
    """CORE's data, linked, with all its benchmarks or with a few (their labels); how many there are."""
    import yaml

    if not bundle.is_dir():
        return 0
    out.mkdir()
    for path in bundle.iterdir():
        if path.name != "core.yaml":
            (out / path.name).symlink_to(path.resolve())
    tasks = yaml.safe_load((bundle / "core.yaml").read_text())["icl_tasks"]
    chosen = [each for each in tasks if not few or each["label"] in few]
    (out / "core.yaml").write_text(yaml.safe_dump({"icl_tasks": chosen}))
    return len(chosen)


def constant(job: TrainJob) -> TrainJob:
    """A training at constant rates, which both sides can have without a schedule of either."""
    from nanochat_core.schedules import Schedule

    schedule = Schedule(num_steps=1 << 20, warmup_steps=0, warmdown_frac=0.0, final_lr_frac=1.0,
                        momentum_warmup_steps=0, has_weight_decay=False)  # fmt: skip
    optim = {**job.settings.optim, **OPTIM}
    return dataclasses.replace(job, settings=dataclasses.replace(job.settings, schedule=schedule, optim=optim))


def prepare(given: Given) -> Iterator[Any]:
    """Our half, after nanochat's: weights, rows, conversations, questions and a store to serve from."""
    from nanochat_core.tokenizer.conversation import render_prompt

    yield
    tokenizer, model = _adopt(given)
    _write_rows(given, tokenizer)
    _train(given, model)
    _write_weights(given, model)
    _write_conversations(given, tokenizer)
    _write_questions(given)
    _write_home(given)
    yield 1
    yield {"made": {"prompt": render_prompt(tokenizer, given["asked"][0]["messages"])}}


def _adopt(given: Given) -> tuple[Any, Any]:
    import numpy as np

    from nanochat_core.export.adopt import adopt

    found = adopt(Path(given["checkpoint"]), tokenizer_folder=Path(given["peer"]) / "tokenizer")
    assert found.tokenizer is not None
    found.tokenizer.save(Path(given["tokenizer"]))
    np.save(Path(given["tokenizer"]) / "token_bytes.npy", found.tokenizer.token_bytes())
    return found.tokenizer, found.model


def _write_rows(given: Given, tokenizer: Any) -> None:
    """Packed rows as the step `tokens` makes them; nanochat's side gets the batches that our order takes."""
    import numpy as np

    from nanochat_core.data.loader import PackedDocuments
    from nanochat_core.data.packing import pack_rows
    from nanochat_core.data.tokenize import tokenize_split

    out = Path(given["tokens"])
    for split in ("train", "validation"):
        shards = tokenize_split(
            out / f"{split}-text",
            out / split,
            tokenizer_folder=Path(given["tokenizer"]),
            num_workers=None,
            progress=quiet,
        )
        pack_rows(shards, row_len=CONTEXT + 1).save(out / f"{split}.rows.npz")
    rows = PackedDocuments(out, "validation", vocab_size=tokenizer.vocab_size)
    held_out = np.stack([rows.read(row)[0] for row in range(min(rows.num_rows, given["bpb_rows"]))])
    np.save(given["held_out"], held_out.astype(np.int32))
    _write_batches(given, "pretrain", PackedDocuments(out, "train", vocab_size=tokenizer.vocab_size), "pretraining")


def _write_batches(given: Given, stage: str, rows: Any, name: str) -> None:
    import numpy as np

    from nanochat_core.data.loader import BatchOrder, read_batch
    from nanochat_core.pipeline.training import SEED_AFTER

    seed = given["seed"] + SEED_AFTER.get(stage, 0)
    order = BatchOrder(num_rows=rows.num_rows, total_batch_rows=BATCH_ROWS, seed=seed)
    batches = [read_batch(rows, order.rows_at(step)) for step in range(1 + given["steps"])]
    np.save(given[name], np.stack([np.stack([each.ids, each.targets]) for each in batches]).astype(np.int32))


def _train(given: Given, model: Any) -> None:
    """A minute on short rows."""
    import numpy as np
    import torch

    from nanochat_core.base.hardware import pick_device, pick_dtype
    from nanochat_core.data.loader import PackedDocuments
    from nanochat_core.optim.groups import OptimConfig
    from nanochat_core.optim.optimizer import MuonAdamW

    torch.set_num_threads(1)  # two that wait for each other take minutes where other work is going on
    model.to(pick_device("auto"))
    model.compute_dtype = pick_dtype("auto", model.device)
    optimizer = MuonAdamW(model, OptimConfig(**{**OPTIM, "lr_scale": 0.3}))
    rows = PackedDocuments(Path(given["tokens"]), "train", vocab_size=model.config.vocab_size)
    read = (rows.read(row)[0][first : first + TRAIN_LEN + 1]
            for row in range(rows.num_rows) for first in range(0, CONTEXT, TRAIN_LEN))  # fmt: skip
    parts = list(itertools.islice(read, TRAIN_STEPS * TRAIN_ROWS))
    for first in range(0, len(parts) - TRAIN_ROWS + 1, TRAIN_ROWS):
        ids = torch.from_numpy(np.stack(parts[first : first + TRAIN_ROWS]).astype(np.int64)).to(model.device)
        loss = model.loss(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), reduction="sum")
        (loss / ids[:, 1:].numel()).backward()
        optimizer.step(lr_multiplier=1.0, momentum=0.9, weight_decay=0.0)
        optimizer.zero_grad()


def _write_weights(given: Given, model: Any) -> None:
    import torch

    from nanochat_core.model.import_checkpoint import our_name
    from nanochat_core.model.weights import save_model

    save_model(Path(given["model"]), model)
    weights = {name: value.detach().cpu() for name, value in model.state_dict().items()}
    path = next(Path(given["checkpoint"]).glob("model_*.pt"))
    stored = torch.load(path, map_location="cpu", weights_only=True)
    torch.save({name: weights[our_name(name)].clone() for name in stored}, path)
    shutil.copytree(given["checkpoint"], Path(given["peer"]) / "chatsft_checkpoints/d0")


def _write_conversations(given: Given, tokenizer: Any) -> None:
    import numpy as np

    from nanochat_core.data.conversations import pack_conversations
    from nanochat_core.data.loader import PackedConversations

    out = Path(given["conversations"])
    out.mkdir()
    ids, mask, counts = pack_conversations(
        tokenizer, given["talks"], row_len=CONTEXT + 1, num_workers=1, progress=quiet
    )
    for split in ("train", "validation"):
        np.save(out / f"{split}.ids.npy", ids)
        np.save(out / f"{split}.mask.npy", mask)
    (out / "counts.json").write_text(json.dumps({"train": counts}))
    _write_batches(given, "sft", PackedConversations(out, "train"), "fine_tuning")


def _write_questions(given: Given) -> None:
    """Questions to practise on; benchmarks as lines for ours, as parquet where nanochat keeps what it has fetched."""
    from nanochat_core.evals.items import Question, write_questions

    out, asked = Path(given["rl_questions"]), given["problems"][: given["num_questions"]]
    out.mkdir()
    for name in ("train", "held_out"):
        write_questions(out / f"{name}.jsonl", [Question("arithmetic", each["question"], "0") for each in asked])
    (out / "counts.json").write_text(json.dumps({"train": len(asked), "held_out": len(asked)}))
    _write_benchmark(given, "openai--gsm8k/main", "gsm8k/main", given["problems"])
    _write_benchmark(given, "allenai--ai2_arc/ARC-Easy", "arc/ARC-Easy", given["choices"])


def _write_benchmark(given: Given, hub: str, ours: str, rows: list[Given]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    theirs = Path(given["peer"]) / "task_data" / hub / "test"
    theirs.mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), theirs / "00000.parquet")
    (theirs / "manifest.json").write_text('["00000.parquet"]')
    own = Path(given["chat"]) / ours
    own.mkdir(parents=True)
    (own / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _write_home(given: Given) -> None:
    """A store with the model in it, for `nanochat serve`."""
    from nanochat_core.store.store import Store

    store = Store.open(str(Path(given["home"]) / "store"), cache_folder=Path(given["home"]) / "cache")
    config = json.loads((Path(given["model"]) / "config.json").read_text())

    def publish(step: str, folder: str, inputs: dict[str, str], config: Given) -> Any:
        rest: Given = {
            "code": {},
            "packages": {},
            "metrics": {},
            "provenance": {"finished_at": "2026-01-01T00:00:00+00:00"},
        }
        key = hashlib.sha256(step.encode()).hexdigest()
        return store.publish(Path(folder), step=step, fingerprint=key, inputs=inputs, config=config, **rest)

    read = publish("tokenizer", given["tokenizer"], {}, {})
    model = publish("sft", given["model"], {"tokenizer": read.result_digest}, {"model": config})
    store.set_ref("versus", model.fingerprint[:12], model)


def benchmark_rows(data: Path) -> Given:
    """Rows of GSM8K and ARC, and conversations: of a folder like shared/data, or sums of our own in their forms."""
    asked = sums("train", count=4000, seed=0)
    labels = ["A", "B", "C", "D"]
    made = {
        "problems": [{"question": question, "answer": f"#### {number}"} for question, number in asked[:400]],
        "choices": [
            {"question": question, "answerKey": labels[number % 4],
             "choices": {"label": labels, "text": [str(int(right) - number % 4 + step) for step in range(4)]}}
            for number, (question, right) in enumerate(asked[:400])
        ],
        "talks": [
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": right}]}
            for question, right in asked
        ],
    }  # fmt: skip
    found = {name: _lines(data / path, 400) or made[name] for name, path in FILES.items()}
    return {**found, "talks": [{"messages": each["messages"]} for each in found["talks"]]}


def _lines(path: Path, most: int) -> list[Given]:
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in itertools.islice(file, most)]


if __name__ == "__main__":
    run_part(globals())
