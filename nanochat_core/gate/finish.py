"""What a finished night leaves for people: its verdict as markdown and the history's picture, in the night's folder."""

from dataclasses import dataclass
from pathlib import Path

from nanochat_core import workspace
from nanochat_core.gate import baseline
from nanochat_core.gate.night import Night, nights
from nanochat_core.gate.plot import draw_history
from nanochat_core.gate.verdict import NightRun, RegressionError, markdown


@dataclass(frozen=True)
class FinishedNight:
    """A night's results for those who called it."""

    run_id: str
    record: Night
    markdown: str
    plot: Path | None

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
    text = markdown(night)
    (folder / "verdict.md").write_text(text, encoding="utf-8")
    runs: list[NightRun] = []
    if night["baseline"] is not None:
        name, _, version = night["baseline"].partition("@")
        runs = baseline.read(space.store, space.store.ref(name, version))
    path = folder / "history.png"
    return FinishedNight(night["run_id"], night, text, path if draw_history(path, nights(space.store), runs) else None)


def raise_if_red(finished: FinishedNight) -> None:
    """A regression ends the run with its own exit code."""
    if finished.is_red:
        raise RegressionError(
            f"{finished.run_id} is red: {finished.record['verdict']['summary']}",
            hint="nanochat nightly bisect --good COMMIT --bad COMMIT finds the change",
        )
