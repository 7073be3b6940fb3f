"""Who is let in: token, host, size; and the headers that keep the page safe."""

import httpx
import pytest

TOKEN = "correct-horse"
CHAT = "/v1/chat/completions"


@pytest.fixture
def locked(serve_endless):
    with serve_endless(token=TOKEN) as served:
        yield served


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xe9"]
)
def test_without_the_token_nothing_but_the_page_and_health_answers(locked, header):
    headers = {} if header is None else {b"authorization": header.encode("latin-1")}
    for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/metrics"), ("GET", "/openapi.json")):
        answer = locked.http.request(method, path, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert locked.http.get("/health").status_code == 200
    assert locked.http.get("/").status_code in (200, 404)
    assert locked.http.get("/static/none.js").status_code == 404
    assert locked.http.get("/static/../v1/models").status_code == 401


def test_with_the_token_everything_answers_under_any_host(locked):
    headers = {"Authorization": f"Bearer {TOKEN}", "Host": "models.example.org"}
    assert locked.http.get("/v1/models", headers=headers).status_code == 200
    ask = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
    assert locked.http.post(CHAT, headers=headers, json=ask).status_code == 200


def test_without_a_token_another_host_name_is_refused(served):
    for host in (
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "0.0.0.0:1",
        "localhost..",
        "x@localhost",
    ):
        answer = served.http.get("/v1/models", headers={"Host": host})
        assert answer.status_code == 403
        assert answer.json()["error"]["code"] == "wrong_host"
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:80", "localhost.", "localhost.:8000"):
        assert served.http.get("/v1/models", headers={"Host": host}).status_code == 200


def test_a_key_is_ignored_where_no_token_is_configured(served):
    assert served.http.get("/v1/models", headers={"Authorization": "Bearer sk-none"}).status_code == 200


def test_a_large_body_is_refused_whether_or_not_it_says_its_length(serve_endless):
    with serve_endless(max_body_bytes=2048) as served:
        ask = b'{"messages": [{"role": "user", "content": "' + b"x" * 3000 + b'"}]}'
        headers = {"Content-Type": "application/json"}
        said = served.http.post(CHAT, content=ask, headers=headers)
        assert said.status_code == 413
        assert said.json()["error"]["code"] == "body_too_large"
        pieces = (ask[start : start + 500] for start in range(0, len(ask), 500))
        unsaid = httpx.post(f"{served.http.base_url}{CHAT}", content=pieces, headers=headers)
        assert unsaid.status_code == 413
        assert "2048" in unsaid.json()["error"]["message"]
        assert served.chat("x" * 1000, max_tokens=1).status_code == 200


def test_a_web_page_elsewhere_cannot_post_without_asking_first(served):
    answer = served.http.post(CHAT, content=b'{"messages": []}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 400
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", "/health", "/v1/models", "/nothing", "/static/nothing.js"])
def test_every_answer_carries_the_safe_headers(served, path):
    headers = served.http.get(path).headers
    assert headers["Content-Security-Policy"].startswith("default-src 'self';")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize("path", ["/", "/static/main.js", "/static/style.css"])
def test_the_page_and_its_modules_are_asked_for_again_after_an_upgrade(served, path):
    answer = served.http.get(path)
    assert answer.status_code == 200
    assert answer.headers["Cache-Control"] == "no-cache"
    assert served.http.get(path, headers={"If-None-Match": answer.headers["ETag"]}).status_code == (
        304 if path != "/" else 200
    )
