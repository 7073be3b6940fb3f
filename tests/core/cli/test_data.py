"""`nanochat data show` in a terminal and as JSON."""

import json

import pytest
from planted_text import BAD_FILE, BAD_LINE, Planted
from typer.testing import CliRunner, Result

from nanochat_core.cli.app import app

pytestmark = pytest.mark.slow


def show(*words: str) -> Result:
    return CliRunner().invoke(app, ["data", "show", *words])


def test_a_spike_is_told_with_the_file_and_the_line(planted_home: Planted) -> None:
    told = show("spike").stdout
    first = next(line for line in told.splitlines() if planted_home.bad[:8] in line)
    assert BAD_FILE in first
    assert str(BAD_LINE) in first.split()
    assert "by the run's model" in told
    found = json.loads(show("spike", "--json").stdout)
    step = found["highest"]["step"]
    assert json.loads(show("step", str(step), "--json").stdout) == found["highest"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "33 documents"),
        (["documents", "--count", "2"], "more from 2 on"),
        (["documents", "--file", "b.jsonl", "--count", "1"], "b.jsonl"),
        (["document", "0"], "a.jsonl, line 1"),
        (["rows", "0"], "64 to learn"),
        (["rows", "0", "--training", "sft"], "conversation"),
        (["conversations", "--search", "secret"], "not learnt"),
        (["conversations", "--search", "secret"], "It is <b>secret</b>."),
        (["step", "3"], "4 rows"),
    ],
)
def test_each_look_says_what_it_is_about(planted_home: Planted, words: list[str], said: str) -> None:
    assert said in show(*words).stdout
    json.loads(show(*words, "--json").stdout)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [(["step", "9999"], 3, "has no step 9,999"), (["removed"], 3, "cleans the text"), (["nothing"], 2, "nothing")],
)
def test_what_is_not_there_is_an_error(planted_home: Planted, words: list[str], code: int, said: str) -> None:
    result = show(*words)
    assert result.exit_code == code
    assert said in result.stderr
