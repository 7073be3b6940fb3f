"""HTTP as machines speak it: health checks, proxies, browsers and other languages' clients, over raw sockets."""

import codecs
import contextlib
import json
import socket
from urllib.parse import urlsplit

import pytest

from nanochat_core.serve import completions
from nanochat_core.serve.guards import client_of

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "hi"}]
TOKEN = "correct-horse"


def say(served, text):
    """Send bytes; the status and everything that comes until the server closes."""
    place = urlsplit(str(served.http.base_url))
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        connection.sendall(text)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return int(answer.split()[1]), answer


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/v1/models/tiny-chat", "/metrics", "/tokenizer_info",
                                  "/openapi.json", "/static/main.js"])  # fmt: skip
def test_head_answers_like_get_without_a_body(served, path):
    whole, head = served.http.get(path), served.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"] == whole.headers["Content-Type"]
    if path != "/metrics":  # it has moved on
        assert head.headers["Content-Length"] == whole.headers["Content-Length"]


def test_head_of_what_get_refuses_is_refused(served):
    assert served.http.head("/v1/models/nobody").status_code == 404
    assert served.http.head(CHAT).status_code == 405
    assert served.http.head("/health", headers={"Host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("line", ["GET /health HTTP/1.0", "HEAD /health HTTP/1.0", "GET /health/ HTTP/1.0"])
@pytest.mark.parametrize("headers", ["", "Connection: keep-alive\r\n", "Host:\r\n", "User-Agent: check\r\n"])
def test_health_answers_http_1_0_without_a_host(served, line, headers):
    status, answer = say(served, f"{line}\r\n{headers}\r\n".encode())
    assert status == 200
    assert answer.endswith(b"\r\n\r\n") is line.startswith("HEAD")


@pytest.mark.parametrize("path", ["/", "/v1/models", "/metrics", "/openapi.json", "/static/main.js", "/healthy"])
def test_nothing_else_answers_without_a_host(served, path):
    assert say(served, f"GET {path} HTTP/1.0\r\n\r\n".encode())[0] == 403


def test_a_target_with_the_whole_address_is_its_path_and_its_host_counts(served):
    def ask(target, host):
        return say(served, f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())[0]

    assert ask("http://127.0.0.1:1/v1/models", "127.0.0.1:1") == 200
    assert ask("HTTP://localhost/v1/models/", "localhost") == 200
    assert ask("http://127.0.0.1:1", "localhost") == 200  # the page
    assert ask("http://evil.example/v1/models", "127.0.0.1") == 403
    assert ask("http://127.0.0.1/v1/models", "evil.example") == 403
    assert say(served, b"GET http://evil.example/health HTTP/1.0\r\n\r\n")[0] == 403


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models//", "/v1/models/tiny-chat/"])
def test_slashes_too_many_are_no_other_path(served, path):
    target = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    assert say(served, target.encode())[0] == 200


def test_a_post_with_a_slash_at_the_end_is_answered_where_it_is(served):
    answer = served.http.post(f"{CHAT}/", json={"messages": HI, "max_tokens": 1}, follow_redirects=False)
    assert answer.status_code == 200


def test_no_spelling_of_a_path_goes_around_the_token(serve_endless):
    with serve_endless(token=TOKEN) as served:
        for target in ("//v1/models", "/v1/models/", "/static//../v1/models", "/health/../v1/models",
                       "/static/../metrics", "http://x/v1/models", "/%2Fv1/models",
                       "/static/%2e%2e/v1/models"):  # fmt: skip
            request = f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            assert say(served, request.encode())[0] in (401, 404), target
        assert served.http.head("/health/").status_code == 200
        assert served.http.head("/v1/models").status_code == 401
        lower = {"Authorization": f"bearer {TOKEN}"}
        assert served.http.get("/v1/models/", headers=lower).status_code == 200


@pytest.mark.parametrize("kind", ["application/json", "application/json; charset=utf-8",
                                  "Application/JSON;charset=UTF-8", "application/vnd.api+json"])  # fmt: skip
@pytest.mark.parametrize("encode", [str.encode, lambda text: codecs.BOM_UTF8 + text.encode(),
                                    lambda text: text.encode("utf-16")], ids=["plain", "bom", "utf-16"])  # fmt: skip
def test_json_is_read_under_every_way_to_name_and_write_it(served, kind, encode):
    raw = encode(json.dumps({"prompt": "Grüße", "max_tokens": 0, "echo": True}, ensure_ascii=False))
    answer = served.http.post(COMPLETIONS, content=raw, headers={"Content-Type": kind, "Content-Encoding": "identity"})
    assert answer.json()["choices"][0]["text"] == "Grüße"


def test_a_client_that_waits_to_be_told_to_continue_is(served):
    body = json.dumps({"messages": HI, "max_tokens": 1}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n"
    head += f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    _, answer = say(served, head.encode() + body)
    assert b" 100 " in answer.split(b"\r\n")[0]
    assert b"HTTP/1.1 200" in answer


def test_a_preflight_of_another_origin_gets_no_leave(served):
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    answer = served.http.options(CHAT, headers=headers)
    assert answer.status_code == 405
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Type: application/json\r\nContent-Type: text/plain\r\n",
        "Content-Type: text/plain\r\nContent-Type: application/json\r\n",
        "Content-Type: application/json\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n",
        "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n",
        "Content-Type: application/json\r\nContent-Length: 3\r\n",
    ],
)
def test_a_body_that_is_said_to_be_two_things_is_refused(served, headers):
    body = b'{"prompt": "a", "max_tokens": 0}'
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    assert say(served, f"{head}{headers}\r\n".encode() + body)[0] == 400


@pytest.mark.parametrize("host", ["localhost", "evil.example"])
@pytest.mark.parametrize("rest", [b"no size\r\n", b"1\r\nx\r\n" * 3000], ids=["no chunk", "crumbs"])
def test_a_body_that_breaks_after_its_answer_ends_the_connection_and_nothing_else(served, host, rest, caplog):
    head = f"POST /nobody HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    place = urlsplit(str(served.http.base_url))
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        connection.sendall(head)
        assert connection.recv(12) == (b"HTTP/1.1 404" if host == "localhost" else b"HTTP/1.1 403")
        connection.sendall(rest)
        with contextlib.suppress(ConnectionResetError):  # of what it did not read
            while connection.recv(65536):
                pass
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


def test_nobody_writes_themselves_another_address(served, monkeypatch):
    seen = []
    monkeypatch.setattr(completions, "client_of", lambda request: seen.append(client_of(request)) or seen[-1])
    headers = {"X-Forwarded-For": "9.9.9.9", "Forwarded": "for=9.9.9.9", "X-Real-IP": "9.9.9.9"}
    assert served.http.post(COMPLETIONS, json={"prompt": "a", "max_tokens": 0}, headers=headers).status_code == 200
    assert [address for address, _ in seen] == ["127.0.0.1"]
