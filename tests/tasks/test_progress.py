"""What is shown of a step while it runs, and of its log afterwards."""

from pathlib import Path

import pytest

from nanochat_core import observe
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from tasks.policy import title
from tasks.progress import LOG_SHOWN_BYTES, Told, log_page, shown


def test_the_title_says_what_and_how_big() -> None:
    plan = plan_run(load_config("tiny", ["pretrain.depth=4"]))
    assert title("pretrain", plan).startswith("pretrain · depth 4 · ")
    assert title("sft", plan) == "sft · fine-tuning · 1 epoch"


@pytest.mark.parametrize(("preset", "has_dollars"), [("tiny", False), ("gpt2", True)])
def test_dollars_are_shown_where_the_machine_has_a_price(preset: str, has_dollars: bool) -> None:
    heading, numbers, _ = Told("pretrain", plan_run(load_config(preset))).description().split("\n\n")
    assert heading.startswith("**pretrain** depth ")
    assert ("so far" in numbers) == has_dollars


def test_how_far_and_how_long_is_told_first_and_the_words_of_the_step_last() -> None:
    told = Told("pretrain", plan_run(load_config("tiny")))
    for done in (0.25, 0.5):
        told.update(done, "its own words")
    _, numbers, words = told.description().split("\n\n")
    assert numbers.startswith("50% done, ")
    assert numbers.endswith(" left")
    assert words == "its own words"
    told.outcome = "done"
    assert told.description().split("\n\n")[1].startswith("done after ")


def test_a_step_that_goes_on_in_the_middle_is_not_taken_for_a_quick_one() -> None:
    told = Told("pretrain", plan_run(load_config("tiny")))
    for done in (0.3, 0.6):
        told.update(done, "what the earlier attempt said")
    told.restart()
    told.update(0.61, "from the checkpoint on")
    assert "left" not in told.description()


def test_outside_of_a_task_run_nothing_is_watched() -> None:
    before = observe.current()
    with shown("pretrain", plan_run(load_config("tiny")), {}, has_log=True):
        assert observe.current() is before


def test_no_line_of_a_log_ends_its_block(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_text("first\n```\n# not a heading\n")
    lines = log_page(path, "s3://bucket/blob").splitlines()
    assert "s3://bucket/blob" in lines[0]
    assert all(not line or line.startswith("    ") for line in lines[1:])


def test_a_long_log_shows_its_end_and_an_empty_one_says_so(tmp_path: Path) -> None:
    path = tmp_path / "output.log"
    path.write_text("".join(f"line {number}\n" for number in range(100_000)))
    page = log_page(path, "here")
    assert len(page) < 2 * LOG_SHOWN_BYTES
    assert "line 99999" in page
    assert "line 0\n" not in page
    path.write_text("")
    assert "is empty" in log_page(path, "here")
