"""`nanochat serve` as people start it: an address on stdout, refusals before anything is loaded, a clean end."""

import json
import signal
import socket

import httpx
import pytest
from model_server import start_server
from typer.testing import CliRunner

from nanochat_core.cli import serve
from nanochat_core.cli.app import app

pytestmark = pytest.mark.slow
CHAT = "/v1/chat/completions"
SECRET = "the treasure is under the third oak"


@pytest.fixture(scope="module", autouse=True)
def verb():
    """flows/cli.py adds it to the command line."""
    if not any(command.callback is serve.serve for command in app.registered_commands):
        serve.register(app)


@pytest.fixture
def run(model_home, monkeypatch):
    """The exit code and stderr of a command that is refused."""
    monkeypatch.setenv("NANOCHAT_HOME", str(model_home))
    monkeypatch.setenv("NANOCHAT_STORE", str(model_home / "store"))

    def run(*arguments):
        result = CliRunner().invoke(app, ["serve", *map(str, arguments)])
        assert result.stdout == ""
        return result.exit_code, result.stderr

    return run


def test_an_open_address_without_a_token_is_refused_with_what_to_do(run):
    code, told = run("--host", "0.0.0.0")
    assert code == 2
    assert "--token-file" in told


@pytest.mark.parametrize("content", ["", "short", "two words here", "pässwörter"])
def test_a_token_that_protects_nothing_is_refused(run, tmp_path, content):
    path = tmp_path / "token"
    path.write_text(content)
    code, told = run("--token-file", path)
    assert code == 2
    assert "openssl rand" in told
    assert content == "" or content not in told


def test_what_is_not_there_is_named(run, tmp_path):
    code, told = run("no-such-model")
    assert code == 3
    assert "tiny-chat" in told
    assert run("--token-file", tmp_path / "none")[0] == 3
    assert run("--dtype", "int3")[0] == 2


def test_a_port_in_use_is_an_error_with_advice(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, told = run("tiny-chat", "--port", taken.getsockname()[1])
    assert code == 2
    assert "--port" in told


def test_a_server_keeps_prompts_to_itself_and_finishes_running_answers(model_home):
    with start_server(model_home, "tiny-chat", token="abcdefgh", rows=2, shutdown_s=20) as server:
        headers = {"Authorization": "Bearer abcdefgh"}
        with httpx.Client(base_url=server.url, headers=headers, timeout=60) as http:
            ask = {"messages": [{"role": "user", "content": SECRET}]}
            whole = long_answer(http, ask)
            assert http.post(CHAT, json={**ask, "n": SECRET}).status_code == 400
            assert http.post("/v1/completions", json={"prompt": SECRET * 90}).status_code == 400
            assert http.get("/v1/models", headers={"Authorization": "Bearer no"}).status_code == 401
            body = {**ask, "stream": True, "seed": whole["nanochat"]["seed"]}
            with http.stream("POST", CHAT, json=body) as stream:
                lines = stream.iter_lines()
                next(lines)
                server.process.send_signal(signal.SIGTERM)
                data = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
        assert data[-1] == "[DONE]"
        text = "".join(json.loads(one)["choices"][0]["delta"].get("content", "") for one in data[:-1])
        assert text == whole["choices"][0]["message"]["content"]
        assert server.process.wait(20) in (0, -signal.SIGTERM)
    told = server.log.read_text()
    assert "tiny-chat@" in told
    assert SECRET[:12] not in told
    assert "abcdefgh" not in told


def long_answer(http, ask):
    """An answer that takes a while; models that nobody trained end theirs anywhere."""
    for seed in range(40):
        body = http.post(CHAT, json={**ask, "seed": seed}).json()
        if body["usage"]["completion_tokens"] > 100:
            return body
    raise AssertionError("no seed gives a long answer")
