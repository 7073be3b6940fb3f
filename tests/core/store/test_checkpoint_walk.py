"""A walk through every request that keeping a checkpoint in object storage makes, each going wrong in every way.

Whatever happens to a request (refused, done but reported as failed, cut in half, the client killed after it), a new
machine finds the checkpoint before or the new one, whole; and the next upload goes as if nothing had been.
"""

import contextlib
import os
import shutil
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import torch

from nanochat_core.base.distributed import World
from nanochat_core.base.errors import NanochatError
from nanochat_core.pipeline.checkpoints import CheckpointKeeper
from nanochat_core.store import partial as partial_module
from nanochat_core.store import s3, s3_open
from nanochat_core.store.partial import Partial
from nanochat_core.store.store import Store
from nanochat_core.train import checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]
OLD, NEW, NEXT = 100, 200, 300
NUM_VALUES = 3 << 20  # 12 MiB: three parts of the smallest size that S3 allows
SAMPLE = 6  # requests of an upload that CI walks through, spread over all


Fault = Literal["fail", "done but failed", "truncate", "killed after"]
FAULTS: tuple[Fault, ...] = ("fail", "done but failed", "truncate", "killed after")
ERROR = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
TIMEOUT_S = 20


@dataclass
class Plan:
    """Which request goes wrong, and how; counts requests since it was made."""

    at: int | None = None
    fault: Fault = "fail"
    seen: list[str] = field(default_factory=list)
    """Method and path of each request."""
    is_dead: bool = False
    """The client is as good as killed: nothing that it sends arrives any more."""


class FaultyProxy(socketserver.ThreadingTCPServer):
    """An HTTP proxy before the S3 server that does one thing wrong at a chosen request; `plan` may be replaced.

    It works on bytes: a request is passed on as it came (its signature covers the Host header that the client saw),
    each on a connection of its own, so that what is cut is cut for both sides.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        parts = urlsplit(upstream)
        self.upstream = (parts.hostname or "", parts.port or 80)
        self.plan = Plan()
        self.lock = threading.Lock()
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fault(self, request: str) -> Fault | Literal["dead"] | None:
        with self.lock:
            plan = self.plan
            if plan.is_dead:
                return "dead"
            plan.seen.append(request)
            if plan.at is None or len(plan.seen) != plan.at + 1:
                return None
            plan.is_dead = plan.fault == "killed after"
            return plan.fault


class _Connection(socketserver.StreamRequestHandler):
    server: FaultyProxy

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self._one_request()

    def _one_request(self) -> None:
        head = _head(self.rfile)
        if not head:
            return
        lines = head.split(b"\r\n")
        if _header(lines, b"expect"):
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = _body(self.rfile, lines)
        method, path, _ = lines[0].decode().split(" ", 2)
        fault = self.server.next_fault(f"{method} {path}")
        if fault == "dead":
            return
        if fault == "fail":
            self.wfile.write(ERROR)
            return
        kept = [line for line in lines if line.lower().split(b":")[0] not in (b"expect", b"connection")]
        message = b"\r\n".join([*kept[:1], b"Connection: close", *kept[1:]])
        if fault == "truncate" and body:
            self._pass_on(message + body[: len(body) // 2], is_cut=True)
            return
        answer = self._pass_on(message + body)
        if fault == "done but failed":
            self.wfile.write(ERROR)
        elif fault == "truncate":
            self.wfile.write(answer[: answer.find(b"\r\n\r\n") + 4 + (len(answer) - answer.find(b"\r\n\r\n")) // 2])
        else:
            self.wfile.write(answer)

    def _pass_on(self, message: bytes, *, is_cut: bool = False) -> bytes:
        """The whole answer of the server; of a message that is cut, whatever it says to that.

        A whole one is not followed by an end: a server in Go takes that for a client that has gone, and gives up what
        it has begun (a listing then fails with InternalError).
        """
        with socket.create_connection(self.server.upstream, timeout=TIMEOUT_S) as there:
            there.sendall(message)
            if is_cut:
                there.shutdown(socket.SHUT_WR)
            pieces = []
            while piece := there.recv(1 << 16):
                pieces.append(piece)
        return b"".join(pieces)


def _head(file: BinaryIO) -> bytes:
    lines = []
    while (line := file.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return b"".join([*lines, b"\r\n"]) if lines else b""


def _header(lines: list[bytes], name: bytes) -> bytes | None:
    return next((line.partition(b":")[2].strip() for line in lines if line.lower().startswith(name + b":")), None)


def _body(file: BinaryIO, lines: list[bytes]) -> bytes:
    """The bytes of the body as they came, chunks with their sizes."""
    if length := _header(lines, b"content-length"):
        return bytes(file.read(int(length)))
    if (_header(lines, b"transfer-encoding") or b"").lower() != b"chunked":
        return b""
    pieces = []
    while True:
        size = file.readline()
        chunk = file.read(int(size.split(b";")[0], 16) + 2)
        pieces += [size, chunk]
        if chunk == b"\r\n":
            return b"".join(pieces)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three checkpoints of a training, as it leaves them on its own disk."""
    folder = tmp_path_factory.mktemp("trained")
    for step in (OLD, NEW, NEXT):
        metrics = folder / "metrics.jsonl"
        metrics.write_text(f'{{"event": "step", "step": {step}}}\n')
        tensors = {"w": torch.full((NUM_VALUES,), float(step))}
        checkpoint.save(folder / str(step), step, tensors, state={"loss": 1.0}, metrics=metrics, world=World())
    return folder


@pytest.fixture
def proxy(s3_server, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """Between the store and the server; requests come one after the other and none is tried again."""
    server = FaultyProxy(s3_server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setattr(s3_open, "S3_ATTEMPTS", 0)  # tries after the first
    monkeypatch.setattr(s3_open, "S3FS_RETRIES", 1)
    monkeypatch.setattr(s3, "PART_BYTES", 5 << 20)
    monkeypatch.setattr(s3, "PART_CONCURRENCY", 1)
    monkeypatch.setattr(partial_module, "in_parallel", lambda call, items: [call(item) for item in items])
    yield server
    server.shutdown()
    server.server_close()


class Walk:
    """One store of its own behind the proxy."""

    def __init__(self, proxy: FaultyProxy, url: str, checkpoints: Path, tmp_path: Path) -> None:
        self.proxy, self.checkpoints, self.tmp_path = proxy, checkpoints, tmp_path
        store = Store.open(f"{url}/{uuid4().hex[:8]}", cache_folder=tmp_path / "cache")
        self.partial: Partial = store.partial("pretrain", "ab" * 32)

    def keeper(self) -> CheckpointKeeper:
        scratch = self.tmp_path / uuid4().hex[:8]
        return CheckpointKeeper(self.partial, scratch=scratch / "checkpoints")

    def upload(self, step: int, *, plan: Plan) -> list[str]:
        """A machine trains to `step` and keeps it, while `plan` goes on; returns the requests that it made."""
        keeper = self.keeper()
        folder = keeper.prepare()
        self.proxy.plan = plan
        name = f"step-{step:08d}"
        shutil.copytree(self.checkpoints / str(step) / name, folder / name, copy_function=os.link)
        keeper.on_record({"event": "checkpoint", "step": step, "name": name})
        keeper.finish()
        return plan.seen

    def found(self, *, plan: Plan | None = None) -> int:
        """The step that a new machine goes on from; it fails where that is a mix."""
        self.proxy.plan = plan or Plan()
        folder = self.keeper().prepare()
        tensors = {"w": torch.zeros(NUM_VALUES)}
        loaded = checkpoint.load_newest(folder, tensors, world=World())
        assert loaded is not None, "the older one is gone, too"
        step: int = loaded[1]["step"]
        assert torch.equal(tensors["w"], torch.full((NUM_VALUES,), float(step)))
        assert f'"step": {step}' in (loaded[0] / "metrics.jsonl").read_text()
        return step


@pytest.fixture
def walk(proxy: FaultyProxy, s3_url: str, checkpoints: Path, tmp_path: Path) -> Walk:
    return Walk(proxy, s3_url, checkpoints, tmp_path)


def go_through(walk: Walk, fault: Fault, numbers: slice) -> dict[int, int]:
    """How often each step was found, over the chosen requests of an upload."""
    walk.upload(OLD, plan=Plan())
    requests = walk.upload(NEW, plan=Plan())
    assert any("uploadId" in request or "uploads" in request for request in requests), "no upload in parts"
    results = {OLD: 0, NEW: 0}
    for number in range(len(requests))[numbers]:
        for name in ("step-00000200", "step-00000300"):
            walk.proxy.plan = Plan()
            walk.partial.remove(name)
        if walk.partial.names() != ["step-00000100"]:
            walk.upload(OLD, plan=Plan())
        walk.upload(NEW, plan=Plan(at=number, fault=fault))
        results[walk.found()] += 1
        walk.upload(NEXT, plan=Plan())
        assert walk.found() == NEXT
    return results


def test_a_sample_of_faults_leaves_the_checkpoint_before_or_the_new_one(walk: Walk) -> None:
    results = go_through(walk, "done but failed", slice(2, None, SAMPLE))
    assert results[OLD] > 0


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_every_request_leaves_the_checkpoint_before_or_the_new_one(walk: Walk, fault: Fault) -> None:
    results = go_through(walk, fault, slice(None))
    print(f"{fault}: {sum(results.values())} requests, step k {results[NEW]} times, step k-1 {results[OLD]} times")
    assert results[OLD] > 0
    assert results[NEW] > 0


@pytest.mark.torture
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_every_request_of_a_download_gives_a_whole_one_or_an_error(walk: Walk, fault: Fault) -> None:
    walk.upload(OLD, plan=Plan())
    walk.upload(NEW, plan=Plan())
    reading = Plan()
    assert walk.found(plan=reading) == NEW
    for number in range(len(reading.seen)):
        try:
            assert walk.found(plan=Plan(at=number, fault=fault)) in (OLD, NEW)
        except NanochatError:
            assert walk.found() == NEW, "the store is as it was"
