"""Whoever sits at a terminal is asked before a run costs money; a script is not, nor is a run that costs little."""

import os
import pty
import subprocess
import sys

import pytest
from conftest import ROOT

START = "from flows.session import confirm_cost; confirm_cost('run', {usd}, yes={yes}); print('started')"


def start(*, usd: float, answer: str | None, yes: bool = False) -> str:
    """What is printed when a run of this price is started and the question is answered; None: there is no terminal."""
    ours, theirs = pty.openpty()
    try:
        if answer is not None:
            os.write(ours, f"{answer}\n".encode())
        command = [sys.executable, "-c", START.format(usd=usd, yes=yes)]
        stdin = subprocess.DEVNULL if answer is None else theirs
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, stdin=stdin)
    finally:
        os.close(ours)
        os.close(theirs)
    assert "Traceback" not in done.stderr or "Abort" in done.stderr, done.stderr
    return done.stdout + done.stderr.partition("Traceback")[0]


@pytest.mark.parametrize(
    ("usd", "answer", "yes", "is_asked", "is_started"),
    [
        (5.4, "n", False, True, False),
        (5.4, "y", False, True, True),
        (5.4, "n", True, False, True),
        (0.5, "n", False, False, True),
        (5.4, None, False, False, True),
    ],
)
def test_a_run_that_costs_money_starts_after_a_yes(
    usd: float, answer: str | None, yes: bool, is_asked: bool, is_started: bool
) -> None:
    said = start(usd=usd, answer=answer, yes=yes)
    assert ("Start a run of about $5?" in said) == is_asked
    assert ("started" in said) == is_started
