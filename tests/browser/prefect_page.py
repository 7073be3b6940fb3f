"""Prefect's pages as a person uses them: what is found by its label is clicked and filled in by its label.

Nothing here asks the API: what the page does not show or lets nobody do is what the test is to find.
"""

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

WAIT_S = 60.0
RELOAD_S = 20.0
GROUP = 'ancestor::div[contains(concat(" ", @class, " "), " group ")][1]'
SCHEDULES = '//p[text()="Schedules"]/../..'
SETTLE_S = 1.5  # the graph of a run is drawn on a canvas, which tells nobody when it is done


def with_few_colours(path: Path) -> None:
    """Enough for a page, and a third of the bytes."""
    with Image.open(path) as image:
        small = image.convert("RGB").quantize(128)
    small.save(path, optimize=True)


class PrefectPage:
    """A browser's page on a Prefect server; `shots` is where pictures go."""

    def __init__(self, page: Any, address: str, shots: Path) -> None:
        self.page, self.address, self.shots = page, address, shots
        page.set_default_timeout(WAIT_S * 1000)

    def open(self, path: str) -> None:
        self.page.goto(f"{self.address}/{path}")

    def log_in(self, auth: str) -> None:
        """Say the password where the page asks for it: user:password, in one field."""
        self.page.locator("input[type=password]").fill(auth)
        self.page.get_by_role("button", name="Login").click()

    def until(self, is_so: Callable[[], bool], timeout_s: float = 300) -> None:
        deadline = time.monotonic() + timeout_s
        while not is_so():
            assert time.monotonic() < deadline, self.text()[:3000]
            self.page.wait_for_timeout(300)

    def text(self) -> str:
        return str(self.page.locator("body").inner_text())

    def shot(self, name: str, *, full_page: bool = False) -> None:
        """Keep a picture of what is seen."""
        self.page.wait_for_timeout(SETTLE_S * 1000)
        path = self.shots / f"{name}.png"
        self.page.screenshot(path=path, full_page=full_page)
        with_few_colours(path)

    def open_form(self, deployment: str) -> None:
        """From the list of deployments to the form of one, as people get there."""
        self.open("v2/deployments")
        self.page.get_by_role("link", name=deployment, exact=True).first.click()
        self.page.get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        self.page.get_by_text("Parameters", exact=True).first.wait_for()

    def field(self, label: str) -> Any:
        return self.page.locator(f'//label[text()="{label} (Optional)"]/{GROUP}')

    def fill(self, label: str, value: object) -> None:
        self.field(label).locator("input, textarea").first.fill(str(value))

    def choose(self, label: str, value: str) -> None:
        self.field(label).locator("button[aria-haspopup=listbox]").click()
        self.page.get_by_role("option", name=value, exact=True).click()

    def offers(self, label: str, value: str) -> None:
        """A field of several choices has this one among them."""
        option = self.page.get_by_role("option", name=value, exact=True)
        self.field(label).locator("button").last.click()
        option.wait_for()
        self.page.keyboard.press("Escape")
        option.wait_for(state="hidden")

    def add_items(self, label: str, items: tuple[str, ...]) -> None:
        """Fill in a list that is empty so far."""
        field = self.field(label)
        for number, item in enumerate(items):
            field.get_by_role("button", name="Add item").click()
            field.locator("input, textarea").nth(number).fill(item)

    def submit(self) -> str:
        """Send the form and follow the link to the run; returns its page's address."""
        self.page.get_by_role("button", name="Submit").click()
        self.page.get_by_text("View run").first.click()
        self.page.wait_for_url("**/runs/flow-run/**")
        return str(self.page.url)

    def open_again(self) -> None:
        """Load the page anew: the graph of a run that goes on keeps the frame of its first look."""
        self.page.reload()
        self.page.get_by_role("tab", name="Logs", exact=True).wait_for()

    def until_artifact(self, pattern: str, timeout_s: float = 900) -> None:
        """Wait for a card that says so; the list of artifacts is renewed by loading the page only."""

        def is_there() -> bool:
            self.open_again()
            self.tab("Artifacts")
            self.page.wait_for_timeout(SETTLE_S * 1000)
            return re.search(pattern, self.text(), re.DOTALL) is not None

        self.until(is_there, timeout_s)

    def state(self) -> str:
        """Of the run whose page this is: the badge below its name."""
        found = re.search(
            r"\b(Scheduled|Pending|Running|Completed|Failed|Crashed|Cancelled|AwaitingRetry)\b", self.text()
        )
        return found.group(1) if found else ""

    def until_state(self, wanted: str, timeout_s: float) -> None:
        """Wait for the run's state, loading the page again now and then: its news may come late, or not at all."""
        opened = time.monotonic()

        def is_there() -> bool:
            nonlocal opened
            if time.monotonic() - opened > RELOAD_S:
                self.open_again()
                opened = time.monotonic()
            return self.state() == wanted

        self.until(is_there, timeout_s)

    def tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def open_artifact(self, key: str, *, says: str) -> None:
        """From the run's page to one of its artifacts, which says about itself on its card what it is."""
        self.tab("Artifacts")
        self.page.get_by_text(says).first.wait_for()
        self.page.get_by_text(key, exact=True).first.click()
        self.page.wait_for_url("**/artifacts/artifact/*")
        self.page.get_by_text("Show Raw Data").wait_for()

    def switch_schedule(self) -> None:
        """Let the only schedule of the deployment whose page this is begin, or stop."""
        self.page.locator(SCHEDULES).get_by_role("switch").first.click()
        self.page.wait_for_timeout(SETTLE_S * 1000)

    def edit_cron(self, cron: str) -> None:
        """Change the only schedule of the deployment whose page this is."""
        card = self.page.locator(SCHEDULES)
        card.get_by_role("button", name="Open menu").first.click()
        self.page.get_by_role("menuitem", name="Edit").click()
        form = self.page.get_by_role("dialog")
        form.get_by_label("Value").fill(cron)
        form.get_by_role("button", name="Save").click()
        form.wait_for(state="hidden")

    def until_log(self, pattern: str, timeout_s: float = 300) -> None:
        """Wait for a line of the run's log."""

        def is_there() -> bool:
            self.open_again()
            self.tab("Logs")
            self.page.wait_for_timeout(2 * SETTLE_S * 1000)
            return re.search(pattern, self.text()) is not None

        self.until(is_there, timeout_s)

    def retry(self) -> None:
        before = self.state()
        self._ask("Retry")
        self.until(lambda: self.state() != before, 60)

    def cancel(self) -> None:
        self._ask("Cancel")

    def _ask(self, wanted: str) -> None:
        """By the menu of the run's page, which asks once more."""
        self.page.get_by_role("button", name="Open menu").first.click()
        self.page.get_by_role("menuitem", name=wanted).click()
        asking = self.page.get_by_role("alertdialog").or_(self.page.get_by_role("dialog"))
        asking.get_by_role("button", name=wanted).last.click()

    def switch_pool(self, name: str) -> None:
        """Pause a work pool, or let it go on."""
        self.open(f"v2/work-pools/work-pool/{name}")
        self.page.get_by_role("switch").first.click()
        self.page.wait_for_timeout(SETTLE_S * 1000)
