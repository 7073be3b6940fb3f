"""Many streams at once: none lost, none mixed up, and how long people wait.

    NANOCHAT_HOME=... python benchmarks/serve_load.py tiny-chat --streams 200
    NANOCHAT_HOME=... python benchmarks/serve_load.py tiny-chat --streams 200 --minutes 10

Starts `nanochat serve`, asks every question once alone, and then keeps `--streams` of them open at the same time, each
with a prompt and a seed of its own: what a stream says must be what the same request said alone. Every stream is sent
once, or again and again for `--minutes`. Prints one JSON object; client and server share the machine.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx

READY_S = 120.0
MEMORY_EVERY_S = 5.0
SERVE = (
    "from nanochat_core.cli import serve\nfrom nanochat_core.cli.app import app\nserve.register(app)\n"
    "app(prog_name='nanochat')"
)


@dataclass
class Seen:
    """What the clients of one phase saw."""

    texts: dict[int, str] = field(default_factory=dict)
    gaps_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    """Until the first text or tool call is told; a tool call is told when its expression is complete."""
    server_ttft_s: list[float] = field(default_factory=list)
    """Until the first token, as the server says; waiting for a row included."""
    num_tokens: int = 0
    num_asked: int = 0
    num_lost: int = 0
    num_differing: int = 0
    first_problem: str | None = None

    def lose(self, problem: str) -> None:
        self.num_lost += 1
        self.first_problem = self.first_problem or problem


@contextmanager
def server(ref: str, *, rows: int, waiting: int, dtype: str, home: Path | None = None) -> Iterator[tuple[str, int]]:
    """Address and process id of a server of its own; `home` None: on the store of this machine."""
    options = ["--port", "0", "--rows", str(rows), "--max-waiting", str(waiting), "--dtype", dtype]
    command = [sys.executable, "-c", SERVE, "serve", ref, *options]
    own = {"NANOCHAT_HOME": str(home), "NANOCHAT_STORE": str(home / "store")} if home else {}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, **own})
    assert process.stdout is not None
    try:
        url = process.stdout.readline().strip()
        deadline = time.monotonic() + READY_S
        while httpx.get(f"{url}/health").status_code != 200:
            assert time.monotonic() < deadline, "the server does not become ready"
            time.sleep(0.1)
        yield url, process.pid
    finally:
        process.terminate()
        process.wait()


def question(number: int, max_tokens: int) -> dict[str, Any]:
    """A request that no other has; lengths differ so that streams join and leave at different steps."""
    return {
        "messages": [{"role": "user", "content": f"Question {number}: what is {number} + {number % 17}?"}],
        "seed": number,
        "temperature": 1.0,
        "max_tokens": max_tokens // 2 + number % (max_tokens // 2 + 1),
        "stream": True,
    }


async def ask(http: httpx.AsyncClient, number: int, max_tokens: int, seen: Seen) -> str | None:
    """Read one stream to its end; None when it never came there."""
    last = time.monotonic()
    pieces: list[str] = []
    seen.num_asked += 1
    try:
        async with http.stream("POST", "/v1/chat/completions", json=question(number, max_tokens)) as answer:
            if answer.status_code != 200:
                seen.lose(f"status {answer.status_code}")
                return None
            async for line in answer.aiter_lines():
                if not line.startswith("data: "):
                    continue
                if line == "data: [DONE]":
                    return "".join(pieces)
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    seen.lose(str(chunk["error"]["message"]))
                    return None
                now = time.monotonic()
                delta = chunk["choices"][0]["delta"]
                if delta.get("content") or "nanochat" in delta:
                    (seen.gaps_s if pieces else seen.ttft_s).append(now - last)
                    pieces.append(delta.get("content") or json.dumps(delta["nanochat"]))
                    last = now
                if "nanochat" in chunk:
                    seen.num_tokens += chunk["nanochat"]["completion_tokens"]
                    seen.server_ttft_s.append(chunk["nanochat"]["ttft_s"])
        seen.lose("a stream without [DONE]")
    except httpx.HTTPError as error:
        seen.lose(f"{type(error).__name__}: {error}")
    return None


async def alone(http: httpx.AsyncClient, numbers: range, max_tokens: int) -> Seen:
    """Every request with nobody else there."""
    seen = Seen()
    for number in numbers:
        text = await ask(http, number, max_tokens, seen)
        seen.texts[number] = text or ""
    return seen


async def together(
    http: httpx.AsyncClient, numbers: range, max_tokens: int, *, expected: dict[int, str], seconds: float
) -> Seen:
    """One client per request, all at once; each asks again until the time is over."""
    seen = Seen()
    deadline = time.monotonic() + seconds

    async def client(number: int) -> None:
        while True:
            text = await ask(http, number, max_tokens, seen)
            if text is not None and text != expected[number]:
                seen.num_differing += 1
                seen.first_problem = seen.first_problem or f"{number}: {text!r:.80} is not {expected[number]!r:.80}"
            if time.monotonic() >= deadline:
                return

    await asyncio.gather(*(client(number) for number in numbers))
    return seen


async def watch_memory(pid: int, samples: list[float]) -> None:
    """Resident MiB of the server, every few seconds."""
    while True:
        samples.append(resident_mib(pid))
        await asyncio.sleep(MEMORY_EVERY_S)


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def spread_ms(values: list[float]) -> dict[str, float]:
    """Median and tails in milliseconds."""
    cuts = quantiles(values, n=100) if len(values) > 1 else values * 99
    return {name: round(1000 * cuts[place], 2) for name, place in (("p50", 49), ("p95", 94), ("p99", 98))}


async def measure(url: str, pid: int, *, streams: int, max_tokens: int, minutes: float) -> dict[str, Any]:
    """Both phases against one server."""
    limits = httpx.Limits(max_connections=streams, max_keepalive_connections=streams)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
        numbers = range(streams)
        reference = await alone(http, numbers, max_tokens)
        memory = [resident_mib(pid)]
        watching = asyncio.ensure_future(watch_memory(pid, memory))
        began = time.monotonic()
        load = await together(http, numbers, max_tokens, expected=reference.texts, seconds=60 * minutes)
        took_s = time.monotonic() - began
        watching.cancel()
        await asyncio.sleep(1.0)
        memory.append(resident_mib(pid))
    half, every = memory[len(memory) // 2 :], len(memory) // 24 + 1
    return {
        "streams": streams,
        "requests": load.num_asked,
        "lost": load.num_lost + reference.num_lost,
        "differing_from_alone": load.num_differing,
        "first_problem": load.first_problem or reference.first_problem,
        "seconds": round(took_s, 2),
        "tokens_per_s": round(load.num_tokens / took_s, 1),
        "inter_token_ms": spread_ms(load.gaps_s),
        "ttft_ms": spread_ms(load.ttft_s),
        "server_ttft_ms": spread_ms(load.server_ttft_s),
        "alone_inter_token_ms": spread_ms(reference.gaps_s),
        "alone_ttft_ms": spread_ms(reference.ttft_s),
        "alone_server_ttft_ms": spread_ms(reference.server_ttft_s),
        "memory_mib": {
            "before": round(memory[0], 1), "after": round(memory[-1], 1), "most": round(max(memory), 1),
            "second_half_growth": round(half[-1] - half[0], 1), "samples": [round(one) for one in memory[::every]],
        },
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ref", help="A model of the store.")
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--rows", type=int, default=32, help="Answers that the server decodes together.")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--minutes", type=float, default=0.0, help="Keep every stream busy for so long.")
    parser.add_argument("--dtype", default="auto")
    given = parser.parse_args()
    with server(given.ref, rows=given.rows, waiting=given.streams, dtype=given.dtype) as (url, pid):
        result = asyncio.run(
            measure(url, pid, streams=given.streams, max_tokens=given.max_tokens, minutes=given.minutes)
        )
    print(json.dumps({**vars(given), **result}, indent=1))


if __name__ == "__main__":
    main()
