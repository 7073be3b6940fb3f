"""What a run shows while it goes on: the states of its steps, on a terminal and as lines."""

import io

import pytest
from rich.console import Console

from nanochat_core.cli import display as module
from nanochat_core.cli.display import Lines, LiveTable, TrainingState, display

STEPS = dict.fromkeys(["corpus", "tokenizer", "pretrain", "sft"], "a title")


def _step(step, **changes):
    record = {"event": "step", "step": step, "smooth_loss": 2.5, "lr_multiplier": 1.0, "step_ms": 100.0,
              "tokens_per_s": 81_920.0}  # fmt: skip
    return {**record, **changes}


def _table():
    return LiveTable(STEPS, Console(file=io.StringIO(), force_terminal=True, width=120))


def _shown(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(table._render())
    return console.file.getvalue()


@pytest.fixture(params=["lines", "table"])
def observer(request):
    return Lines(STEPS) if request.param == "lines" else _table()


def test_a_step_goes_from_waiting_over_running_to_its_end(observer):
    with observer:
        assert {state.status for state in observer.states.values()} == {"waiting"}
        observer.step_started("corpus", "write the corpus")
        assert observer.states["corpus"].status == "running"
        observer.step_finished("corpus", is_cached=False, seconds=2.5, headline="3 documents")
        observer.step_started("tokenizer", "train")
        observer.step_finished("tokenizer", is_cached=True, seconds=0.0, headline="2,048 tokens")
        observer.step_started("pretrain", "train")
        observer.step_failed("pretrain", "it broke\nand this is why")
    states = {name: (state.status, state.text) for name, state in observer.states.items()}
    assert states == {
        "corpus": ("made", "3 documents"),
        "tokenizer": ("cached", "2,048 tokens"),
        "pretrain": ("failed", "it broke"),
        "sft": ("waiting", ""),
    }


def test_progress_is_a_fraction_and_unknown_totals_are_none(observer):
    observer.step_started("corpus", "write")
    observer.step_progress("corpus", 3, 4, "three of four")
    assert observer.states["corpus"].fraction == 0.75
    observer.step_progress("corpus", 3, 0, "who knows")
    assert observer.states["corpus"].fraction is None


def test_a_trainings_records_become_one_line_with_units(observer):
    observer.step_started("pretrain", "train")
    records = (
        {"event": "start", "step": 0, "num_steps": 200},
        {"event": "validate", "step": 0, "bits_per_byte": 1.25},
        {"event": "checkpoint", "step": 0, "name": "step-00000000"},
        _step(50),
    )
    for record in records:
        observer.step_record("pretrain", record)
    state = observer.states["pretrain"]
    assert state.fraction == 0.25
    assert state.text == "step 00050/00200  loss 2.5000  lr x1.00  100 ms  81.9K tok/s  bpb 1.2500"


def test_the_eta_leaves_out_the_steps_that_warm_up(monkeypatch):
    now = iter([100.0, 1000.0, 1010.0, 1020.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(now))
    state = TrainingState()
    state.update({"event": "start", "step": 0, "num_steps": 10})
    for step, eta in ((1, None), (3, None), (4, "1 min 00 s"), (5, "50 s")):
        state.update(_step(step))
        assert ("eta" in state.line) == (eta is not None)
        assert eta is None or state.line.endswith(f"eta {eta}")


def test_a_resumed_training_estimates_anew():
    state = TrainingState()
    state.update({"event": "start", "step": 0, "num_steps": 100})
    for step in range(1, 9):
        state.update(_step(step))
    assert "eta" in state.line
    state.update({"event": "start", "step": 5, "num_steps": 100})
    state.update(_step(6))
    assert "eta" not in state.line


def test_the_table_names_every_step_and_shows_what_it_says():
    table = _table()
    table.step_started("corpus", "write the corpus")
    assert "write the corpus" in _shown(table)
    table.step_progress("corpus", 1, 2, "half of it")
    assert "half of it" in _shown(table)
    table.step_finished("corpus", is_cached=True, seconds=0.0, headline="[bold]not markup[/bold] [/]")
    table.note("a [note] of its own")
    shown = _shown(table)
    assert all(step in shown for step in STEPS)
    assert "cached" in shown
    assert "[bold]not markup[/bold] [/]" in shown
    assert "a [note] of its own" in table._live.console.file.getvalue()


def test_every_note_stays_above_the_table():
    table = _table()
    with table:
        for number in range(10):
            table.note(f"note {number}")
    said = table._live.console.file.getvalue()
    assert [number for number in range(10) if f"note {number}" in said] == list(range(10))


def test_lines_tell_starts_and_ends_and_go_to_stderr(capsys):
    with Lines(STEPS) as lines:
        lines.step_started("corpus", "write")
        lines.step_progress("corpus", 1, 9, "between")
        lines.step_finished("corpus", is_cached=False, seconds=65.0, headline="3 documents")
        lines.step_started("pretrain", "train")
        lines.step_record("pretrain", {"event": "validate", "step": 100, "bits_per_byte": 1.5})
        lines.step_failed("pretrain", "it broke\nat length")
        lines.note("so it goes")
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "made in 1 min 05 s: 3 documents" in shown.err
    assert "step 00100  validation bpb 1.5000" in shown.err
    assert "failed: it broke\n" in shown.err
    assert "so it goes" in shown.err
    assert "between" not in shown.err


def test_lines_speak_every_thirty_seconds(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    lines = Lines(STEPS)
    lines.step_started("corpus", "write")
    for second in range(100):
        now[0] = float(second)
        lines.step_progress("corpus", second, 100, f"second {second}")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["30", "60", "90"]


def test_without_a_terminal_lines_are_chosen(capsys):
    assert isinstance(display(STEPS), Lines)
