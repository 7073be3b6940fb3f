"""Servers of ours are asked directly, whatever proxies the environment names."""

import http.server
import threading

import pytest

from nanochat_core.base.loopback import ask


class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        return


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("value", ["http://127.0.0.1:9", "socks5://127.0.0.1:9", "proxy:3128", "http://[::1"])
def test_no_proxy_is_asked_for_a_server_of_ours(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with ask(f"http://127.0.0.1:{server.server_address[1]}/", timeout_s=30) as answer:
            assert answer.read() == b"true"
        server.shutdown()
