"""A server's page in a browser: it asks for the password once, and pages of other origins get nothing of it."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.conftest import CHROMIUM, SIZE, playwright_api
from browser.prefect_page import PrefectPage
from prefect_team import Team, team_in

pytestmark = pytest.mark.slow
# every way in which a page may send something; what came back, in words
ATTACK = """<!doctype html><title>a page of somebody else</title><script>
const told = [], done = (name, what) => told.push(name + ": " + what);
const post = (extra, type) => ({method: "POST", headers: {"Content-Type": type}, body: '{"name": "hello"}', ...extra});
const fetched = async (name, url, options) => {
  try {
    const answer = await fetch(url, options);
    done(name, `${answer.type} ${answer.status} ${await answer.text()}`);
  } catch (error) { done(name, "nothing"); }
};
const loaded = (name, element, url) => new Promise((next) => {
  element.onload = () => { done(name, "loaded"); next(); }; element.onerror = () => { done(name, "nothing"); next(); };
  element.src = url; document.body.append(element);
});
const opened = (name, url) => new Promise((next) => {
  const socket = new WebSocket(url, "prefect");
  socket.onopen = () => { done(name, "opened"); next(); }; socket.onerror = () => { done(name, "nothing"); next(); };
});
const attack = async (api, password) => {
  await fetched("json", api + "/flows/", post({}, "application/json"));
  await fetched("with the password", api + "/flows/", post({headers: {Authorization: "Basic " + btoa(password)}}, ""));
  await fetched("plain", api + "/flows/", post({mode: "no-cors"}, "text/plain"));
  await fetched("cookies", api + "/flows/", post({credentials: "include"}, "text/plain"));
  await fetched("health", api + "/health");
  await loaded("script", document.createElement("script"), api + "/admin/version");
  await loaded("image", document.createElement("img"), api.replace("/api", "/ico/favicon-32x32.png"));
  await opened("socket", api.replace("http", "ws") + "/events/out");
  return told;
};
</script><body></body>"""


OPAQUE = "plain: opaque 0 "  # what a browser lets a page see of a refusal in this mode


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("password")
    with team_in(folder / "team", folder) as team:
        yield team


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium here (apt-get install chromium)")
    rules = ["--no-sandbox", "--host-resolver-rules=MAP *.example 127.0.0.1"]
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=rules)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def owner(browser: Any, team: Team, tmp_path_factory: pytest.TempPathFactory) -> PrefectPage:
    """The owner's browser, on the server's page for the first time."""
    page = browser.new_context(viewport=SIZE).new_page()
    return PrefectPage(page, team.server.page, tmp_path_factory.mktemp("shots"))


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """A web server of somebody else; its port."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(ATTACK.encode())

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def test_the_page_asks_once_and_then_works(owner: PrefectPage, team: Team) -> None:
    team.api("work_pools/", {"name": "seen-on-the-page", "type": "process"})
    owner.open("")
    owner.log_in("nanochat:guessed")
    owner.until(lambda: "Invalid credentials" in owner.text())
    owner.shot("login")
    owner.log_in(team.server.auth)
    owner.page.get_by_role("heading", name="Dashboard").or_(owner.page.get_by_text("Dashboard")).first.wait_for()
    owner.open("v2/work-pools")
    owner.until(lambda: "seen-on-the-page" in owner.text())
    owner.shot("after-login")
    another = owner.page.context.new_page()
    another.goto(f"{team.server.page.replace('127.0.0.1', 'localhost')}/v2/work-pools")
    another.get_by_text("seen-on-the-page").first.wait_for()
    assert another.url.startswith(team.server.page), "shown under the name that has the password"
    another.close()


@pytest.mark.parametrize("host", ["evil.example", "localhost", "127.0.0.1"])
def test_a_page_of_another_origin_gets_nothing(owner: PrefectPage, team: Team, elsewhere: int, host: str) -> None:
    """In the browser where the owner is logged in, and even if it knew the password."""
    page = owner.page.context.new_page()
    page.goto(f"http://{host}:{elsewhere}/")
    told = page.evaluate("([api, password]) => attack(api, password)", [team.url, team.server.auth])
    assert len(told) == 8
    assert [line for line in told if not line.endswith(": nothing") and line != OPAQUE] == []
    page.close()
    assert "hello" not in [flow["name"] for flow in team.api("flows/filter", {})]


def test_no_page_embeds_it(owner: PrefectPage, team: Team, elsewhere: int) -> None:
    page = owner.page.context.new_page()
    page.goto(f"http://evil.example:{elsewhere}/")
    add = "(url) => { const f = document.createElement('iframe'); f.src = url; document.body.append(f); }"
    page.evaluate(add, team.server.page)
    page.wait_for_timeout(1500)
    assert not [frame.url for frame in page.frames if frame.url.startswith(team.server.page)]
    page.close()


def test_a_name_that_was_pointed_here_is_refused(browser: Any, team: Team, tmp_path: Path) -> None:
    page = browser.new_page()
    answer = page.goto(f"{team.server.page.replace('127.0.0.1', 'rebound.example')}/")
    assert answer.status == 403
    told = page.evaluate("() => fetch('/api/flows/filter', {method: 'POST', body: '{}'}).then((a) => a.status)")
    assert told == 403
    page.close()
