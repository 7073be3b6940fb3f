"""Clients that mean no good: slow ones, many, odd bodies, damaged weights. The others are answered meanwhile."""

import dataclasses
import functools
import itertools
import json
import logging
import re
import socket
import time
import tracemalloc
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fuzz_lane import LONG_S, Lane
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from model_server import byte_tokenizer, random_model, serve_here
from pydantic import ValidationError
from text_kinds import kinds

from nanochat_core.base import log_budget
from nanochat_core.base.errors import CorruptError
from nanochat_core.base.log_budget import Budget, LogBudget
from nanochat_core.inference.engine import Engine
from nanochat_core.inference.sampling import Sampling
from nanochat_core.model.weights import check_finite
from nanochat_core.serve import bodies, schema
from nanochat_core.serve.catalogue import ModelCard
from nanochat_core.serve.errors import ApiError
from nanochat_core.serve.jobs import Job
from nanochat_core.serve.limits import Limits
from nanochat_core.serve.metrics import Metrics
from nanochat_core.serve.pool import ModelPool, ServedModel
from nanochat_core.serve.prompts import Prompt
from nanochat_core.serve.scheduler import Scheduler
from nanochat_core.serve.turns_taken import Turns

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
BROKEN = ord("Z")
PATIENCE_S = 300  # of a lane: what a case costs is counted in the processor's time, and other work may run beside it


@contextmanager
def served(*, load=None, **limits):
    """A server of one small model in a thread; yields its address."""
    card = ModelCard(id="m", ref="m@1", kind="chat", context_tokens=256, num_parameters=1)
    engine = load or (lambda: Engine(random_model(2), byte_tokenizer()))
    pool = ModelPool([ServedModel(card, engine)], limits=Limits(**limits))
    with serve_here(pool) as url:
        pool.wait(60)
        yield ("127.0.0.1", int(url.rpartition(":")[2]))


def ask(address, path="/health", body=None, timeout_s=30):
    """(status, body) of one request."""
    method = "GET" if body is None else "POST"
    raw = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    with socket.create_connection(address, timeout=timeout_s) as connection:
        connection.sendall(f"{head}Content-Length: {len(raw)}\r\nConnection: close\r\n\r\n".encode() + raw)
        answer = b"".join(iter(lambda: connection.recv(1 << 16), b""))
    status, _, rest = answer.partition(b"\r\n")
    return int(status.split()[1]), rest.partition(b"\r\n\r\n")[2]


def is_let_go(connection):
    try:
        return connection.recv(1 << 16) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


SLOW = {
    "silent": (b"", b""),
    "half a header": (HEAD, b""),
    "a header byte by byte": (HEAD + b"X-A: ", b"a"),
    "half a body": (HEAD + b"Content-Length: 1000\r\n\r\n{", b""),
    "a body byte by byte": (HEAD + b"Content-Length: 100000\r\n\r\n{", b" "),
    "chunks without an end": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "silent after an answer": (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b""),
    "a second header byte by byte": (b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /", b"a"),
}


def test_whoever_sends_nothing_or_a_byte_at_a_time_is_let_go():
    with served(header_s=1.0, body_s=1.0, keep_alive_s=1.0) as address:
        slow = {name: socket.create_connection(address) for name in SLOW}
        for name, connection in slow.items():
            connection.sendall(SLOW[name][0])
            connection.settimeout(0.02)
        deadline = time.monotonic() + 15
        while slow and time.monotonic() < deadline:
            for name, connection in list(slow.items()):
                try:
                    connection.sendall(SLOW[name][1])
                    is_gone = is_let_go(connection)
                except OSError:
                    is_gone = True
                if is_gone:
                    slow.pop(name).close()
            time.sleep(0.1)
        assert not slow
        assert ask(address)[0] == 200


def test_a_reader_of_nothing_is_let_go_streamed_or_not():
    with served(stalled_s=0.5, min_bytes_per_s=1 << 30) as address:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        body = json.dumps({"prompt": "a" * (3 << 20), "add_special_tokens": False}).encode()
        connection.sendall(
            HEAD.replace(b"/v1/completions", b"/tokenize") + b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        time.sleep(6)
        connection.settimeout(10)
        num_read = 0
        while piece := connection.recv(1 << 20):
            num_read += len(piece)
        assert num_read < 3 * (3 << 20)  # each "97," of the answer: what was not taken is thrown away
        connection.close()


def test_a_flood_of_silent_connections_leaves_room_and_no_log(caplog):
    with served(max_connections=40, max_client_connections=20) as address:
        flood = []
        for _ in range(150):
            flood.append(socket.create_connection(address))
        assert ask(address)[0] == 200
        assert ask(address, "/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200
        for connection in flood:
            connection.close()
    assert len(caplog.records) < 40


def test_health_answers_when_every_connection_is_at_work():
    with served(max_connections=2, max_client_connections=2, num_rows=1) as address:
        long = json.dumps({"prompt": "a", "max_tokens": 200, "stream": True}).encode()
        busy = [socket.create_connection(address) for _ in range(2)]
        for connection in busy:
            connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n" + long)  # a body that goes on
            time.sleep(0.2)
        assert ask(address)[0] == 200
        assert ask(address, "/v1/models")[0] in (200, 503)
        for connection in busy:
            connection.close()


def _filled(head, item, tail, size=4 << 20):
    return (head + ",".join([item] * ((size - len(head) - len(tail)) // (len(item) + 1))) + tail).encode()


USER = '"messages":[{"role":"user","content":"x"}]'
STORMS = {
    "numbers as messages": ("/v1/chat/completions", _filled('{"messages":[', "0", "]}")),
    "objects as messages": ("/v1/chat/completions", _filled('{"messages":[', "{}", "]}")),
    "messages": ("/v1/chat/completions", _filled('{"messages":[', '{"role":"user","content":""}', "]}")),
    "parts": ("/v1/chat/completions", _filled('{"messages":[{"role":"user","content":[', "{}", "]}]}")),
    "stops": ("/v1/chat/completions", _filled("{" + USER + ',"stop":[', "0", "]}")),
    "biases": ("/v1/chat/completions", _filled("{" + USER + ',"logit_bias":{', '"a":""', "}}")),
    "tools": ("/v1/chat/completions", _filled("{" + USER + ',"tools":[', '{"a":[]}', "]}")),
    "unknown": ("/v1/chat/completions", _filled("{" + USER + ',"unknown":[', "[]", "]}")),
    "ids below zero": ("/v1/completions", _filled('{"prompt":[', "-1", "]}")),
    "lists of ids": ("/v1/completions", _filled('{"prompt":[', "[-1]", "]}")),
    "a text and numbers": ("/v1/completions", _filled('{"prompt":["",', "-1", "]}")),
    "empty texts": ("/v1/completions", _filled('{"prompt":[', '""', "]}")),
    "good ids": ("/v1/completions", _filled('{"prompt":[', "1", "]}")),
    "large floats": ("/v1/completions", _filled('{"prompt":[', "1e99", "]}")),
    "long numbers": ("/v1/completions", _filled('{"prompt":[', "9" * 4000, "]}")),
    "one number": ("/v1/completions", b'{"max_tokens":' + b"9" * (1 << 20) + b"}"),
    "brackets": ("/v1/completions", b'{"prompt":' + b"[" * (1 << 20)),
    "quotes": ("/v1/completions", b'{"prompt":"' + b'\\"' * (1 << 20)),
    "detokenize": ("/detokenize", _filled('{"tokens":[', "-1", "]}")),
    "keys": ("/tokenize", _filled("{", '"prompt":0', "}")),
}


@pytest.mark.parametrize("name", STORMS)
def test_a_body_of_errors_is_one_error_soon(name):
    path, body = STORMS[name]
    with served_once() as address:
        started = time.process_time()
        status, answer = ask(address, path, body[: 4 << 20])
        assert status == 400, answer[:200]
        assert len(answer) < 2000
        assert time.process_time() - started < 2.0  # the whole process's; 59 s where every error is kept


_ONCE = []


@contextmanager
def served_once():
    """One server for all bodies of this file."""
    if not _ONCE:
        manager = served()
        _ONCE.append((manager, manager.__enter__()))
    yield _ONCE[0][1]


@pytest.fixture(scope="module", autouse=True)
def end_server():
    yield
    while _ONCE:
        _ONCE.pop()[0].__exit__(None, None, None)


def test_a_body_is_measured_before_it_is_made():
    for raw in (b"[" + b"{}," * (1 << 20) + b"{}]", b"[" * 1000, b'{"a":' * 100):
        tracemalloc.start()
        with pytest.raises(ApiError):
            bodies.parse(raw)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3 * len(raw) + (1 << 20)
    assert bodies.parse(b'{"a": "' + b"[,{" * 400_000 + b'"}')["a"].startswith("[,{")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
FIELDS = ("messages", "prompt", "stop", "tools", "logit_bias", "max_tokens", "temperature", "top_p", "seed", "n",
          "stream", "logprobs", "tokens", "model", "stream_options", "echo", "top_k", "response_format")  # fmt: skip
PATHS = ("/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize", "/health", "/v1/models/x")
BODIES = st.tuples(
    st.sampled_from(PATHS), st.dictionaries(st.sampled_from(FIELDS), json_values) | json_values | st.binary()
)


def _is_no_failure(case):
    path, value = case
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    with served_once() as address:
        assert ask(address, path, body, timeout_s=PATIENCE_S)[0] < 500


def fuzz(check, drawn, *, seconds, num_examples):
    """Check what is drawn, by so many at a time and another seed for each, for so long."""
    with served_once():
        lane = Lane()  # what the server itself takes is no case's

    def case(value):
        with lane.case(ascii(value)):
            check(value)

    for number in itertools.count():
        seed(number)(settings(max_examples=num_examples, deadline=None, database=None)(given(drawn)(case)))()
        if not lane.goes_on(seconds):
            return lane


def test_no_body_is_a_failure_of_the_server():
    assert fuzz(_is_no_failure, BODIES, seconds=0, num_examples=60).num >= 60


@pytest.mark.torture
@pytest.mark.timeout(LONG_S + 600)
def test_none_of_tens_of_thousands_of_bodies_is_a_failure_of_the_server():
    print(fuzz(_is_no_failure, BODIES, seconds=LONG_S, num_examples=1000))


def _seconds(text):
    """CPU time of reading and checking bodies that hold this text wherever text may be."""
    bodies_ = [(schema.ChatBody, {"messages": [{"role": "user", "content": [{"type": "text", "text": text}]}]}),
               (schema.ChatBody, {"messages": [{"role": text, "content": text}], "stop": [text, 0], "user": text}),
               (schema.CompletionBody, {"prompt": [text, text], "stop": text, "model": text}),
               (schema.TokenizeBody, {"prompt": text, text[:50]: text})]  # fmt: skip
    started = time.process_time()
    for kind, body in bodies_:
        with suppress(ValidationError):
            kind.model_validate(bodies.parse(json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")))
    return time.process_time() - started


@pytest.mark.parametrize("size", [8_000, pytest.param(1 << 20, marks=pytest.mark.torture)])
def test_checking_four_times_the_text_takes_four_times_the_time(size):
    longer = dict(kinds(4 * size))
    for name, text in kinds(size):
        bound = 4 * 3 * min(_seconds(text) for _ in range(2)) + 0.02
        assert any(_seconds(longer[name]) <= bound for _ in range(4)), name


PARTS = (
    b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: 99999999999999999999\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"5\r\nabcde\r\n", b"0\r\n\r\n",
    b"ffffffffffffffff\r\n", b"Expect: 100-continue\r\n", b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
    b"Connection: keep-alive\r\n", b"X: " + b"a" * 20_000 + b"\r\n", b"Host:\r\nHost: a\r\n", b" folded\r\n",
    b"HEAD http://127.0.0.1/health HTTP/1.0\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b'{"prompt": "x"}',
)  # fmt: skip
SENT = st.lists(
    st.binary(max_size=200) | st.sampled_from([HEAD, b"\r\n\r\n", b"GET / HTTP/1.1\r\n", *PARTS]), max_size=6
)


def _ends_nothing(pieces):
    with served_once() as address:
        with socket.create_connection(address) as connection:
            for piece in pieces:
                try:
                    connection.sendall(piece)
                except OSError:
                    break
        assert ask(address, timeout_s=PATIENCE_S)[0] == 200


def test_no_bytes_on_a_connection_end_the_server():
    assert fuzz(_ends_nothing, SENT, seconds=0, num_examples=40).num >= 40


@pytest.mark.torture
@pytest.mark.timeout(LONG_S + 600)
def test_no_bytes_on_tens_of_thousands_of_connections_end_the_server():
    print(fuzz(_ends_nothing, SENT, seconds=LONG_S, num_examples=1000))


@pytest.mark.parametrize("where", ["embed", "head"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_answer_without_numbers_fails_alone(where, value):
    def load():
        model = random_model(2)
        with torch.no_grad():
            getattr(model, where).weight[BROKEN] = value
        return Engine(model, byte_tokenizer())

    with served(load=load) as address:
        for fields in ({}, {"temperature": 0}, {"top_k": 0}, {"top_p": 0.9}, {"logprobs": True, "top_logprobs": 3}):
            body = {"messages": [{"role": "user", "content": "Z"}], "max_tokens": 4, **fields}
            assert ask(address, "/v1/chat/completions", body)[0] == 500 or (where, value) == ("head", float("inf"))
        echo = {"prompt": "aZ", "echo": True, "logprobs": 1, "max_tokens": 0}
        assert ask(address, "/v1/completions", echo)[0] in (200, 500)
        status, _ = ask(
            address, "/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
        )
        assert status == (200 if where == "embed" else status)
        assert ask(address)[0] == 200


@pytest.mark.parametrize("runs_ahead", [False, True])
def test_a_row_of_no_numbers_leaves_nothing_to_its_neighbours_and_followers(runs_ahead):
    sound, broken = random_model(2), random_model(2)
    with torch.no_grad():
        broken.embed.weight[BROKEN] = float("nan")
    sampling = Sampling(max_new_tokens=12, seed=1)
    expected = Engine(sound, byte_tokenizer()).generate([[1, 2, 3]], [sampling])[0].tokens
    batch = (engine := Engine(broken, byte_tokenizer(), runs_ahead=runs_ahead)).slots(2)
    bad, beside, after = (engine.request(ids, sampling) for ids in ([BROKEN] * 30, [1, 2, 3], [1, 2, 3]))
    batch.add([bad, beside])
    while not bad.is_done:
        batch.step()
    assert isinstance(bad.failure, CorruptError)
    batch.add([after])
    while not (beside.is_done and after.is_done):
        batch.step()
    assert beside.answer.tokens == after.answer.tokens == expected
    with pytest.raises(CorruptError, match="not finite"):
        engine.generate([[BROKEN]], [sampling])


def test_weights_that_are_no_numbers_are_named():
    model = random_model(2)
    check_finite(model, name="m@1")
    with torch.no_grad():
        model.head.weight[3, 5] = float("inf")
    with pytest.raises(CorruptError, match=r"head\.weight of m@1: 1 of"):
        check_finite(model, name="m@1")


def _job(client, request, cost):
    job = Job(Prompt([1] * cost))
    job.client = client
    job.inbox = request
    return job


def test_clients_take_turns_and_so_do_their_requests():
    turns, requests = Turns(), [object() for _ in range(4)]
    turns.add([_job(("a", ""), requests[0], 100) for _ in range(64)])
    turns.add([_job(("a", ""), requests[1], 4)])
    turns.add([_job(("b", ""), requests[2], 100) for _ in range(2)])
    order = [turns.take(lambda _: True) for _ in range(6)]
    assert order[0].cost == 4
    assert [job.client[0] for job in order[1:5]].count("b") == 2
    assert len(turns) == 61
    turns.add([_job(("c", ""), requests[3], 50)])
    assert turns.take(lambda _: True).client[0] == "c"
    assert turns.take(lambda _: False) is None
    for job in turns:
        job.is_cancelled = True
    assert turns.drop_cancelled() == 61
    assert len(turns) == 0


def test_a_batch_of_another_client_does_not_hold_up_a_short_request():
    with served(num_rows=2, max_waiting=128) as address:
        bodies_ = json.dumps({"prompt": ["x"] * 64, "max_tokens": 200}).encode()
        greedy = socket.create_connection(address)
        greedy.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(bodies_) + bodies_)
        time.sleep(0.5)
        started = time.monotonic()
        assert ask(address, "/v1/completions", {"prompt": "hi", "max_tokens": 4})[0] == 200
        mine_s = time.monotonic() - started
        greedy.settimeout(0.01)
        assert not is_let_go(greedy)
        with pytest.raises(TimeoutError):
            greedy.recv(1)  # the batch is not over: the request went past it
        greedy.close()
        assert mine_s < 20


def test_a_queue_that_one_client_filled_has_places_for_others():
    limits = Limits(num_rows=2, max_waiting=16)
    engine = Scheduler("m", Engine(random_model(1), byte_tokenizer()), limits=limits, metrics=Metrics().of_model("m"))

    def asked(address, num_prompts=1):
        try:
            engine.submit([_job((address, ""), object(), 4) for _ in range(num_prompts)])
        except ApiError as error:
            return error.status
        return 200

    assert asked("a", 18) == 200
    assert asked("a", 2) == asked("b", 2) == 429, "batches"
    assert [asked("a") for _ in range(3)] == [200, 200, 429], "beside a batch of its own"
    assert [asked(address) for address in "bbccd"] == [200, 429, 200, 429, 429], "of who has none"


def test_a_log_has_a_budget(caplog, monkeypatch):
    now_s = iter([0.0] * 999 + [0.3])
    monkeypatch.setattr(log_budget, "time", SimpleNamespace(monotonic=functools.partial(next, now_s)))
    log, written, handler = logging.getLogger("hostile"), [], logging.Handler()
    handler.emit = lambda record: written.append(record.getMessage())
    handler.addFilter(LogBudget(handler, lambda record: record.lineno, lambda: Budget(3, 0.2, seen_s=0.0)))
    log.addHandler(handler)
    for number in range(1000):
        log.warning("no %d", number)
    log.removeHandler(handler)
    assert written == ["no 0", "no 1", "no 2", "996 lines before the next one left out", "no 999"]


def test_the_document_lists_the_limits_that_hold():
    text = (Path(__file__).parents[3] / "docs/serving.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+)", text, re.MULTILINE))
    assert listed == {field.name: str(field.default) for field in dataclasses.fields(Limits)}
    for number in (schema.MAX_MESSAGES, schema.MAX_PARTS, bodies.MAX_VALUES, bodies.MAX_CONTAINERS, bodies.MAX_DEPTH):
        assert f"{number} " in text
