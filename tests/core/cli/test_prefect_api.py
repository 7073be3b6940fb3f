"""A configured server that is not there, or is something else, is said in a line; a restart is waited for."""

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nanochat_core.base.errors import NanochatError
from nanochat_core.cli.prefect_api import Configured, check, from_environment

VERSION = json.dumps("3.8.8").encode()
PAGE = b"<html><title>Welcome to nginx!</title></html>"


@contextlib.contextmanager
def answering(*answers: tuple[int, bytes], port: int = 0, path: str = "/api/admin/version") -> Iterator[int]:
    """A server that gives these answers below `path`, the last one again and again; its port."""
    left = list(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = (left.pop(0) if len(left) > 1 else left[0]) if self.path == path else (404, PAGE)
            if status == 200 and self.headers["Authorization"] not in (None, "Basic bWU6c2VjcmV0"):
                status = 401
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def error_of(server: Configured, wait_s: float = 0.6) -> NanochatError:
    with pytest.raises(NanochatError) as caught:
        check(server, wait_s=wait_s)
    assert "PREFECT_API_URL" in f"{caught.value.message} {caught.value.hint}"
    return caught.value


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, PAGE, "no Prefect server"),
        (404, PAGE, "no Prefect server (404"),
        (200, b'{"detail": "ok"}', "no Prefect server"),
        (200, b"true", "no Prefect server"),
        (200, b'"2.20.3"', "a server of Prefect 2.20.3, and here is Prefect 3"),
        (401, b"", "wants a key"),
        (403, b"", "wants a key"),
        (503, b"", "answers with 503"),
    ],
)
def test_what_answers_in_a_servers_place_is_told(status: int, body: bytes, said: str) -> None:
    with answering((status, body)) as port:
        error = error_of(Configured(url=f"http://127.0.0.1:{port}/api", major="3"))
    assert said in error.message


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9/api", "does not answer (connection refused)"),
        ("http://prefect.invalid:4200/api", "does not answer (there is no such host)"),
        ("127.0.0.1:4200/api", "no address of a server"),
        ("localhost:4200/api", "no address of a server"),
        ("ftp://127.0.0.1/api", "no address of a server"),
        ("http:///api", "no address of a server"),
        ("http://[::1/api", "no address of a server"),
        ("http://127.0.0.1:notaport/api", "no address of a server"),
        ("not a url", "no address of a server"),
    ],
)
def test_where_nobody_answers_the_address_is_named(url: str, said: str) -> None:
    error = error_of(Configured(url=url))
    assert f"PREFECT_API_URL = {url} " in error.message
    assert said in error.message


def test_a_server_that_never_answers_is_not_waited_for_longer_than_said() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        error = error_of(Configured(url=f"http://127.0.0.1:{silent.getsockname()[1]}/api"), wait_s=2.0)
    assert "no answer in time" in error.message
    assert time.monotonic() - began < 30


def test_a_password_in_the_address_is_not_shown() -> None:
    error = error_of(Configured(url="http://me:secret@127.0.0.1:9/api"))
    assert "secret" not in f"{error.message}{error.hint}"
    assert "127.0.0.1:9/api" in error.message


def test_http_behind_https_is_told() -> None:
    with answering((200, VERSION)) as port:
        error = error_of(Configured(url=f"https://127.0.0.1:{port}/api"))
    assert "TLS" in error.message


def test_an_address_without_api_is_guessed() -> None:
    with answering((200, VERSION)) as port, pytest.raises(NanochatError) as caught:
        check(Configured(url=f"http://127.0.0.1:{port}/"), wait_s=0)
    assert caught.value.hint == f"did you mean http://127.0.0.1:{port}/api"


def test_a_server_that_is_restarting_is_waited_for() -> None:
    with answering((502, b""), (503, b""), (200, VERSION)) as port:
        check(Configured(url=f"http://127.0.0.1:{port}/api", major="3"), wait_s=30)


def test_the_credentials_of_the_environment_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering((200, VERSION)) as port:
        url = f"http://127.0.0.1:{port}/api"
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:secret")
        check(from_environment(url), wait_s=0)
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", "me:wrong")
        assert "wants a key" in error_of(from_environment(url)).message


@pytest.mark.parametrize("name", ["http_proxy", "ALL_PROXY"])
def test_no_proxy_is_asked_for_a_server_on_this_machine(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    with answering((200, VERSION)) as port:
        check(Configured(url=f"http://127.0.0.1:{port}/api"), wait_s=0)
