"""A small S3 server in memory whose refusals a test chooses: what real servers say, and the test server does not.

`FaultyS3(refuse)` asks `refuse` about each request; what it returns is the answer in place of an honest one. For the
store's guarantees the tests have a real server (s3_server.py); this one shows which words people get to read.
"""

import hashlib
import re
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"


@dataclass(frozen=True)
class Request:
    """What a client asks."""

    method: str
    key: str
    query: dict[str, str]
    headers: Any
    number: int
    """Of the requests so far, this one included."""

    @property
    def is_list(self) -> bool:
        return self.method == "GET" and not self.key

    @property
    def region(self) -> str | None:
        """That it was signed for."""
        found = re.search(r"Credential=[^/]+/\d+/([^/]+)/", self.headers.get("Authorization", ""))
        return found[1] if found else None


@dataclass(frozen=True)
class Refusal:
    """An error as S3 has them; a HEAD gets its status alone."""

    status: int
    code: str
    message: str = ""
    more: str = ""


class FaultyS3(ThreadingHTTPServer):
    """The server; `with` starts and ends it."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(
        self, refuse: Callable[[Request], Refusal | None] = lambda request: None, *, certificate: Path | None = None
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuse = refuse
        self.has_etags = True
        self.objects: dict[str, bytes] = {}
        self.seen: list[Request] = []
        self.scheme = "http"
        if certificate is not None:
            self.scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_address[1]}"

    def environment(self) -> dict[str, str]:
        return {"AWS_ENDPOINT_URL": self.url, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "s3cr3t"}

    def __enter__(self) -> "FaultyS3":
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what many tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyS3

    def _any(self) -> None:
        body = self._body()
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        request = Request(self.command, key, query, self.headers, len(self.server.seen) + 1)
        self.server.seen.append(request)
        refusal = self.server.refuse(request)
        if refusal is None and bucket != BUCKET:
            refusal = Refusal(404, "NoSuchBucket")
        if refusal is not None:
            return self._refuse(refusal)
        answer = self._list if request.is_list else getattr(self, f"_{self.command.lower()}")
        answer(request, body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _any

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _list(self, request: Request, body: bytes) -> None:
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter")
        names = [name for name in sorted(self.server.objects) if name.startswith(prefix)]
        if delimiter:
            names = [name for name in names if delimiter not in name[len(prefix) :]]
        when = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
        found = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>{when}</LastModified><ETag>x</ETag>"
            f"<Size>{len(self.server.objects[name])}</Size></Contents>"
            for name in names
        )
        self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode())

    def _put(self, request: Request, body: bytes) -> None:
        if "uploadId" in request.query:
            self.server.objects[f".{request.query['partNumber']}"] = body
        elif self.headers.get("If-None-Match") and request.key in self.server.objects:
            return self._refuse(Refusal(412, "PreconditionFailed"))
        else:
            self.server.objects[request.key] = body
        tag = {"ETag": f'"{hashlib.md5(body).hexdigest()}"'} if self.server.has_etags else {}
        self._answer(200, b"", **tag)

    def _post(self, request: Request, body: bytes) -> None:
        self._answer(200, b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>")

    def _get(self, request: Request, body: bytes) -> None:
        content = self.server.objects.get(request.key)
        if content is None:
            return self._refuse(Refusal(404, "NoSuchKey"))
        self._answer(200, content)

    _head = _get

    def _delete(self, request: Request, body: bytes) -> None:
        self.server.objects.pop(request.key, None)
        self._answer(204, b"")

    def _refuse(self, refusal: Refusal) -> None:
        text = f"<Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message>{refusal.more}</Error>"
        self._answer(refusal.status, text.encode())

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        now = formatdate(usegmt=True)
        for name, value in {"Content-Length": str(len(body)), "Last-Modified": now, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr; see `FaultyS3.seen`."""
