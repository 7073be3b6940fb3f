"""Who is let in to Prefect's server, with its real app behind the guard; tests/browser has the browser's part."""

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect_team import Team
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from flows.guard import Guard, origin_of
from flows.stack_process import Part, start_all, stop
from flows.worker_release import HEADER, saying_release
from nanochat_core import __version__
from nanochat_core.base.errors import NanochatError
from nanochat_core.base.loopback import listener
from nanochat_core.cli.prefect_api import authorization

PAGE = "http://127.0.0.1:4200/api"
OURS = ["127.0.0.1:4200", "127.0.0.1", "localhost:4200", "LOCALHOST:4200", "[::1]:4200", "server:4200"]
THEIRS = [
    "evil.example", "evil.example:4200", "127.0.0.1.evil.example", "127.0.0.1.nip.io:4200", "localhost.evil.example",
    "0.0.0.0:4200", "[::]:4200", "[::ffff:127.0.0.1]:4200", "2130706433", "127.1", "0x7f.1", "127.0.0.1:4200@evil", "",
    "evil@127.0.0.1:4200", "127.0.0.1:4200, evil.example", "127.0.0.1:", "127.0.0.1:4200:1", "localhost.", "127.0.0.1/",
]  # fmt: skip
OTHER_ORIGINS = [
    "http://evil.example", "null", "", "https://127.0.0.1:4200", "http://127.0.0.1", "http://127.0.0.1:4201",
    "http://localhost:4200", "http://127.0.0.1:4200.evil.example", "http://evil@127.0.0.1:4200", "file://", "127.0.0.1",
]  # fmt: skip


async def _socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


@pytest.fixture
def client() -> TestClient:
    """Something behind the guard that says yes to all."""
    routes = [Route("/{path:path}", lambda _: PlainTextResponse("yes"), methods=["GET", "POST", "OPTIONS"])]
    inside = Starlette(routes=[WebSocketRoute("/api/events/out", _socket), *routes])
    guard = Guard(inside, page=PAGE, others=("http://server:4200/api",))
    return TestClient(guard, base_url="http://127.0.0.1:4200", follow_redirects=False)


@pytest.mark.parametrize("host", OURS)
def test_the_servers_own_names_are_answered(client: TestClient, host: str) -> None:
    assert client.get("/api/flows", headers={"Host": host}).text == "yes"


@pytest.mark.parametrize("host", THEIRS)
def test_a_name_that_somebody_points_here_is_not(client: TestClient, host: str) -> None:
    for path in ("/api/flows", "/", "/ui-settings", "/api/health"):
        assert client.get(path, headers={"Host": host}).status_code == 403


def test_a_worker_of_another_release_is_told_and_gets_no_work(client: TestClient) -> None:
    asks = "/api/work_pools/gpu/get_scheduled_flow_runs"
    refused = client.post(asks, headers={HEADER: "0.2.0"})
    assert refused.status_code == 409
    assert refused.json()["detail"].startswith(
        f"this worker is of nanochat 0.2.0 and the server of {__version__}: install that"
    )
    own = json.loads(
        saying_release({"PREFECT_CLIENT_CUSTOM_HEADERS": '{"X-More": "1"}'})["PREFECT_CLIENT_CUSTOM_HEADERS"]
    )
    assert own["X-More"] == "1"
    for headers in ({}, own):
        assert client.post(asks, headers=headers).text == "yes"
    for path in ("/api/flow_runs/filter", "/api/work_pools/gpu/workers/heartbeat"):
        assert client.post(path, headers={HEADER: "0.2.0"}).text == "yes", "what it has begun it may end"


@pytest.mark.parametrize("origin", OTHER_ORIGINS)
def test_a_page_of_another_origin_gets_nothing(client: TestClient, origin: str) -> None:
    for ask in (client.get, client.post, client.options):
        refused = ask("/api/flows", headers={"Origin": origin})
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
    headers = {"Host": OURS[0], "Origin": origin}
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/api/events/out", headers=headers):
        pass


def test_its_own_page_and_clients_without_one_are_answered(client: TestClient) -> None:
    for headers in ({}, {"Origin": "http://127.0.0.1:4200"}, {"Sec-Fetch-Site": "same-origin"}):
        assert client.post("/api/flows", headers=headers).text == "yes"
        with client.websocket_connect("/api/events/out", headers={"Host": OURS[0], **headers}):
            pass


def test_another_page_may_link_here_and_neither_embed_nor_fetch(client: TestClient) -> None:
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    followed = client.get("/v2/runs", headers=link)
    assert followed.text == "yes"
    assert followed.headers["x-frame-options"] == "DENY"
    assert followed.headers["cross-origin-resource-policy"] == "same-origin"
    for change in ({"Sec-Fetch-Dest": "iframe"}, {"Sec-Fetch-Mode": "no-cors"}, {"Sec-Fetch-Mode": "cors"}):
        assert client.get("/v2/runs", headers=link | change).status_code == 403
    assert client.post("/v2/runs", headers=link).status_code == 403


def test_a_page_asked_for_under_another_name_is_shown_where_it_works(client: TestClient) -> None:
    moved = client.get("/v2/runs?a=b%20c", headers={"Host": "localhost:4200"})
    assert (moved.status_code, moved.headers["location"]) == (307, "http://127.0.0.1:4200/v2/runs?a=b%20c")


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc/", "/%6fpenapi.json"])
def test_the_description_of_the_api_costs_seconds_or_loads_strangers_scripts_and_is_not_served(
    client: TestClient, path: str
) -> None:
    assert client.get(path).status_code == 404
    assert client.get("/documents").text == "yes"


def test_origins_are_compared_as_browsers_do() -> None:
    assert origin_of("https://nanochat.example:443/api") == origin_of("HTTPS://NANOCHAT.example")
    assert origin_of("http://a:80") != origin_of("https://a:443")
    with pytest.raises(ValueError, match="no address"):
        Guard(PlainTextResponse("x"), page="")


@pytest.fixture
def bare(deployed: Team) -> Iterator[httpx.Client]:
    """Somebody who knows where the server of a run is, and no password."""
    with httpx.Client(base_url=deployed.url, timeout=60) as client:
        yield client


@pytest.mark.slow
def test_the_server_of_a_run_does_nothing_for_somebody_without_its_password(deployed: Team, bare: httpx.Client) -> None:
    assert bare.post("/flows/", json={"name": "x"}).status_code == 401
    assert bare.get("/admin/settings").status_code == 401
    assert bare.post("/flows/filter", json={}, headers=authorization("nanochat:guess", None)).status_code == 401
    with_it = {**deployed.headers, "Origin": "http://evil.example"}
    assert bare.post("/flows/filter", json={}, headers=with_it).status_code == 403
    assert bare.post("/flows/filter", json={}, headers={**deployed.headers, "Host": "evil.example"}).status_code == 403
    assert bare.post("/flows/filter", json={}, headers=deployed.headers).status_code == 200


@pytest.mark.slow
def test_its_sockets_ask_as_well(deployed: Team) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    async def answers(token: str, **options: Any) -> bool:
        url = f"{deployed.url.replace('http', 'ws')}/events/out"
        try:
            async with connect(url, subprotocols=["prefect"], **options) as events:  # type: ignore[list-item]
                await events.send(f'{{"type": "auth", "token": "{token}"}}')
                return "auth_success" in str(await events.recv())
        except WebSocketException:
            return False

    assert asyncio.run(answers(deployed.server.auth))
    assert not asyncio.run(answers("nanochat:guess"))
    assert not asyncio.run(answers(deployed.server.auth, origin="http://evil.example"))


@pytest.mark.slow
def test_the_password_is_no_argument_of_any_process(deployed: Team) -> None:
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert commands
    assert not [command for command in commands if deployed.server.auth.encode() in command]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
@pytest.mark.usefixtures("other_users")
def test_who_was_quicker_at_a_port_is_not_taken_for_ours(tmp_path: Path) -> None:
    """The password would go to them, and workers would do as they say."""
    for name in ("logs", "pids"):
        (tmp_path / name).mkdir()
    squat = (
        "import socket, sys, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True)"
    )
    command = [os.path.realpath(sys.executable), "-I", "-c", f"{squat}; time.sleep(60)"]
    other = subprocess.Popen(
        command, user=4242, group=4242, extra_groups=[], cwd="/", stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    port = int(other.stdout.readline())
    part = Part(name="server", command=["sleep", "60"], port=port, is_ready=lambda: True, start_s=1)
    try:
        assert listener(port) == 4242
        with pytest.raises(NanochatError, match="did not answer"):
            start_all(tmp_path, [part], lambda _: None)
    finally:
        other.kill()
        stop(tmp_path, part)
    with socket.create_server(("127.0.0.1", 0)) as ours:
        assert listener(ours.getsockname()[1]) == os.geteuid()
