"""A file server on loopback that misbehaves as it is told, request by request.

Real sockets: what a client sees of a stall or a reset is what it would see of a real one. `server.files[path]` is what
it has; `server.script(path, fault, ...)` spoils the next GET requests for that path, one fault each; `server.log` says
what was asked and how many bytes of a body went out. Byte ranges and If-Range work as RFC 9110 says.
"""

import contextlib
import hashlib
import json
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

PIECE_BYTES = 16 << 10
FOREVER_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What goes wrong with one answer. The default is an honest one."""

    status: int | None = None
    """Answer with this status and no file."""
    headers: dict[str, str | None] = field(default_factory=dict)
    """Sent besides the usual ones, or in their place; None: not sent."""
    after_frac: float | None = None
    """Send this fraction of the body, and then do `then`."""
    then: str = "close"
    """close, reset or stall."""
    lie_bytes: int = 0
    """Added to the Content-Length that is said."""
    wrong_bytes: bool = False
    """Flip the last bit of the file."""
    ignore_range: bool = False
    page: bytes | None = None
    """Send this instead of the file, as a whole answer."""
    change_to: bytes | None = None
    """The file is this from now on."""
    pause_s: float = 0.0
    """Between pieces of the body."""
    piece_bytes: int = PIECE_BYTES


HONEST = Fault()


@dataclass
class Seen:
    """One request, and what became of it."""

    method: str
    path: str
    range: str | None
    if_range: str | None
    authorization: str | None
    at_s: float
    status: int = 0
    num_sent: int = 0


class HttpServer(ThreadingHTTPServer):
    """The server; `with` starts and ends it."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, *, has_etags: bool = True, latency_s: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.has_etags, self.latency_s = has_etags, latency_s
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.always: dict[str, Fault] = {}
        """Path -> what goes wrong with every answer that the script says nothing about."""
        self.log: list[Seen] = []
        self.closing = threading.Event()
        self._scripts: dict[str, list[Fault]] = {}
        self._guard = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def script(self, path: str, *faults: Fault) -> None:
        self._scripts[path] = [*self._scripts.get(path, []), *faults]

    def next_fault(self, path: str) -> Fault:
        with self._guard:
            waiting = self._scripts.get(path)
            return waiting.pop(0) if waiting else self.always.get(path, HONEST)

    def faults_left(self) -> int:
        return sum(map(len, self._scripts.values()))

    def seen(self, path: str) -> list[Seen]:
        return [request for request in self.log if request.path == path]

    def serve_hub(self, name: str, commit: str, shards: dict[str, bytes], *, page_files: int = 1000) -> None:
        """Be the hub for one dataset, as its API and its LFS storage answer."""
        tree = f"/api/datasets/{name}/tree/{commit}?recursive=true"
        for revision in ("main", commit):
            self.files[f"/api/datasets/{name}/revision/{revision}"] = json.dumps({"sha": commit}).encode()
        entries: list[dict[str, Any]] = [{"type": "directory", "path": "data", "oid": "0" * 40, "size": 0}]
        for path, content in shards.items():
            self.files[f"/cdn/{path}"] = content
            self.redirects[f"/datasets/{name}/resolve/{commit}/{path}"] = f"{self.url}/cdn/{path}?X-Signature=secret"
            lfs = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
            entries.append({"type": "file", "path": path, "oid": "1" * 40, "size": len(content), "lfs": lfs})
        for start in range(0, len(entries), page_files):
            path = tree if not start else f"{tree}&cursor={start}"
            self.files[path] = json.dumps(entries[start : start + page_files]).encode()
            if start + page_files < len(entries):
                link = f'<https://elsewhere.invalid{tree}&cursor={start + page_files}>; rel="next"'
                self.always[path] = Fault(headers={"Link": link})

    def serve_model(self, name: str, commit: str, files: dict[str, bytes], *, revisions: tuple[str, ...]) -> None:
        """Be the hub for one model: the weights are in LFS, the rest is in git."""
        said = json.dumps({"id": name, "sha": commit, "siblings": []}).encode()
        for revision in (*revisions, commit):
            self.files[f"/api/models/{name}/revision/{revision}"] = said
        entries: list[dict[str, Any]] = []
        for path, content in files.items():
            digest, is_large = hashlib.sha256(content).hexdigest(), path.endswith((".pt", ".safetensors"))
            where = f"/{name}/resolve/{commit}/{path}"
            self.files[where] = content
            etag = digest if is_large else digest[:40]
            self.always[where] = Fault(headers={"ETag": f'"{etag}"', "X-Repo-Commit": commit})
            lfs = {"lfs": {"oid": digest, "size": len(content), "pointerSize": 134}} if is_large else {}
            entries.append({"type": "file", "path": path, "oid": digest[:40], "size": len(content), **lfs})
        self.files[f"/api/models/{name}/tree/{commit}?recursive=true&expand=false"] = json.dumps(entries).encode()

    def __enter__(self) -> "HttpServer":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HttpServer

    def do_GET(self) -> None:
        # an API path counts with its query, a file's signature does not
        path = unquote(self.path if self.path.startswith("/api/") else urlsplit(self.path).path)
        asked = {name: self.headers.get(name) for name in ("Range", "If-Range", "Authorization")}
        seen = Seen(self.command, path, *asked.values(), time.monotonic())
        self.server.log.append(seen)
        if self.server.latency_s:
            time.sleep(self.server.latency_s)
        fault = self.server.next_fault(path)
        if fault.change_to is not None:
            self.server.files[path] = fault.change_to
        if fault.status is not None:
            self._answer(seen, fault.status, fault.page or b"no", fault, {})
        elif path in self.server.redirects:
            self._answer(seen, 302, b"", fault, {"Location": self.server.redirects[path]})
        elif fault.page is not None:
            self._answer(seen, 200, fault.page, fault, {})
        elif path in self.server.files:
            self._send_file(seen, self.server.files[path], fault)
        else:
            self._answer(seen, 404, b"nothing here", fault, {"Content-Type": "text/html"})

    do_HEAD = do_GET

    def _send_file(self, seen: Seen, content: bytes, fault: Fault) -> None:
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"Accept-Ranges": "bytes", **({"ETag": etag} if self.server.has_etags else {})}
        if fault.wrong_bytes:
            content = content[:-1] + bytes([content[-1] ^ 1])
        match = re.fullmatch(r"bytes=(\d+)-", seen.range or "")
        is_same = seen.if_range is None or (self.server.has_etags and seen.if_range == etag)
        if not match or fault.ignore_range or not is_same:
            return self._answer(seen, 200, content, fault, headers)
        start = int(match[1])
        if start >= len(content):
            return self._answer(seen, 416, b"", fault, {"Content-Range": f"bytes */{len(content)}"})
        where = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return self._answer(seen, 206, content[start:], fault, {**headers, "Content-Range": where})

    def _answer(self, seen: Seen, status: int, body: bytes, fault: Fault, headers: dict[str, str]) -> None:
        seen.status = status
        self.send_response(status)
        said = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body) + fault.lie_bytes)}
        for name, value in {**said, **headers, **fault.headers}.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        whole = len(body) if fault.after_frac is None else int(len(body) * fault.after_frac)
        for start in range(0, whole, fault.piece_bytes):
            piece = body[start : min(whole, start + fault.piece_bytes)]
            self.wfile.write(piece)
            seen.num_sent += len(piece)
            if fault.pause_s and self.server.closing.wait(fault.pause_s):
                break
        if fault.after_frac is not None or fault.lie_bytes:
            self._break_off(fault.then)

    def _break_off(self, how: str) -> None:
        self.close_connection = True
        if how == "stall":
            self.server.closing.wait(FOREVER_S)
        elif how == "reset":  # no lingering: the kernel sends RST instead of FIN
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr; see `HttpServer.log`."""
