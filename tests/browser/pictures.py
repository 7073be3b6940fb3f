"""Pictures of what is there today, for README and docs: `make pictures`.

The report of this home's newest run of `tiny`, its chat model beside the one before practice, and the chat on a
phone; then those of the walk through Prefect's pages, which test_prefect_ui.py takes on a server of its own. Debian's
Chromium and playwright. A picture is for looking at: it tells nothing that a test does not.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from browser.prefect_page import with_few_colours
from page.chat_page import Chat
from playwright.sync_api import sync_playwright

from nanochat_core import workspace
from nanochat_core.record.runs import resolve_run

TESTS = Path(__file__).resolve().parents[1]
WAIT_S = 300
WIDE = {"viewport": {"width": 1280, "height": 880}}
PHONE = {"viewport": {"width": 390, "height": 844}, "device_scale_factor": 2, "color_scheme": "dark", "has_touch": True}
WALK = ("-m", "pytest", "-q", "-n", "0", "-m", "torture", "tests/browser/test_prefect_ui.py")


@contextmanager
def served(*models: str) -> Iterator[str]:
    """The address of a server of these models."""
    command = [sys.executable, "-m", "flows", "serve", *models, "--port", "0"]
    process = subprocess.Popen(command, cwd=TESTS.parent, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address, "the server does not start: why stands above"
        yield address
    finally:
        process.terminate()
        process.wait()


def chat(browser: Any, address: str, **options: Any) -> Chat:
    """The chat page, with the seed of the pictures."""
    context = browser.new_context(**options)
    context.set_default_timeout(WAIT_S * 1000)
    opened = Chat(context.new_page()).open(address)
    opened.set(seed=3, temperature=0)
    return opened


def take(browser: Any, out: Path, report: Path, other: str) -> None:
    """Report, chat and phone; `other` is the model beside tiny-chat."""
    page = browser.new_page(**WIDE)
    page.goto(report.as_uri())
    page.screenshot(path=out / "report.png")
    with served("tiny-chat", other) as address:
        wide = chat(browser, address, **WIDE)
        wide.choose("tiny-chat", compare_with=other)
        wide.ask("What does calendar.isleap do?")
        wide.choose("tiny-chat")
        wide.ask("What is 127 + 43?")
        wide.page.mouse.move(640, 700)
        wide.page.screenshot(path=out / "chat.png")
        phone = chat(browser, address, **PHONE)
        phone.choose("tiny-chat")
        phone.ask("How many l are in parallel?")
        phone.ask("What does sorted do?")
        phone.page.mouse.move(195, 650)
        phone.page.screenshot(path=out / "chat-phone.png")
    for name in ("report", "chat", "chat-phone"):
        with_few_colours(out / f"{name}.png")


def walk(out: Path) -> int:
    """The tests' walk; of its pictures those that a document shows."""
    pages = "".join(path.read_text(encoding="utf-8") for path in (TESTS.parent / "docs").glob("*.md"))
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NANOCHAT_UI_SHOTS": folder}
        code = subprocess.run([sys.executable, *WALK], cwd=TESTS.parent, env=environment).returncode
        for path in Path(folder).glob("*.png"):
            if f"images/{path.name}" in pages:
                shutil.copyfile(path, out / path.name)
    return code


def main() -> int:
    options = argparse.ArgumentParser(description="Takes the pictures of the documents.")
    options.add_argument("--out", type=Path, default=TESTS.parent / "docs/images", help="the folder they go to")
    options.add_argument("--no-walk", action="store_true", help="leave out Prefect's pages, a quarter of an hour")
    chosen = options.parse_args()
    space = workspace.current()
    report = space.home / "runs" / resolve_run(space.store, "latest") / "report.html"
    other = "tiny-sft" if any(ref.name == "tiny-sft" for ref in space.store.refs()) else "tiny-base"
    chosen.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        take(browser, chosen.out, report, other)
        browser.close()
    if chosen.no_walk:
        return 0
    return walk(chosen.out)


if __name__ == "__main__":
    sys.exit(main())
