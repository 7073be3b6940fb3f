"""An answer that does not arrive is told by the exit code; whatever a terminal cannot show ends nothing."""

import io
import os
import pty
import re
import subprocess
import sys

import pytest

from nanochat_core.cli import plan_view, records_view
from nanochat_core.cli.output import Page
from nanochat_core.cli.output import table as make_table
from nanochat_core.record.runs import RunSummary

SHORT = "from flows.cli import main; main()"
SPEAKER = """
import sys
from nanochat_core.cli import output
output.prepare()
for _ in range({lines}):
    print({said})
print("progress \\u2713", file=sys.stderr)
sys.exit(output.finish())
"""


def _speak(said, lines=1, **options):
    program = SPEAKER.format(said=ascii(said), lines=lines)
    return subprocess.run([sys.executable, "-c", program], timeout=120, **{"stderr": subprocess.PIPE, **options})


@pytest.mark.parametrize("lines", [1, 5000], ids=["held back to the end", "more than a buffer"])
def test_a_full_disk_behind_stdout_is_one_line_and_not_0(lines):
    with open("/dev/full", "wb") as full:
        done = _speak("an answer", lines, stdout=full)
    assert done.returncode == (4 if lines == 1 else 1)
    if lines == 1:
        assert done.stderr.decode().splitlines()[-1] == (
            "error: the answer cannot be written to stdout: No space left on device"
        )


@pytest.mark.parametrize("verb", [["--help"], ["plan", "tiny", "--json"], ["refs", "list"]], ids=" ".join)
def test_every_verb_says_that_its_answer_could_not_be_written(verb, home):
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", SHORT, *verb], stdout=full, stderr=subprocess.PIPE, timeout=120)
    assert done.returncode == 4
    assert done.stderr.decode() == "error: the answer cannot be written to stdout: No space left on device\n"


def test_a_reader_that_has_gone_is_no_matter_for_words(home):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-c", SHORT, "plan"], stdout=write, stderr=subprocess.PIPE, timeout=120)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_streams_that_were_closed_are_no_traceback(home):
    command = f'exec "{sys.executable}" -c "{SHORT}" refs list'
    for closed, code in ((">&-", 1), ("2>&-", 0), ("<&-", 0), (">&- 2>&- <&-", 1)):
        done = subprocess.run(["bash", "-c", f"{command} {closed}"], capture_output=True, timeout=120)
        assert done.returncode == code, closed
        assert b"Traceback" not in done.stderr


def test_progress_that_nobody_takes_ends_nothing():
    read, write = os.pipe()
    os.close(read)
    with open("/dev/full", "wb") as full:
        for place in (write, full):
            done = _speak("an answer", stdout=subprocess.PIPE, stderr=place)
            assert (done.returncode, done.stdout) == (0, b"an answer\n")
    os.close(write)


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1:strict"},
        {"PYTHONIOENCODING": "utf-8:strict"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "TERM": "dumb"},
    ],
    ids=str,
)
def test_what_a_terminal_does_not_have_is_replaced(environment):
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "PYTHON"))}
    plain["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    done = _speak("a \u2026 \u00fc \ud83d \udce9 z", stdout=subprocess.PIPE, env=plain | environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(b"a ")
    assert done.stdout.endswith(b" ? ? z\n")
    assert b"progress" in done.stderr


RUN = RunSummary(
    run_id="tiny-20261122-143033-71e8",
    started_at="2026-11-22T14:30:33",
    preset="tiny",
    depth=4,
    seed=42,
    seconds=3725.0,
    num_made=12,
    num_cached=3,
    last_step="report",
    bits_per_byte=1.24721,
    core=0.25851,
    core_standard_error=0.00412,
    core_is_whole=True,
    scores={},
)


def test_files_have_their_names_whatever_the_locale(tmp_path):
    program = """
import os, sys
from nanochat_core.cli import output
output.name_files_in_utf8()
output.prepare()
print(sys.getfilesystemencoding(), sys.argv[1].isprintable(), os.path.exists(sys.argv[1]), "\\u2713")
sys.exit(output.finish())
"""
    (tmp_path / "ü").mkdir()
    environment = {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", program, str(tmp_path / "ü")]
    done = subprocess.run(command, env=environment, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, b"utf-8 True True ?\n"), done.stderr


VALUES = ("tiny-20261122-143033-71e8", "1.2472", "0.2585 ± 0.0041", "what a run made of it in some words")


@pytest.mark.parametrize("width", [10, 40, 80, 300])
def test_no_table_cuts_a_value_however_narrow_the_terminal(width):
    file = io.StringIO()
    page = Page(file=file, width=width, force_terminal=True, no_color=True, highlight=False)
    shown = make_table("run", "bpb", "CORE", "what", wraps=("what",))
    shown.add_row(*VALUES)
    page.print(shown)
    text = file.getvalue()
    assert "…" not in text
    assert all(value in text for value in VALUES[:3])
    assert all(word in text for word in VALUES[3].split())


def test_a_terminal_that_is_narrow_has_fewer_columns_and_a_pipe_has_all():
    def printed(**options):
        file = io.StringIO()
        shown = make_table("run", "started", "seed", spare=("started", "seed"))
        shown.add_row("tiny-20261122-143033-71e8", "2026-11-22 14:30", "42")
        Page(file=file, no_color=True, highlight=False, **options).print(shown)
        return re.sub(r"\x1b\[[0-9;]*m", "", file.getvalue())

    lines = printed(width=40, force_terminal=True).splitlines()
    assert [line.split() for line in lines[:2]] == [["run", "seed"], ["tiny-20261122-143033-71e8", "42"]]
    assert "without started, which --json has" in lines[2]
    assert max(map(len, lines)) <= 40
    assert "2026-11-22 14:30" in printed(width=80, force_terminal=True)
    assert "2026-11-22 14:30" in printed()


def test_a_table_in_a_pipe_has_a_line_for_each_row(capsys):
    shown = make_table("run", "what", wraps=("what",))
    shown.add_row("a", "word " * 200)
    Page().print(shown)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_list_of_runs_is_whole_in_a_pipe(capsys):
    records_view.show_runs([RUN])
    line = capsys.readouterr().out.splitlines()[1]
    assert " ".join(line.split()) == (
        "tiny-20261122-143033-71e8 2026-11-22 14:30 4 42 1 h 02 min 12 made, 3 cached report 1.2472 0.2585 ± 0.0041"
    )


def test_the_tables_of_a_plan_are_whole_in_a_pipe(capsys):
    reason = "a reason of " + "many words " * 30
    plan_view.show_steps(Page(), [{"step": "corpus", "state": "run", "what": "/a/[/b]/" + "x" * 200, "why": [reason]}])
    shown = capsys.readouterr().out
    assert "/a/[/b]/" + "x" * 200 in shown
    assert reason.strip() in shown


STRANGE = "\x1b[2J\x1b[31mred\x9b1m\x07\u202ebidi\u2066\x7f\u200b\u2028"
OBEYED = set("\x1b\x9b\x07\u202e\u2066\x7f\u200b\u2028\r")
PRINTERS = {
    "print": "print(S)",
    "stderr": "print(S, file=sys.stderr)",
    "page": "Page().print(S)",
    "page on stderr": "Page(stderr=True).print(S, markup=False)",
    "markup": "Page().print(f'[bold]{said(S)}[/bold]')",
    "table": "t = table('a'); t.add_row(S); Page().print(t)",
    "live": "d = LiveTable({'s': S}, Page(stderr=True)); d.__enter__(); d.note(S); d.step_failed('s', S); d.__exit__()",
    "lines": "d = display({'s': S}); d.note(S); d.step_started('s', S); d.step_failed('s', S)",
    "log": "logging.basicConfig(force=True); logging.getLogger('x').warning('%s: %s', S, ValueError(S))",
    "rich": "import rich.logging as r; logging.basicConfig(force=True, handlers=[r.RichHandler()]); logging.warning(S)",
    "error": "tell(ConfigError(S, hint=S))",
    "warning": "import warnings; warnings.warn(S)",
    "traceback": "raise ValueError(S)",
    "echo": "import click; click.echo(S); click.echo(S, err=True)",
    "json": "import json; json.loads(output.visible(json.dumps({S: S}))); print(json.dumps({S: S}))",
}


@pytest.mark.parametrize("is_terminal", [False, True])
def test_nothing_that_is_printed_moves_a_terminal(is_terminal):
    """On a terminal rich may colour and move its own table; what it is given is spelt out all the same."""
    code = (
        "import logging, sys, traceback; from nanochat_core.cli.output import *; from nanochat_core.cli import output\n"
        "from nanochat_core.cli.display import LiveTable, display; from nanochat_core.base.errors import ConfigError\n"
        f"output.prepare(); S = {STRANGE!r}\n"
        f"for name, code in {PRINTERS!r}.items():\n"
        "    print('@@', name, file=sys.stderr, flush=True)\n"
        "    try: exec(code)\n"
        "    except ValueError: traceback.print_exc()\n"
    )
    shown = (_on_terminal if is_terminal else _in_pipe)(code)
    own = re.compile(r"\x1b\[\??[0-9;]*[A-Za-z]|\r") if is_terminal else re.compile("(?!)")
    assert shown.count("@@") == len(PRINTERS)
    assert shown.count("red") >= len(PRINTERS)
    assert not OBEYED & set(own.sub("", shown)), shown
    assert "\x1b[2J" not in shown
    assert "\x1b[31mred" not in shown


def _in_pipe(code):
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.decode()


def _on_terminal(code):
    ours, theirs = pty.openpty()
    process = subprocess.Popen([sys.executable, "-c", code], stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    except OSError:  # the other end is closed
        pass
    process.wait()
    os.close(ours)
    return b"".join(pieces).decode("utf-8", "replace")
