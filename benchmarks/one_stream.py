"""One reader: tokens per second in process and over HTTP, of the same model with the same seeds, taking turns.

    .venv/bin/python -m benchmarks.one_stream [--depth 4] [--tokens 256] [--repeats 7] [--dtype auto]

A model of nanochat's shape with random weights in two processes: one is `nanochat serve`'s own server, the other calls
the engine. Each asks the same chat question with the same seed, one after the other; the client reads its stream from a
socket, and shares the machine. Prints JSON: medians, the ratio pair by pair, whether the answers were equal, and CPU
seconds per token of the server and of the process that calls the engine.
"""

import argparse
import http.client
import json
import multiprocessing
import statistics
import time
from itertools import product
from multiprocessing.connection import Connection
from typing import Any

import psutil
import torch

from benchmarks.decode import BenchConfig, random_model
from nanochat_core.base.hardware import pick_dtype
from nanochat_core.cli.serve import run_server
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.tool_loop import Text
from nanochat_core.serve import prompts
from nanochat_core.serve.catalogue import ModelCard
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.pool import ModelPool, ServedModel
from nanochat_core.serve.schema import ChatBody
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer

CPU = torch.device("cpu")
READY_S = 120.0
WARM_UP_TOKENS = 16
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEF"
QUESTION = "What do people mean when they say that one should not put all eggs into one basket? Answer at length."


def make_engine(depth: int, vocab_size: int, dtype: str) -> Engine:
    """Random weights, and a vocabulary of bytes and short words, for any token must be text."""
    model = random_model(BenchConfig(depth=depth, vocab_size=vocab_size), pick_dtype(dtype, CPU), CPU)
    words = ["".join(letters) for length in (2, 3, 4) for letters in product(LETTERS, repeat=length)][:vocab_size]
    pieces = [*(bytes([value]) for value in range(256)), *(word.encode() for word in words)]
    return Engine(model, Tokenizer(pieces[: vocab_size - len(SPECIAL_TOKENS)]))


def chat_body(max_tokens: int, seed: int) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    return {"messages": messages, "max_tokens": max_tokens, "seed": seed, "stream": True}


def serve(at: Connection, *shape: Any) -> None:
    """The server, from a process of its own; its port is told once it is known."""
    card = ModelCard(id="bench", ref="bench@1", kind="chat", context_tokens=2048, num_parameters=0)
    pool = ModelPool([ServedModel(card, lambda: make_engine(*shape))], limits=Limits(num_rows=8))
    at.send("ready")
    run_server(pool, host="127.0.0.1", port=at.recv(), token=None)


def call(at: Connection, *shape: Any) -> None:
    """The engine in a process of its own: answers (max_tokens, seed) with what `measured` returns."""
    engine = make_engine(*shape)
    at.send("ready")
    while (asked := at.recv()) is not None:
        body = ChatBody.model_validate(chat_body(*asked))
        started, cpu_s, first_s, pieces = time.perf_counter(), time.process_time(), None, []
        prompt = prompts.chat_prompt(engine.tokenizer, body, context_tokens=2048)
        request = engine.request(prompt.ids, prompts.chat_sampling(engine.tokenizer, body, room=2048 - len(prompt.ids)))
        batch = engine.slots(1, max_len=request.max_len)
        batch.add([request])
        while not request.is_done:
            for _, events in batch.step():
                first_s = first_s or time.perf_counter() - started
                pieces += [event.text for event in events if isinstance(event, Text)]
        found = measured(len(request.answer.tokens), started, first_s or 0.0, "".join(pieces))
        at.send({**found, "cpu_s": time.process_time() - cpu_s})


def measured(num_tokens: int, started: float, first_s: float, text: str) -> dict[str, Any]:
    return {"tokens": num_tokens, "wall_s": time.perf_counter() - started, "first_s": first_s, "text": text}


def ask(port: int, server: psutil.Process, max_tokens: int, seed: int) -> dict[str, Any]:
    """One chat answer over HTTP, read to its end."""
    before, started, first_s, pieces, tokens = server.cpu_times(), time.perf_counter(), None, [], 0
    connection = http.client.HTTPConnection("127.0.0.1", port)
    body = {**chat_body(max_tokens, seed), "stream_options": {"include_usage": True}}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
    for line in connection.getresponse():
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        if chunk.get("usage"):
            tokens = chunk["usage"]["completion_tokens"]
        for choice in chunk["choices"]:
            if text := choice["delta"].get("content"):
                first_s = first_s or time.perf_counter() - started
                pieces.append(text)
    connection.close()
    found = measured(tokens, started, first_s or 0.0, "".join(pieces))
    after = server.cpu_times()
    return {**found, "cpu_s": after.user + after.system - before.user - before.system}


def wait_until_ready(port: int) -> None:
    deadline = time.monotonic() + READY_S
    while True:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        assert time.monotonic() < deadline, "the server does not become ready"
        time.sleep(0.1)


def figures(runs: dict[str, list[dict[str, Any]]]) -> dict[str, object]:
    """Medians of each way, and of the ratios of its pairs."""
    pairs = list(zip(runs["http"], runs["in_process"], strict=True))
    ratios = sorted(mine["wall_s"] / theirs["wall_s"] for theirs, mine in pairs)
    return {
        **{
            way: {
                "tokens_per_s": round(statistics.median(run["tokens"] / run["wall_s"] for run in found), 1),
                "first_token_ms": round(1e3 * statistics.median(run["first_s"] for run in found), 2),
                "cpu_ms_per_token": round(1e3 * statistics.median(run["cpu_s"] / run["tokens"] for run in found), 3),
            }
            for way, found in runs.items()
        },
        "http_over_in_process": round(statistics.median(ratios), 3),
        "spread": [round(ratios[0], 3), round(ratios[-1], 3)],
        "answers_equal": all(one["text"] == other["text"] for one, other in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--port", type=int, default=8765)
    given = parser.parse_args()
    spawn, shape = multiprocessing.get_context("spawn"), (given.depth, given.vocab_size, given.dtype)
    children = []
    for target in (serve, call):
        here, there = spawn.Pipe()
        children.append((here, spawn.Process(target=target, args=(there, *shape), daemon=True)))
        children[-1][1].start()
    (to_server, server), (to_engine, _) = children
    assert to_server.recv() == to_engine.recv() == "ready"
    to_server.send(given.port)
    time.sleep(1.0)
    wait_until_ready(given.port)
    runs: dict[str, list[dict[str, Any]]] = {"in_process": [], "http": []}
    process = psutil.Process(server.pid)

    def run(way: str, max_tokens: int, seed: int) -> dict[str, Any]:
        if way == "http":
            return ask(given.port, process, max_tokens, seed)
        to_engine.send((max_tokens, seed))
        return dict(to_engine.recv())

    for way in runs:
        run(way, WARM_UP_TOKENS, 0)
    for repeat in range(given.repeats):
        for way in sorted(runs, reverse=bool(repeat % 2)):
            runs[way].append(run(way, given.tokens, repeat))
    to_engine.send(None)
    server.terminate()
    print(json.dumps({**vars(given), "threads": torch.get_num_threads(), **figures(runs)}, indent=1))


if __name__ == "__main__":
    main()
