"""A run's process that starts while the server restarts waits for it; everybody else is told at once."""

import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml
from conftest import ROOT
from flow_runs import free_port

ASK = """
from prefect.client.orchestration import get_client
print("asked", flush=True)
with get_client(sync_client=True) as client:
    print(client.api_version())
"""


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'"3.9.9"')

    def log_message(self, *_: object) -> None:
        return


def asking(port: int, **variables: str) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", **variables}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", ASK], cwd=ROOT, env=environment, text=True, **pipes)


@pytest.mark.slow
def test_a_run_s_process_waits_for_a_server_that_comes_back() -> None:
    job = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"][0]["work_pool"]["job_variables"]["env"]
    port = free_port()
    waiting, other = asking(port, **job), asking(free_port(), **job | {"PREFECT_PLUGINS_ENABLED": "false"})
    assert waiting.stdout.readline() == "asked\n"
    time.sleep(1)
    assert waiting.poll() is None
    with ThreadingHTTPServer(("127.0.0.1", port), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        said, error = waiting.communicate(timeout=120)
        server.shutdown()
    assert said == "3.9.9\n", error
    assert "Connection refused" in other.communicate(timeout=120)[1], "a command says at once that nobody is there"
