"""The page is one file that asks for nothing, and nothing that a model says can act in it."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nanochat_core.base.errors import MissingError
from nanochat_core.report.figures import draw_figures
from nanochat_core.report.page import write_report
from nanochat_core.store.store import Store
from nanochat_core.workspace import Workspace

PROVENANCE = {
    "git_commit": "c0ffee" * 6, "git_patch_sha256": "12" * 32, "packages": {"torch": "2.11.0"}, "python": "3.11.9",
    "platform": "Linux 6 x86_64", "num_cpus": 2, "finished_at": "2026-11-22T11:00:00.000000+00:00", "seconds": 12.5,
}  # fmt: skip


class _Page(HTMLParser):
    """Tags, what they load, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.loads: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "home", Store.open(str(tmp_path / "store"), cache_folder=tmp_path / "cache"))


def _publish(space, ref, folder):
    space.store.publish(
        folder, step=ref.step, fingerprint=ref.fingerprint, inputs={}, config={}, code={}, packages={},
        metrics=ref.metrics, provenance=PROVENANCE,
    )  # fmt: skip


@pytest.fixture
def write(space, plan, refs, folders, tmp_path):
    """Draw, publish and write the page; returns its path."""

    def written() -> Path:
        out, empty = tmp_path / "drawn", tmp_path / "empty"
        out.mkdir()
        empty.mkdir()
        draw_figures(folders, out)
        for ref in refs:
            _publish(space, ref, out if ref.step == "report" else empty)
        return write_report(space, plan, refs, run_id="tiny-20261122", seconds=95.0)

    return written


def test_it_is_one_file_that_asks_for_nothing(write):
    html = write().read_text()
    page = _Page(html)
    assert page.loads
    assert all(target.startswith("#") for target in page.loads)
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html
    assert not page.tags & {"script", "link", "iframe", "img", "object", "embed", "base", "form"}


def test_what_a_model_or_a_question_says_is_text(write):
    html = write().read_text()
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 5  # chat prompt and answer, base sample, wrong questions and answers


def test_the_parts_stand_in_reading_order(write):
    text = " ".join(_Page(write().read_text()).text.split())
    order = [
        "tiny, depth 3", "1.9000", "2.1000", "97.0%", "1 min 35 s", "7 steps made, 2 cached",
        "What the chat model says", "I am a small language model.", "Training", "Held-out questions", "97 of 100",
        "Some that went wrong", "Steps", "pretrain/abababababab", "How the base model goes on", "Tokenizer", "Plan",
        "Provenance", "c0ffee", "Again", "nanochat run tiny --set sft.epochs=2", "nanochat why pretrain",
        "nanochat chat tiny-chat",
    ]  # fmt: skip
    places = [text.find(part) for part in order]
    assert -1 not in places, order[places.index(-1)]
    start = 0
    for part in order:
        start = text.find(part, start)
        assert start >= 0, f"{part!r} stands too early"


def test_a_tool_call_is_set_apart_from_the_answer(write):
    html = write().read_text()
    assert "<code>37 + 58</code><b>95</b></span>The answer is 95." in html


def test_every_figure_is_inside(write):
    assert write().read_text().count("<svg") == 8


def test_it_works_without_benchmarks(write, refs, folders):
    (folders["evaluate_chat"] / "outcomes.jsonl").unlink()
    del next(ref for ref in refs if ref.step == "evaluate_chat").metrics["benchmarks"]
    text = _Page(write().read_text()).text
    assert "Held-out questions" not in text
    assert "arithmetic" not in text
    assert "What the chat model says" in text


def test_markdown_stands_beside_it(write):
    markdown = write().with_name("report.md").read_text()
    assert markdown.startswith("# nanochat: tiny, depth 3")
    assert "1 min 35 s" in markdown


def test_a_report_that_left_the_store_is_an_error_with_a_hint(space, plan, refs):
    with pytest.raises(MissingError) as caught:
        write_report(space, plan, refs, run_id="tiny-1", seconds=1.0)
    assert caught.value.hint
