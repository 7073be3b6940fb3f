"""The page is one file that asks for nothing, and nothing that a model says can act in it."""

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nanochat_core.base.errors import MissingError
from nanochat_core.base.source_memo import SourceMemo
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
        self.text += " " if tag in ("td", "th", "dd", "dt", "br") else ""
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def space(tmp_path: Path) -> Workspace:
    store = Store.open(str(tmp_path / "store"), cache_folder=tmp_path / "cache")
    return Workspace(tmp_path / "home", store, SourceMemo(tmp_path / "sources.json"))


def _publish(space, ref, folder):
    space.store.publish(
        folder, step=ref.step, fingerprint=ref.fingerprint, inputs={}, config={}, code={}, packages={},
        metrics=ref.metrics, provenance=PROVENANCE,
    )  # fmt: skip


@pytest.fixture
def write(space, plan, refs, folders, tmp_path, draw_once):
    """Draw, publish and write the page; returns its path."""

    def written(folders=folders, refs=refs) -> Path:
        out, empty = tmp_path / "drawn", tmp_path / "empty"
        out.mkdir()
        empty.mkdir()
        draw_once(folders, out)
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
        "What the chat model says", "I am a small language model.", "Held-out questions", "97 of 100",
        "Some that went wrong", "Training", "Time and money", "Steps", "pretrain/abababababab",
        "How the base model goes on", "Tokenizer", "Plan", "Everything needed to reproduce",
        "nanochat run tiny --set sft.epochs=2", "nanochat why pretrain", "nanochat chat tiny-chat", "c0ffee",
        "uncommitted changes, patch 1212", "1 differ from the preset", "sft.epochs=2 # the preset has 1",
        "torch 2.11.0",
        "Python 3.11.9", "ab" * 32, "sha256 of all",
    ]  # fmt: skip
    places = [text.find(part) for part in order]
    assert -1 not in places, order[places.index(-1)]
    start = 0
    for part in order:
        start = text.find(part, start)
        assert start >= 0, f"{part!r} stands too early"


def test_without_core_and_chat_benchmarks_the_page_does_not_speak_of_them(write):
    text = _Page(write().read_text()).text
    assert "CORE" not in text
    assert "Chat benchmarks" not in text


def test_core_and_chat_benchmarks_stand_before_the_training(write, more_folders, more_refs):
    html = write(more_folders, more_refs).read_text()
    text = " ".join(_Page(html).text.split())
    order = ["0.2400", "± 0.0050, GPT-2 has 0.2565", "CORE by benchmark", "PIQA 0.440 0.450 72.0% (50%) 1,838",
             "Jeopardy 0.050 5.0% (0%)", "Chat benchmarks", "base SFT", "26.0% ± 8.0", "61.0% ± 8.0", "pass@8 87.5%",
             "cut short", "4 (base), 4 (SFT)", "Training", "a_step_of_tomorrow"]  # fmt: skip
    start = 0
    for part in order:
        start = text.find(part, start)
        assert start >= 0, f"{part!r} is missing or stands too early"
    assert "<script" not in html
    assert "onerror" not in html
    assert html.count("&lt;script&gt;alert") >= 15  # titles, labels, categories, questions and answers


def test_a_limited_core_says_so_and_an_incomplete_one_is_not_compared(write, more_folders, more_refs):
    path = more_folders["evaluate_core"] / "core.json"
    limits = {"is_complete": False, "missing": ["coqa", "<b>"], "max_per_benchmark": 50}
    path.write_text(json.dumps(json.loads(path.read_text()) | limits))
    text = " ".join(_Page(write(more_folders, more_refs).read_text()).text.split())
    assert "Incomplete, 3 of 22 benchmarks: coqa, <b> missing." in text
    assert "At most 50 items of each benchmark" in text
    assert "of GPT-2 (1.6B)" not in text
    assert "beside GPT-2" not in text


def test_the_ledger_adds_up_to_the_runs_seconds(write):
    text = " ".join(_Page(write().read_text()).text.split())
    part = text[text.index("where it went") : text.index("Trained on")]
    assert "training steps 24 s" in part  # of attempts that say 200 s, in two steps that say 25: the steps are right
    assert part.endswith("in all 1 min 35 s 25 s ")
    assert "between steps 7.5 s" in part


def test_secrets_in_settings_and_arguments_do_not_reach_the_page(write, plan, space, refs):
    secret = "https://user:hunter2secret@example.org/x"
    told = dataclasses.replace(plan.config, corpus=dataclasses.replace(plan.config.corpus, path=secret))
    write()
    page = write_report(space, dataclasses.replace(plan, config=told), refs, run_id="again", seconds=1.0)
    assert "hunter2secret" not in page.read_text()
    assert "hunter2secret" not in page.with_name("report.md").read_text()


def test_a_tool_call_is_set_apart_from_the_answer(write):
    html = write().read_text()
    assert "<code>37 + 58</code><b>95</b></span>The answer is 95." in html


def test_every_figure_is_inside(write):
    assert write().read_text().count("<svg") == 9


def test_it_works_without_benchmarks(write, refs, folders):
    (folders["evaluate_chat"] / "outcomes.jsonl").unlink()
    del next(ref for ref in refs if ref.step == "evaluate_chat").metrics["benchmarks"]
    text = _Page(write().read_text()).text
    assert "Held-out questions" not in text
    assert "arithmetic" not in text.partition("Everything needed to reproduce")[0]
    assert "What the chat model says" in text


def test_markdown_stands_beside_it(write):
    markdown = write().with_name("report.md").read_text()
    assert markdown.startswith("# nanochat: tiny, depth 3")
    assert "1 min 35 s" in markdown


def test_a_report_that_left_the_store_is_an_error_with_a_hint(space, plan, refs):
    with pytest.raises(MissingError) as caught:
        write_report(space, plan, refs, run_id="tiny-1", seconds=1.0)
    assert caught.value.hint
