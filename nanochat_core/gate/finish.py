"""What a finished night leaves for people: its verdict as markdown and the history's picture, in the night's folder."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nanochat_core import workspace
from nanochat_core.gate import baseline
from nanochat_core.gate.night import Night, identity_overrides, nights
from nanochat_core.gate.plot import draw_history
from nanochat_core.gate.verdict import NightRun, RegressionError, markdown


@dataclass(frozen=True)
class FinishedNight:
    """A night's results for those who called it."""

    run_id: str
    record: Night
    markdown: str
    plot: Path | None
    search: str
    """The command that finds what made a red night red."""

    @property
    def is_red(self) -> bool:
        return bool(self.record["state"] == "red")

    @property
    def num_steps(self) -> int:
        """Steps that its trainings ran or found."""
        return len(self.record["steps"])


def finish_night(night: Night) -> FinishedNight:
    """Write the page and the picture."""
    space = workspace.current()
    folder = space.run(night["run_id"])
    history = nights(space.store)
    search = search_command(night, history)
    text = markdown(night) + (f"\nFind the change: `{search}`\n" if night["state"] == "red" else "")
    (folder / "verdict.md").write_text(text, encoding="utf-8")
    runs: list[NightRun] = []
    if night["baseline"] is not None:
        name, _, version = night["baseline"].partition("@")
        runs = baseline.read(space.store, space.store.ref(name, version))
    path = folder / "history.png"
    plot = path if draw_history(path, history, runs) else None
    return FinishedNight(night["run_id"], night, text, plot, search)


def search_command(night: Night, history: Sequence[Night]) -> str:
    """The bisection between the newest earlier night of this kind that was no regression and this one."""

    def task(one: Night) -> tuple[str, list[str]]:
        return one["preset"], identity_overrides(one["overrides"])

    def commit(one: Night | None) -> str:
        return str((one or {"source": {}})["source"].get("git_commit") or "COMMIT")[:12]

    earlier = [one for one in history if one["started_at"] < night["started_at"] and task(one) == task(night)]
    good = next((one for one in reversed(earlier) if one["state"] in ("green", "unjudged")), None)
    words = [
        "nanochat",
        "nightly",
        "bisect",
        "--good",
        commit(good),
        "--bad",
        commit(night),
        "--preset",
        night["preset"],
    ]
    return shlex.join([*words, *(word for setting in night["overrides"] for word in ("--set", setting))])


def raise_if_red(finished: FinishedNight) -> None:
    """A regression ends the run with its own exit code."""
    if finished.is_red:
        raise RegressionError(
            f"{finished.run_id} is red: {finished.record['verdict']['summary']}",
            hint=f"{finished.search} finds the change",
        )
