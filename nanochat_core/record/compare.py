"""`nanochat runs compare A B`: what was set differently, what came out differently, what that is worth in compute."""

from dataclasses import asdict, dataclass
from typing import Any

from nanochat_core.record.multiplier import Multiplier, compute_multiplier, refused
from nanochat_core.record.problems import ABSENT, differences
from nanochat_core.record.runs import RunSummary, Training, read_training, summarize
from nanochat_core.store.store import Store


@dataclass(frozen=True)
class ScoreRow:
    """One figure of two runs."""

    name: str
    a: float | None
    b: float | None
    a_error: float | None = None
    b_error: float | None = None

    @property
    def difference(self) -> float | None:
        return None if self.a is None or self.b is None else self.b - self.a

    @property
    def difference_error(self) -> float | None:
        """Standard error of the difference, as if the two were independent; None where one is not known."""
        if self.a_error is None or self.b_error is None:
            return None
        return (self.a_error**2 + self.b_error**2) ** 0.5

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "difference": self.difference, "difference_error": self.difference_error}


@dataclass(frozen=True)
class Comparison:
    """Two runs side by side."""

    a: RunSummary
    b: RunSummary
    settings: list[tuple[str, Any, Any]]
    """(setting, in A, in B) for each that differs."""
    steps: dict[str, str]
    """Step -> same, other, only A, only B."""
    scores: list[ScoreRow]
    multiplier: Multiplier

    def record(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "a": self.a.run_id,
            "b": self.b.run_id,
            "settings": {name: {"a": ours, "b": theirs} for name, ours, theirs in self.settings},
            "steps": self.steps,
            "scores": {row.name: row.record() for row in self.scores},
            "multiplier_of_a": asdict(self.multiplier),
        }


def compare_runs(store: Store, a: str, b: str) -> Comparison:
    """Compare two runs of the store by their ids."""
    records = (store.run(a), store.run(b))
    summaries = (summarize(a, records[0]), summarize(b, records[1]))
    trainings = (read_training(store, records[0]), read_training(store, records[1]))
    settings = [
        (name, _plain(ours), _plain(theirs))
        for name, ours, theirs in differences(records[0]["config"], records[1]["config"])
    ]
    return Comparison(
        a=summaries[0],
        b=summaries[1],
        settings=settings,
        steps=_steps(records[0], records[1]),
        scores=_scores(summaries, trainings),
        multiplier=_multiplier(store, records, trainings),
    )


def _plain(value: Any) -> Any:
    return "absent" if value is ABSENT else value


def _steps(a: dict[str, Any], b: dict[str, Any]) -> dict[str, str]:
    """Which artifacts the two share."""
    ours, theirs = ({line["step"]: line["digest"] for line in record["steps"]} for record in (a, b))
    state = {}
    for step in [*ours, *(name for name in theirs if name not in ours)]:
        if step in ours and step in theirs:
            state[step] = "same" if ours[step] == theirs[step] else "other"
        else:
            state[step] = "only A" if step in ours else "only B"
    return state


def _scores(runs: tuple[RunSummary, RunSummary], trainings: tuple[Training | None, Training | None]) -> list[ScoreRow]:
    a, b = runs
    last = [training.curve[-1] if training and training.curve else None for training in trainings]
    clocks = [training.clock.clock_s if training and training.clock else None for training in trainings]
    rows = [
        ScoreRow("bits per byte", a.bits_per_byte, b.bits_per_byte),
        ScoreRow("last validation", *(point[1] if point else None for point in last)),
        ScoreRow(
            "CORE" if a.core_is_whole is not False and b.core_is_whole is not False else "CORE (in part)",
            a.core,
            b.core,
            a.core_standard_error,
            b.core_standard_error,
        ),
        ScoreRow("training seconds", *clocks),
        ScoreRow("training FLOPs", *(point[0] if point else None for point in last)),
    ]
    for name in [*a.scores, *(name for name in b.scores if name not in a.scores)]:
        (ours, our_error), (theirs, their_error) = a.scores.get(name, (None, None)), b.scores.get(name, (None, None))
        rows.append(ScoreRow(name, ours, theirs, our_error, their_error))
    return [row for row in rows if row.a is not None or row.b is not None]


def _multiplier(
    store: Store, records: tuple[dict[str, Any], dict[str, Any]], trainings: tuple[Training | None, Training | None]
) -> Multiplier:
    """At equal bits per byte, which compare on the same text only."""
    ours, theirs = (_validation_text(store, record) for record in records)
    if ours is not None and theirs is not None and ours != theirs:
        return refused("the two were validated on different text, where bits per byte do not compare")
    curves = [training.curve if training else [] for training in trainings]
    return compute_multiplier(curves[0], curves[1])


def _validation_text(store: Store, record: dict[str, Any]) -> dict[str, str] | None:
    """Digests of the held-out text; None where the corpus is not in the store any more."""
    line = next((line for line in record["steps"] if line["step"] == "corpus"), None)
    artifact = store.find("corpus", line["fingerprint"]) if line else None
    if artifact is None:
        return None
    return {name: entry.sha256 for name, entry in artifact.files.items() if name.startswith("validation/")}
