"""axe-core finds nothing to complain of, in light and dark, wide and narrow; and the page keeps to its width."""

from collections.abc import Callable
from typing import Any

import pytest
from page.chat_page import Chat

pytestmark = pytest.mark.slow

axe = pytest.importorskip("axe_playwright_python.sync_playwright")
PHONE, DESKTOP = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
DRAW = """({ markdown }, text) =>
  document.querySelector(".answer .markdown").append(markdown.renderMarkdown(text))"""
MARKDOWN = "# Title\n\n- item `code`\n\n```python\nx = 1\n```\n\n> quote [link](https://example.org)\n\n#### 42"


def violations(page: Any) -> list[str]:
    """Every rule that is broken, and where; best practices too."""
    found = axe.Axe().run(page).response["violations"]
    return [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_to_complain_of(new_chat: Callable[..., Chat], url: str, scheme: str) -> None:
    chat = new_chat(url, color_scheme=scheme, viewport=DESKTOP, reduced_motion="reduce")
    page = chat.page
    assert violations(page) == []
    chat.choose("scripted", compare_with="random-b")
    chat.set(max_tokens=12)
    chat.ask("What is 7 * 8?")
    page.locator("details.tool summary").first.click()
    chat.choose("scripted")
    chat.ask("and again")
    page.click("[data-action=again] >> nth=-1")
    chat.wait_until_done()
    chat.call(DRAW, MARKDOWN)
    page.click("[data-action=edit] >> nth=0")
    page.context.set_offline(True)
    chat.send("hello?")
    page.wait_for_selector(".answer-state.is-error")
    page.context.set_offline(False)
    assert violations(page) == []
    page.click("#open-settings")
    assert violations(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_within_its_width(new_chat: Callable[..., Chat], url: str, scheme: str) -> None:
    chat = new_chat(url, color_scheme=scheme, viewport=PHONE, has_touch=True, reduced_motion="reduce")
    page = chat.page
    chat.choose("scripted", compare_with="random-b")
    chat.set(max_tokens=60)
    chat.ask("W" * 200)
    # what an answer may hold by chance: a call that runs on and on
    page.evaluate(
        """for (const shown of document.querySelectorAll(".tool code")) shown.textContent = "9*".repeat(200);"""
    )
    assert page.locator(".tool code").count() > 0
    assert page.evaluate("document.querySelector('#scroller').scrollWidth <= innerWidth")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    small = """[...document.querySelectorAll("button, select, summary")].filter((one) => {
      const { width, height } = one.getBoundingClientRect();
      return one.checkVisibility() && width && (width < 24 || height < 24);
    }).map((one) => one.outerHTML)"""
    assert page.evaluate(small) == []
    assert violations(page) == []
    page.click("#open-sidebar")
    assert page.evaluate("document.querySelector('#sidebar').contains(document.activeElement)")
    assert page.evaluate("document.querySelector('#stage').inert")
    assert violations(page) == []
    page.keyboard.press("Escape")
    assert page.evaluate("document.activeElement.id") == "open-sidebar"


def test_the_theme_button_overrides_the_system_and_is_kept(new_chat: Callable[..., Chat], url: str) -> None:
    chat = new_chat(url, color_scheme="light")
    ground = "getComputedStyle(document.body).backgroundColor"
    light = chat.page.evaluate(ground)
    chat.page.click("#theme")
    assert chat.page.evaluate(ground) == light
    chat.page.click("#theme")
    dark = chat.page.evaluate(ground)
    assert dark != light
    chat.page.reload()
    assert chat.page.evaluate(ground) == dark
    assert chat.page.get_attribute("#theme", "aria-label") == "Theme: dark"


def test_reduced_motion_stills_every_animation(new_chat: Callable[..., Chat], url: str) -> None:
    chat = new_chat(url, reduced_motion="reduce")
    chat.choose("endless")
    chat.send("go on")
    chat.page.wait_for_selector(".answer.is-live")
    assert chat.page.evaluate("document.getAnimations().length") == 0
    chat.page.keyboard.press("Escape")
    chat.wait_until_done()
