"""Trainings of seconds: a pretraining on a made-up language, a model that answers "Pick a digit." with any digit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nanochat_core.config import GPTConfig
from nanochat_core.data.packing import pack_rows
from nanochat_core.data.tokenize import load_shards
from nanochat_core.evals.items import Question, write_questions
from nanochat_core.model.gpt import GPT
from nanochat_core.model.weights import load_model, save_model
from nanochat_core.schedules import Schedule
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.tokenizer import Tokenizer
from nanochat_core.train.rollouts import prompt_of
from nanochat_core.train.settings import RLSettings, TrainJob, TrainPaths, TrainRuntime, TrainSettings

CONFIG = GPTConfig(sequence_len=64, vocab_size=265, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)
QUESTIONS = tuple(Question("arithmetic", f"Pick a digit{mark}", "7") for mark in ".!?,;:")
RL = RLSettings(samples_per_question=16, temperature=1.0, top_k=50, max_answer_tokens=4, held_out_samples=8)


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer([bytes([value]) for value in range(256)])


@pytest.fixture(scope="session")
def picker_folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, its tokenizer and the questions, as files."""
    folder = tmp_path_factory.mktemp("picker")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    model = GPT(CONFIG)
    model.init_weights(0)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    end = tokenizer.special(tk.ASSISTANT_END)
    for _ in range(120):
        question = QUESTIONS[int(torch.randint(len(QUESTIONS), (), generator=generator))]
        prompt = prompt_of(tokenizer, question)
        digits = torch.randint(10, (32,), generator=generator)
        rows = torch.tensor([[*prompt, *tokenizer.encode(str(digit)), end] for digit in digits.tolist()])
        targets = rows[:, 1:].clone()
        targets[:, : len(prompt) - 1] = -1
        model.loss(rows[:, :-1], targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.set_num_threads(threads)
    save_model(folder / "model", model)
    (folder / "tokenizer").mkdir()
    tokenizer.save(folder / "tokenizer")
    (folder / "questions").mkdir()
    write_questions(folder / "questions/train.jsonl", QUESTIONS[:4])
    write_questions(folder / "questions/held_out.jsonl", QUESTIONS[4:])
    return folder


@pytest.fixture
def picker(picker_folder: Path) -> GPT:
    return load_model(picker_folder / "model")


@pytest.fixture
def make_job(picker_folder: Path):
    """A job of `num_steps` in a folder of its own."""

    def make(work: Path, *, num_steps: int = 8, num_processes: int = 1) -> TrainJob:
        work.mkdir(parents=True, exist_ok=True)
        schedule = Schedule(
            num_steps=num_steps, warmup_steps=0, warmdown_frac=1.0, final_lr_frac=0.0, initial_lr_frac=1.0,
            momentum_warmup_steps=0, has_weight_decay=False,
        )  # fmt: skip
        return TrainJob(
            entry="nanochat_core.train.rl:build",
            settings=TrainSettings(
                model=CONFIG, optim={"weight_decay": 0.0}, schedule=schedule, total_batch_rows=4, seed=3,
                validate_every_steps=None, validation_rows=2, dtype="fp32", rl=RL,
            ),
            runtime=TrainRuntime(
                device="cpu", num_processes=num_processes, device_batch_rows=16, num_threads=1, checkpoint_every_s=0,
                log_every_steps=1,
            ),
            paths=TrainPaths(
                rows=str(picker_folder / "questions"), tokenizer=str(picker_folder / "tokenizer"),
                base=str(picker_folder / "model"), checkpoints=str(work / "checkpoints"), work=str(work),
                out=str(work / "out"),
            ),
        )  # fmt: skip

    return make


@pytest.fixture(scope="session")
def text_folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of a made-up language, packed into rows, and the tokenizer: what a pretraining reads."""
    folder = tmp_path_factory.mktemp("text")
    generator = np.random.Generator(np.random.PCG64(5))
    words = [bytes(generator.integers(97, 123, 5).tolist()) for _ in range(40)]
    for split, num_documents in (("train", 400), ("validation", 40)):
        documents = [b" ".join(words[i] for i in generator.integers(0, 40, 30)) for _ in range(num_documents)]
        ids = [np.array([tokenizer.bos, *document], dtype=np.uint16) for document in documents]
        starts = np.cumsum([0, *map(len, ids)], dtype=np.int64)
        (folder / split).mkdir()
        np.concatenate(ids).tofile(folder / split / "00000.bin")
        np.save(folder / split / "00000.starts.npy", starts)
        index = {"vocab_size": CONFIG.vocab_size, "shard_tokens": [int(starts[-1])]}
        (folder / split / "index.json").write_text(json.dumps(index))
        shards = load_shards(folder / split, vocab_size=CONFIG.vocab_size)
        pack_rows(shards, row_len=CONFIG.sequence_len + 1).save(folder / f"{split}.rows.npz")
    tokenizer.save(folder)
    np.save(folder / "token_bytes.npy", tokenizer.token_bytes())
    return folder


@pytest.fixture
def pretrain_job(text_folder: Path):
    """A pretraining of `num_steps` in a folder of its own; `runtime` overrides."""

    def make(work: Path, *, num_steps: int = 12, validate_every_steps: int | None = None, **runtime: Any) -> TrainJob:
        work.mkdir(parents=True, exist_ok=True)
        schedule = Schedule(
            num_steps=num_steps, warmup_steps=2, warmdown_frac=0.5, final_lr_frac=0.1, momentum_warmup_steps=10
        )
        chosen = {
            "device": "cpu", "num_processes": 1, "device_batch_rows": 8, "num_threads": 1, "checkpoint_every_s": 1e9,
            "log_every_steps": 1,
        }  # fmt: skip
        return TrainJob(
            entry="nanochat_core.train.pretrain:build",
            settings=TrainSettings(
                model=CONFIG, optim={"weight_decay": 0.1}, schedule=schedule, total_batch_rows=8, seed=3,
                validate_every_steps=validate_every_steps, validation_rows=4, dtype="fp32",
            ),
            runtime=TrainRuntime(**(chosen | runtime)),
            paths=TrainPaths(
                rows=str(text_folder), tokenizer=str(text_folder), base=None, checkpoints=str(work / "checkpoints"),
                work=str(work), out=str(work / "out"),
            ),
        )  # fmt: skip

    return make
