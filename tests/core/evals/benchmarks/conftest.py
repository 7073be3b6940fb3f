"""Real items, and a model that says what a script tells it: the whole way from prompt to mark without a training."""

from pathlib import Path

import pytest
import torch

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
    """Stands for a GPT that knows what to say to each prompt, token by token, and is told tool results.

    What it remembers of a row is where a real model keeps the smear: in the cache's last embedding, as (script, next
    token of the script, inside of a tool result). The stream before its head is the number of the next token.
    """

    compute_dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, tokenizer: Tokenizer, scripts: dict[tuple[int, ...], list[int]], sequence_len: int = 4096):
        self.config = GPTConfig(
            sequence_len=sequence_len, vocab_size=tokenizer.vocab_size, n_layer=1, n_head=1, n_kv_head=1, n_embd=4
        )
        self.numbers = {prompt: number for number, prompt in enumerate(scripts)}
        self.scripts = [*scripts.values()]
        self.output_start, self.output_end = tokenizer.special(tk.OUTPUT_START), tokenizer.special(tk.OUTPUT_END)
        self.speak = tokenizer.special(tk.ASSISTANT_START)

    def eval(self):
        return self

    def hidden(self, ids, cache=None):
        states, says = [], torch.zeros(*ids.shape, 1)
        answers = []
        before = None if cache is None or cache.is_empty else cache.last_embedding.tolist()
        for row, tokens in enumerate(ids.tolist()):
            if before is None:
                last = len(tokens) - 1 - tokens[::-1].index(self.speak)
                script, at, is_inside = self.numbers[tuple(tokens[: last + 1])], 0, 0
            else:
                last = 0
                script, at, is_inside, _ = map(int, before[row])
                if tokens[0] in (self.output_start, self.output_end):
                    is_inside = int(tokens[0] == self.output_start)
                elif not is_inside:
                    at += 1
            answers.append((last, self.scripts[script][min(at, len(self.scripts[script]) - 1)]))
            states.append((script, at, is_inside, 0))
        positions, tokens = torch.tensor(answers).T
        says[torch.arange(len(ids)), positions, 0] = tokens.float()
        if cache is not None:
            cache.advance(ids.size(1), last_embedding=torch.tensor(states).float())
        return says

    def logits(self, hidden):
        logits = torch.zeros(*hidden.shape[:-1], self.config.vocab_size)
        return logits.scatter(-1, hidden.long(), 1.0)


@pytest.fixture(scope="session")
def chat_eval(shared: Path) -> Path:
    return shared / "data/chat_eval"


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
        return Engine(ScriptedModel(tokenizer, scripts, sequence_len), tokenizer)

    return make


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small only wait for each other's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
