"""Clients that mean no good, in a process of their own: `with attacked(address): ...` runs them beside a server.

What they do costs the machine something whatever the server does. So they have the lowest priority and, where there are
several, other processors than the server: what is left of their effect is what the server lets them have.
"""

import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress

HEAD = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{}\r\n"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
ELSEWHERE = "127.0.0.2"  # another client's address, where all of 127.0.0.0/8 is this machine: Linux


def post(address, path, body, timeout_s=60):
    """The status of one request on a connection of its own."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    with socket.create_connection(address, timeout=timeout_s) as connection:
        connection.sendall(HEAD.format(path, len(raw), "Connection: close\r\n").encode() + raw)
        return int(b"".join(iter(lambda: connection.recv(1 << 16), b""))[9:12])


def _completion(address, **body):
    if post(address, COMPLETIONS, body) == 429:
        time.sleep(0.01)


def silent(address, drawn):
    connections = [socket.create_connection(address, timeout=5) for _ in range(40)]
    for connection in connections:
        connection.sendall(HEAD.format("/tokenize", 5000, "")[: drawn.randrange(120)].encode())
    time.sleep(0.5)
    for connection in connections:
        connection.close()


def greedy(address, drawn):
    _completion(address, prompt=["x"] * 64, max_tokens=drawn.randrange(50, 250))


def streams(address, drawn):
    _completion(address, prompt=["x"] * 60, max_tokens=200, stream=True, logprobs=3)


def long_prompts(address, drawn):
    _completion(address, prompt=[[drawn.randrange(256) for _ in range(240)] for _ in range(64)], max_tokens=4)


def scored(address, drawn):
    prompts = [[drawn.randrange(256) for _ in range(240)] for _ in range(32)]
    _completion(address, prompt=prompts, max_tokens=1, echo=True, logprobs=5, temperature=0)


def wrong(address, drawn):
    item, path = drawn.choice([("0", CHAT), ("{}", CHAT), ("-1", COMPLETIONS)])
    post(address, path, ('{"messages":[' + ",".join([item] * (200_000 // len(item))) + "]}").encode())
    time.sleep(0.2)


def blank(address, drawn):
    post(address, "/tokenize", {"prompt": (" " * drawn.choice([49_999, 50_000, 300]) + "x") * 8})
    time.sleep(0.2)


def noise(address, drawn):
    with socket.create_connection(address, timeout=5) as connection:
        connection.sendall(drawn.randbytes(drawn.randrange(1, 2000)))
    time.sleep(0.05)


def crowd(address, drawn):
    raw = json.dumps({"prompt": "hi", "max_tokens": drawn.choice([16, 200])}).encode()
    people = [socket.create_connection(address, timeout=60, source_address=(ELSEWHERE, 0)) for _ in range(20)]
    for person in people:
        person.sendall(HEAD.format(COMPLETIONS, len(raw), "Connection: close\r\n").encode() + raw)
    for person in people:
        while person.recv(1 << 16):
            pass
        person.close()


DEEDS = {
    "all": (silent, silent, greedy, greedy, streams, long_prompts, scored, wrong, blank, noise),
    "crowd": (crowd,),
}


@contextmanager
def attacked(address, counts, *, processors, deeds="all"):
    """Those of DEEDS on these processors, until it is left; adds to `counts` how often each did its deed."""
    command = [sys.executable, __file__, *map(str, address), deeds, *map(str, processors)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "begun\n"
            yield
        finally:
            told, _ = process.communicate(timeout=90)
    counts.update(json.loads(told))


def _attack(address, deeds):
    counts, stop = Counter(), threading.Event()

    def repeat(number, deed):
        drawn = random.Random(number)
        while not stop.is_set():
            with suppress(OSError, ValueError):
                deed(address, drawn)
            counts[deed.__name__] += 1

    threads = [threading.Thread(target=repeat, args=pair) for pair in enumerate(deeds)]
    for thread in threads:
        thread.start()
    print("begun", flush=True)
    sys.stdin.read()  # its end is the end
    stop.set()
    for thread in threads:
        thread.join(60)
    print(json.dumps(counts))


if __name__ == "__main__":
    os.sched_setaffinity(0, map(int, sys.argv[4:]))
    os.nice(19)
    _attack((sys.argv[1], int(sys.argv[2])), DEEDS[sys.argv[3]])
