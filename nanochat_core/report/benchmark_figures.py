"""Questions that a model answered: scores, charts and the answers that went wrong.

Two kinds come in: the run's own held-out questions (every outcome, from which scores are counted here) and published
chat benchmarks, asked of each stage of the model in the same way, whose scores come counted with their intervals.
"""

import math
from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from nanochat_core.report.canvas import (
    INK,
    SERIES_A,
    SERIES_B,
    SERIES_C,
    Chart,
    Marks,
    draw_bars,
    draw_legend,
    whisker,
)
from nanochat_core.report.references import STAGE_NAMES

WRONG_ANSWERS = 3
MOST_WRONG_ANSWERS = 6  # with more benchmarks more of them: one of each, up to here
LONGEST_QUESTION, LONGEST_ANSWER = 700, 400  # characters of an example
STAGES = {
    "benchmark_base": Marks(STAGE_NAMES["benchmark_base"], SERIES_B, "o", is_filled=False),
    "benchmark_chat": Marks(STAGE_NAMES["benchmark_chat"], SERIES_A, "o"),
    "benchmark_rl": Marks(STAGE_NAMES["benchmark_rl"], SERIES_C, "D"),
}
Scores = dict[str, dict[str, Any]]


def counted_scores(outcomes: list[dict[str, Any]]) -> Scores:
    """Scores of the run's own questions."""
    # evals.questions has the same sums, but importing it would put the whole model into this step's fingerprint.
    result: Scores = {}
    for name in sorted({outcome["benchmark"] for outcome in outcomes}):
        marks = [bool(outcome["is_right"]) for outcome in outcomes if outcome["benchmark"] == name]
        accuracy = sum(marks) / len(marks)
        error = math.sqrt(accuracy * (1 - accuracy) / len(marks))
        result[name] = {"accuracy": accuracy, "standard_error": error, "num_right": sum(marks), "num_asked": len(marks)}
    return result


def wrong_answers(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Examples, from as many benchmarks as possible: the first wrong one of each, then the second ones."""
    ranked: list[tuple[int, dict[str, Any]]] = []
    seen: dict[str, int] = {}
    for outcome in outcomes:
        if not outcome["is_right"]:
            rank = seen[outcome["benchmark"]] = seen.get(outcome["benchmark"], 0) + 1
            ranked.append((rank, outcome))
    num_shown = min(max(WRONG_ANSWERS, len(seen)), MOST_WRONG_ANSWERS)
    return [_clipped(outcome) for _, outcome in sorted(ranked, key=lambda pair: pair[0])[:num_shown]]


def _clipped(outcome: dict[str, Any]) -> dict[str, Any]:
    limits = {"question": LONGEST_QUESTION, "expected": LONGEST_ANSWER, "answer": LONGEST_ANSWER}
    return outcome | {name: _clip(str(outcome[name] or ""), limit) for name, limit in limits.items()}


def _clip(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit].rstrip()} …"


def question_charts(scores: Scores) -> list[Chart]:
    """The run's own questions as bars."""
    if not scores:
        return []

    def draw(axes: Axes) -> None:
        ranked = sorted(scores.items(), key=lambda item: -item[1]["accuracy"])
        values = {name: 100 * score["accuracy"] for name, score in ranked}
        errors = [100 * score["standard_error"] for _, score in ranked]
        labels = [f"{value:.0f}%" for value in values.values()]
        draw_bars(axes, values, labels=labels, colour=SERIES_A, errors=errors)
        axes.set_xlim(0, 112)  # room for the label of a bar that reaches 100
        axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_xlabel("right answers, % (bars: one standard error)")

    about = ", ".join(f"{name} {score['accuracy']:.0%}" for name, score in scores.items())
    title = "Right answers by benchmark"
    return [Chart("benchmarks", "questions", title, about, draw, height_in=1.0 + 0.52 * len(scores))]


def benchmark_names(stages: Mapping[str, Any]) -> list[str]:
    """Benchmarks that any stage was asked, in their order."""
    return list(dict.fromkeys(name for stage in stages.values() for name in stage["benchmarks"]))


def chat_charts(stages: dict[str, dict[str, Any]]) -> list[Chart]:
    """Every stage's accuracy in every benchmark, with 95% intervals and chance."""
    names = benchmark_names(stages)
    if not names:
        return []
    about = "; ".join(
        f"{STAGES[step].name}: "
        + ", ".join(f"{score['title']} {score['accuracy']:.0%}" for score in stage["benchmarks"].values())
        for step, stage in stages.items()
    )
    height_in = 1.15 + len(names) * (0.2 + 0.2 * len(stages))
    return [Chart("chat_benchmarks", "chat", "Right answers by benchmark and stage", about,
                  lambda axes: _draw_stages(axes, names, stages), height_in=height_in)]  # fmt: skip


def _draw_stages(axes: Axes, names: list[str], stages: dict[str, dict[str, Any]]) -> None:
    """One row per benchmark; the stages stand below each other in it, so that their intervals stay apart."""
    lane = 0.62 / max(1, len(stages))
    for number, (step, stage) in enumerate(stages.items()):
        points = []
        for row, name in enumerate(names):
            if (score := stage["benchmarks"].get(name)) is None:
                continue
            place = row + (number - (len(stages) - 1) / 2) * lane
            points.append((100 * score["accuracy"], place))
            if score.get("interval_95"):
                low, high = score["interval_95"]
                whisker(axes, place, (100 * low, 100 * high), colour=STAGES[step].colour)
        STAGES[step].draw(axes, points)
    _draw_chance(axes, names, stages)
    titles = {name: score["title"] for stage in stages.values() for name, score in stage["benchmarks"].items()}
    axes.set_yticks(range(len(names)), [titles[name] for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.set_xlabel("right answers, %, with 95% intervals")
    draw_legend(axes, num_columns=len(stages) + 1)


def _draw_chance(axes: Axes, names: list[str], stages: dict[str, dict[str, Any]]) -> None:
    """A short dashed line where guessing would be; none where guessing scores nothing."""
    is_named = False
    for row, name in enumerate(names):
        chance = next(stage["benchmarks"][name]["baseline"] for stage in stages.values() if name in stage["benchmarks"])
        if chance:
            axes.plot([100 * chance] * 2, [row - 0.42, row + 0.42], color=INK, linewidth=1.4, linestyle=(0, (2, 1.5)),
                      label=None if is_named else "chance")  # fmt: skip
            is_named = True
