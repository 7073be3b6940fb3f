"""The data page in a browser, over a run in whose text a bad document was planted."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from model_server import serve_here
from page.chat_page import SECRET, WAIT_S
from planted_text import BAD_FILE, BAD_LINE, Planted

from nanochat_core.serve.data import DataSource
from nanochat_core.serve.pool import ModelPool

pytestmark = pytest.mark.slow
axe = pytest.importorskip("axe_playwright_python.sync_playwright")
Look = Callable[[str], Any]
VIEWS = ("overview", "documents?search=graph", "document?number=3", "rows?row=5", "conversations", "steps")


@pytest.fixture(scope="module")
def data_url(planted: Planted) -> Iterator[str]:
    with serve_here(ModelPool([], may_be_empty=True), data=DataSource(planted.store, planted.home)) as address:
        yield address


@pytest.fixture
def look(browser: Any, data_url: str) -> Iterator[Look]:
    """Opens views; what the page complains of, a refusal by its policy too, fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 850})
    context.set_default_timeout(WAIT_S * 1000)
    complaints: list[str] = []
    page = context.new_page()
    page.on("console", lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))

    def open_view(view: str) -> Any:
        page.goto(f"{data_url}/data#{view}")
        page.reload()
        page.wait_for_selector("#shown[aria-busy=false]")
        return page

    yield open_view
    context.close()
    assert complaints == []


def test_the_spike_leads_to_the_planted_document_and_its_line(look: Look, planted: Planted) -> None:
    page = look("steps")
    first = page.locator("tbody tr").first
    assert f"{BAD_FILE}, line {BAD_LINE}" in first.inner_text()
    assert planted.bad in first.inner_text()
    first.locator("a").first.click()
    page.wait_for_selector(f"text={BAD_FILE}, line {BAD_LINE}")
    assert page.locator("pre.text").inner_text() == planted.bad
    page.go_back()
    page.wait_for_selector(".curve .spike")


def test_a_row_shows_every_token_the_borders_of_documents_and_what_is_not_learnt(look: Look, data_url: str) -> None:
    said = requests.get(f"{data_url}/data/row?row=7", timeout=30).json()
    page = look("rows?row=7")
    assert page.locator(".stretch .token").all_text_contents() == said["texts"]
    assert page.locator(".stretch").count() == len(said["stretches"])
    assert page.locator(".stretch .not-learnt").all_text_contents() == ["<|bos|>"]
    page.click("text=Next row")
    page.wait_for_selector("text=Row 8 of")


def test_a_conversation_shows_what_is_learnt_and_text_makes_no_markup(look: Look) -> None:
    page = look("conversations?search=secret")
    card = page.locator(".talk").first
    learnt = [("is-learnt" in turn.get_attribute("class")) for turn in card.locator(".turn").all()]
    assert learnt == [False, False, False, True]
    last = card.locator(".turn").last
    assert "It is <b>secret</b>." in "".join(last.locator(".tokens .token:not(.not-learnt)").all_text_contents())
    assert page.locator(".tokens b").count() == 0


def test_what_was_removed_is_shown_with_its_rule_and_twin(look: Look, planted: Planted) -> None:
    page = look(f"removed?run={planted.cleaned_id}&rule=exact%20duplicate")
    assert page.locator(".card").count() == 3
    first = page.locator(".card").first.inner_text()
    assert "own/mine.jsonl, line 1" in first
    assert "twin: a.jsonl, line 5" in first
    assert "removed by deduplicate" in first


def test_what_is_looked_for_is_marked_and_what_is_not_there_is_said(look: Look) -> None:
    page = look("documents")
    page.fill("[name=search]", "ESTRADA")
    page.press("[name=search]", "Enter")
    page.wait_for_selector("mark")
    assert {mark.lower() for mark in page.locator("mark").all_inner_texts()} == {"estrada"}
    page.fill("[name=search]", "nobody wrote this")
    page.press("[name=search]", "Enter")
    page.wait_for_selector("text=There is no such document.")


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.torture)])
def test_axe_finds_nothing_to_complain_of_and_a_phone_shows_everything(
    look: Look, planted: Planted, scheme: str
) -> None:
    removed = f"removed?run={planted.cleaned_id}"
    for view in (*VIEWS, removed) if scheme == "light" else ("rows?row=5", "steps", removed):
        page = look(view)
        page.emulate_media(color_scheme=scheme)
        found = axe.Axe().run(page).response["violations"]
        assert [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]] == [], view
        page.set_viewport_size({"width": 390, "height": 844})
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        page.set_viewport_size({"width": 1200, "height": 850})


def test_a_token_is_asked_for_and_the_data_is_shown_with_it(browser: Any, planted: Planted) -> None:
    pool = ModelPool([], may_be_empty=True)
    with serve_here(pool, token=SECRET, data=DataSource(planted.store, planted.home)) as address:
        assert requests.get(f"{address}/data/runs", timeout=30).status_code == 401
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{address}/data#documents")
        page.fill("#token-dialog input", SECRET)
        page.press("#token-dialog input", "Enter")
        page.wait_for_selector(".card")
        context.close()


def test_without_being_asked_for_nothing_is_shown_and_other_sites_get_nothing(data_url: str) -> None:
    elsewhere = requests.get(f"{data_url}/data/runs", headers={"Sec-Fetch-Site": "cross-site"}, timeout=30)
    assert elsewhere.status_code == 403
    assert requests.get(f"{data_url}/data/row?row=-1", timeout=30).status_code == 400
    assert requests.get(f"{data_url}/data/row?row=999999", timeout=30).status_code == 404
    assert requests.post(f"{data_url}/data/runs", timeout=30).status_code == 405
    with serve_here(ModelPool([], may_be_empty=True)) as address:
        for path in ("data", "data/runs", "data/documents"):
            assert requests.get(f"{address}/{path}", timeout=30).status_code == 404
