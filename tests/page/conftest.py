"""The chat page in a real browser, over a real server with models that nobody trained.

One server and one browser per file of tests; every test gets a browser context of its own, so storage is empty. What
the page writes to the console as an error (a refusal by the Content-Security-Policy too) or throws fails the test.
"""

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from model_server import serve_here
from page.chat_page import WAIT_S, Chat, make_pool

from nanochat_core.serve.pool import ModelPool

playwright_api = pytest.importorskip("playwright.sync_api")

CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def pool() -> ModelPool:
    return make_pool()


@pytest.fixture(scope="module")
def url(pool: ModelPool) -> Iterator[str]:
    with serve_here(pool) as address:
        pool.wait(60)
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("there is no chromium here (apt-get install chromium)")
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def new_chat(browser: Any) -> Iterator[Callable[..., Chat]]:
    """Open pages by `new_chat(address, **context options)`; what they complain of fails the test."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def note(message: Any) -> None:
        # a refused or failed request is the server's matter and what some tests are about
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def open_page(address: str, **options: Any) -> Chat:
        context = browser.new_context(**options)
        context.set_default_timeout(WAIT_S * 1000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return Chat(page).open(address)

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def chat(new_chat: Callable[..., Chat], url: str) -> Chat:
    return new_chat(url)
