"""Items of every benchmark, and a model that says what a script tells it: from prompt to mark without a training."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from threads import one_thread as one_thread

from nanochat_core.config import GPTConfig
from nanochat_core.evals.benchmarks.protocol import Item
from nanochat_core.evals.benchmarks.registry import BENCHMARKS
from nanochat_core.evals.benchmarks.sources import Source
from nanochat_core.inference.engine import Engine
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.conversation import render_conversation, render_prompt
from nanochat_core.tokenizer.tokenizer import Tokenizer


class ScriptedModel:
    """What an engine asks a model about itself, and what it should say to each prompt."""

    device = torch.device("cpu")

    def __init__(self, tokenizer: Tokenizer, scripts: dict[tuple[int, ...], list[int]], sequence_len: int):
        self.config = GPTConfig(
            sequence_len=sequence_len, vocab_size=tokenizer.vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=4
        )
        self.scripts = scripts
        self.output_start, self.output_end = tokenizer.special(tk.OUTPUT_START), tokenizer.special(tk.OUTPUT_END)
        self.speak = tokenizer.special(tk.ASSISTANT_START)

    def eval(self):
        return self

    def hidden(self, ids):
        """The stream before the head is the number of the token that answers the prompt (the rest is padding)."""
        says = torch.zeros(*ids.shape, 1)
        for row, tokens in enumerate(ids.tolist()):
            last = len(tokens) - 1 - tokens[::-1].index(self.speak)
            says[row, last] = self.scripts[tuple(tokens[: last + 1])][0]
        return says

    def logits(self, hidden):
        return torch.zeros(*hidden.shape[:-1], self.config.vocab_size).scatter(-1, hidden.long(), 1.0)


class ScriptedDecoder:
    """Stands for a GPT that knows what to say to each prompt, token by token, and is told tool results."""

    def __init__(self, model: ScriptedModel, num_rows: int):
        self.model = model
        self.rows = [ScriptedRow() for _ in range(num_rows)]

    def prefill_rows(self, rows, ids):
        for row, tokens in zip(rows, ids.tolist(), strict=True):
            self.rows[row].prompt += tokens
            self.rows[row].script = self.model.scripts.get(tuple(self.rows[row].prompt), [])
        return self._logits(rows)

    def step(self, tokens, rows=None):
        rows = range(len(self.rows)) if rows is None else rows
        for row, token in zip(rows, tokens, strict=True):
            self.rows[row].hear(token, self.model)
        return self._logits(rows)

    def copy_row(self, source, target):
        self.rows[target] = copy.deepcopy(self.rows[source])

    def clear_row(self, row):
        self.rows[row] = ScriptedRow()

    def shrink(self, rows):
        self.rows = [self.rows[row] for row in rows]

    def _logits(self, rows):
        logits = torch.zeros(len(rows), self.model.config.vocab_size)
        for number, row in enumerate(rows):
            script, at = self.rows[row].script, self.rows[row].at
            if script:
                logits[number, script[min(at, len(script) - 1)]] = 1.0
        return logits


@dataclass
class ScriptedRow:
    """One answer being read out: its prompt, the place in the script, and whether a tool is speaking."""

    prompt: list[int] = field(default_factory=list)
    script: list[int] = field(default_factory=list)
    at: int = 0
    is_inside: bool = False

    def hear(self, token, model):
        if token in (model.output_start, model.output_end):
            self.is_inside = token == model.output_start
        elif not self.is_inside:
            self.at += 1


class ScriptedEngine(Engine):
    def decoder(self, *, num_rows, max_len):
        return ScriptedDecoder(self.model, num_rows)


@pytest.fixture(scope="session")
def real_source(shared: Path) -> Source:
    """The published data sets."""
    return Source(shared / "data/chat_eval")


@pytest.fixture(scope="session")
def source(chat_eval: Path) -> Source:
    return Source(chat_eval)


@pytest.fixture(scope="session")
def tokenizer(source: Source) -> Tokenizer:
    rows = BENCHMARKS["gsm8k"].read(source, "train")
    texts = (item.question + "".join(part["text"] for part in item.solution) for item in rows)
    return train_tokenizer(texts, vocab_size=4096, max_train_bytes=2_000_000, max_doc_bytes=10_000)


@pytest.fixture(scope="session")
def scripted(tokenizer):
    """An engine that gives each item the content `say(item)`."""

    def make(items: list[Item], say, sequence_len: int = 4096) -> Engine:
        scripts = {}
        for item in items:
            prompt = render_prompt(tokenizer, item.messages)
            whole, learnt = render_conversation(
                tokenizer, [*item.messages, {"role": "assistant", "content": say(item)}]
            )
            # what is not learnt is forced by the tool at run time
            scripts[tuple(prompt)] = [
                token for token, is_learnt in zip(whole[len(prompt) :], learnt[len(prompt) :], strict=True) if is_learnt
            ]
        return ScriptedEngine(ScriptedModel(tokenizer, scripts, sequence_len), tokenizer)

    return make
