"""`nanochat serve` as a process of its own on a free port, and small models for it to serve.

    with start_server(model_home, "tiny-chat") as server:
        requests.get(server.url + "/v1/models")

`make_home` writes a store with a byte-level vocabulary and three models that nobody trained: a base and a chat model
with random weights, and `scripted-chat`, whose next token follows from the last one alone, so that it calls the
calculator and says `SCRIPT_TEXT` whatever it is asked. `serve_here` is the same server in a thread of the test.
"""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import uvicorn
from nudge import nudge

from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT
from nanochat_core.model.weights import save_model
from nanochat_core.serve.data import DataSource
from nanochat_core.serve.listen import server_config
from nanochat_core.serve.pool import ModelPool
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store
from nanochat_core.tokenizer import tokenizer as tk
from nanochat_core.tokenizer.tokenizer import Tokenizer

CONTEXT_TOKENS = 256
MERGES = (b"th", b"he", b" t", b"in", b"er", b" a", b"re", b"on", b" s", b"qu", b" qu", b"the", b" the")
SCRIPT_TEXT = "so: !"
SCRIPT_CALL = ("7*8", "56")
READY_S = 120.0
SERVE = (
    "from nanochat_core.cli import serve\nfrom nanochat_core.cli.app import app\nserve.register(app)\n"
    "app(prog_name='nanochat')"
)


@dataclass(frozen=True)
class RunningServer:
    """A server that answers, or is about to."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    def wait_until_ready(self) -> None:
        """Until /health says so."""
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended with {self.process.returncode}:\n{self.log.read_text()}")
            try:
                with urllib.request.urlopen(self.url + "/health", timeout=10) as answer:
                    if answer.status == 200:
                        return
            except OSError:  # not listening yet, or a 503 with the reason
                pass
            time.sleep(0.05)
        raise AssertionError(f"the server is not ready after {READY_S} s:\n{self.log.read_text()}")


@contextmanager
def start_server(
    home: Path, *refs: str, token: str | None = None, is_awaited: bool = True, **limits: Any
) -> Iterator[RunningServer]:
    """Serve models of the store in `home`; `limits` are options: rows=2 is --rows 2."""
    number = len(list(home.glob("server-*.log")))
    log = home / f"server-{os.getpid()}-{number}.log"
    options = [part for name, value in limits.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    if token is not None:
        file = home / f"token-{os.getpid()}-{number}.txt"
        file.write_text(token)
        options += ["--token-file", str(file)]
    environment = {**os.environ, "NANOCHAT_HOME": str(home), "NANOCHAT_STORE": str(home / "store")}
    environment.setdefault("OMP_NUM_THREADS", "1")  # models this small only wait for each other's threads
    command = [sys.executable, "-c", SERVE, "serve", *refs, "--port", "0", *options]
    with log.open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=out, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, f"the server did not start:\n{log.read_text()}"
        server = RunningServer(url, process, log)
        if is_awaited:
            server.wait_until_ready()
        yield server
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def serve_here(pool: ModelPool, *, token: str | None = None, data: DataSource | None = None) -> Iterator[str]:
    """The application behind a real socket, in a thread; yields its address."""
    config = server_config(pool, token=token, data=data)
    listening = config.bind_socket()
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        deadline = time.monotonic() + READY_S
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


def byte_tokenizer() -> Tokenizer:
    """Bytes and a few merges, so that some tokens are words and others halves of a character."""
    return Tokenizer([*(bytes([value]) for value in range(256)), *MERGES])


def random_model(seed: int, *, context_tokens: int = CONTEXT_TOKENS) -> GPT:
    """Two layers with nothing switched off by a zero."""
    model = GPT(_shape(context_tokens, n_layer=2))
    model.init_weights(seed)
    nudge(model, 0.2, seed=seed + 100)
    return model


def scripted_model(script: Mapping[int, int], *, context_tokens: int = CONTEXT_TOKENS) -> GPT:
    """A model whose likeliest token after `before` is script[before], by far."""
    model = GPT(_shape(context_tokens, n_layer=1))
    codes = torch.randn(model.config.vocab_size, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.residual_weights.fill_(1.0)
        model.embed.weight[: len(codes)] = codes
        for before, after in script.items():
            unit = codes[before] / codes[before].pow(2).mean().sqrt()
            model.head.weight[after] += 15 * unit / 32
    return model


def calculator_script(tokenizer: Tokenizer) -> dict[int, int]:
    """so: [7*8 = 56] !"""
    special = tokenizer.special
    start, end = special(tk.PYTHON_START), special(tk.PYTHON_END)
    before = [special(tk.ASSISTANT_START), *b"so: ", start, *SCRIPT_CALL[0].encode(), end]
    after = [special(tk.OUTPUT_END), ord("!"), special(tk.ASSISTANT_END)]
    return {one: two for path in (before, after) for one, two in itertools.pairwise(path)}


def make_home(folder: Path) -> Path:
    """A home whose store holds tiny-base, tiny-chat and scripted-chat, with evaluations of the first two."""
    store = Store.open(str(folder / "store"), cache_folder=folder / "cache")
    tokenizer = byte_tokenizer()
    tokenizer.save(folder / "made/tokenizer")
    read = _publish(store, folder / "made/tokenizer", "tokenizer", {})
    base = _publish_model(store, folder, "pretrain", random_model(1), {"tokenizer": read.result_digest})
    inputs = {"tokenizer": read.result_digest, "pretrain": base.result_digest}
    scripted = _publish_model(store, folder, "sft", scripted_model(calculator_script(tokenizer)), inputs)
    chat = _publish_model(store, folder, "sft", random_model(2), inputs)
    for name, artifact in (("tiny-base", base), ("scripted-chat", scripted), ("tiny-chat", chat)):
        store.set_ref(name, artifact.fingerprint[:12], artifact)
    empty = folder / "made/none"
    empty.mkdir()
    metrics: dict[str, dict[str, Any]] = {
        "evaluate_base": {"bits_per_byte": 1.25},
        "evaluate_core": {"core": 0.125, "is_complete": True},
    }
    for step, numbers in metrics.items():
        _publish(store, empty, step, {"pretrain": base.result_digest}, metrics=numbers)
    _publish(store, empty, "evaluate_chat", {"sft": chat.result_digest}, metrics={"bits_per_byte": 3.5})
    return folder


def _shape(context_tokens: int, *, n_layer: int) -> GPTConfig:
    vocab = byte_tokenizer().vocab_size
    return GPTConfig(sequence_len=context_tokens, vocab_size=vocab, n_layer=n_layer, n_head=2, n_kv_head=1, n_embd=32)


def _publish_model(store: Store, home: Path, step: str, model: GPT, inputs: dict[str, str]) -> Artifact:
    folder = home / f"made/{step}-{len(list((home / 'made').iterdir()))}"
    save_model(folder, model)
    return _publish(store, folder, step, inputs, config={"model": asdict(model.config)})


def _publish(
    store: Store,
    folder: Path,
    step: str,
    inputs: dict[str, str],
    *,
    config: dict[str, Any] | None = None,
    metrics: dict[str, Any] | None = None,
) -> Artifact:
    fingerprint = hashlib.sha256(json.dumps([step, folder.name, inputs]).encode()).hexdigest()
    return store.publish(
        folder, step=step, fingerprint=fingerprint, inputs=inputs, config=config or {}, code={}, packages={},
        metrics=metrics or {}, provenance={"finished_at": f"2026-01-0{len(inputs) + 1}T00:00:00+00:00"},
    )  # fmt: skip
