"""Servers in a thread behind a real socket, one per file, and models that never stop talking."""

import json
import time
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
from model_server import byte_tokenizer, scripted_model, serve_here
from threads import one_thread as one_thread

from nanochat_core.inference.engine import Engine
from nanochat_core.serve.catalogue import ModelCard
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.pool import ModelPool, ServedModel
from nanochat_core.store.store import Store
from nanochat_core.tokenizer import tokenizer as tk

ENDLESS_CONTEXT = 8192  # far more tokens than any test waits for


def eventually(is_so, *, within_s=20.0):
    """Wait until something is so; fails when it never is."""
    deadline = time.monotonic() + within_s
    while not is_so():
        assert time.monotonic() < deadline, "it never was"
        time.sleep(0.01)


@dataclass
class Served:
    """A running server and what it serves."""

    pool: ModelPool
    http: httpx.Client

    def chat(self, text="hi", *, model=None, timeout_s=60, **fields):
        messages = text if isinstance(text, list) else [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, **fields}
        return self.http.post("/v1/chat/completions", json=body, timeout=timeout_s)

    def complete(self, prompt, *, model=None, **fields):
        return self.http.post("/v1/completions", json={"model": model, "prompt": prompt, **fields})

    def chunks(self, path="/v1/chat/completions", **body):
        """Every event of a stream but [DONE], which must be the last."""
        answer = self.http.post(path, json={**body, "stream": True})
        assert answer.status_code == 200, answer.text
        data = [line.removeprefix("data: ") for line in answer.text.split("\n") if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        return [json.loads(one) for one in data[:-1]]

    def engine(self, model):
        return self.pool.ready(model)[1].engine

    def metric(self, name, model):
        return self.pool.metrics.registry.get_sample_value(name, {"model": model})


@pytest.fixture(scope="session")
def store(model_home):
    return Store.open(str(model_home / "store"), cache_folder=model_home / "cache")


@pytest.fixture(scope="module")
def served(store):
    """tiny-chat, tiny-base and scripted-chat in fp32."""
    names = ["tiny-chat", "tiny-base", "scripted-chat"]
    pool = ModelPool.from_store(store, names, device="cpu", dtype="fp32", limits=Limits(num_rows=4))
    with serve_here(pool) as url, httpx.Client(base_url=url, timeout=60) as http:
        pool.wait(60)
        yield Served(pool, http)


def _endless_engine():
    start = byte_tokenizer().special(tk.ASSISTANT_START)
    script = {start: ord("a"), ord("a"): ord("b"), ord("b"): ord("a")}
    return Engine(scripted_model(script, context_tokens=ENDLESS_CONTEXT), byte_tokenizer())


def endless(name="endless", *, load=_endless_engine):
    """A model that says abab until its context is full."""
    card = ModelCard(id=name, ref=f"{name}@1", kind="chat", context_tokens=ENDLESS_CONTEXT, num_parameters=1)
    return ServedModel(card, load)


@pytest.fixture
def serve_endless():
    """A server of its own for tests that break it or fill it."""

    @contextmanager
    def serve(*models, token=None, is_awaited=True, **limits):
        pool = ModelPool(models or [endless()], limits=Limits(**{"num_rows": 2, "shutdown_s": 2.0, **limits}))
        with serve_here(pool, token=token) as url, httpx.Client(base_url=url, timeout=60) as http:
            if is_awaited:
                pool.wait(60)
            yield Served(pool, http)

    return serve
