"""What is shown of a step while it runs, and of its log afterwards."""

from pathlib import Path
from uuid import UUID, uuid4

import pytest

from nanochat_core import observe
from nanochat_core.pipeline.execute import STOPPED
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from tasks.policy import title
from tasks.progress import LOG_SHOWN_BYTES, TaskProgress, Told, log_page, shown


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


def watched(monkeypatch: pytest.MonkeyPatch) -> tuple[TaskProgress, list[str]]:
    """A step's progress with a server that only listens."""
    said: list[str] = []
    watching = TaskProgress(observe.current(), "pretrain", plan_run(load_config("tiny")))

    def write(_artifact: object) -> UUID:
        said.append(watching._told.description())
        return uuid4()

    monkeypatch.setattr(watching, "_write", write)
    return watching, said


STEP = {"event": "step", "lr_multiplier": 1.0, "step_ms": 1.0, "tokens_per_s": 1.0, "smooth_loss": 3.0}


def test_a_resumed_training_starts_its_card_where_it_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    watching, said = watched(monkeypatch)
    watching.step_record("pretrain", {"event": "start", "step": 188, "num_steps": 832})
    watching.close()
    assert "23% done" in said[0]
    assert said[0].endswith("resumed at step 188")


def test_a_stopped_training_says_which_step_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watching, said = watched(monkeypatch)
    for record in ({"event": "start", "step": 0, "num_steps": 100}, STEP | {"step": 40}, STEP | {"step": 50},
                   {"event": "checkpoint", "step": 50}):  # fmt: skip
        watching.step_record("pretrain", record)
    with caplog.at_level("INFO", "nanochat_core"):
        watching.step_failed("pretrain", STOPPED)
    watching.close()
    assert said[-1].endswith("stopped with the checkpoint of step 50")
    assert caplog.messages[-1] == "pretrain: stopped with the checkpoint of step 50"


def test_a_training_writes_a_line_a_minute_and_its_notes_into_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    watching, _ = watched(monkeypatch)
    clock = iter(range(1000, 2000, 7))  # seconds; several looks a record
    monkeypatch.setattr("tasks.progress.time.monotonic", lambda: next(clock))
    with caplog.at_level("INFO", "nanochat_core"):
        watching.step_record("pretrain", {"event": "start", "step": 0, "num_steps": 100})
        for step in range(1, 31):
            watching.step_record("pretrain", STEP | {"step": step})
        watching.note("pretrain is being made by process 7; waiting for it")
    watching.close()
    lines = [record.message for record in caplog.records if record.message.startswith("pretrain: step")]
    assert 3 <= len(lines) < 15
    assert caplog.records[-1].message.endswith("waiting for it")


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
