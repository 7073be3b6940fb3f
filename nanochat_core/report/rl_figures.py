"""What reinforcement learning did: the reward while it practised and on held-out questions, and how far it went.

From the training's metrics.jsonl alone. Practice is asked with other questions at each step, so its curve wobbles; the
dots are the same held-out questions every time. KL and entropy say what the reward does not: whether the model is still
near the one it started as, and whether it still tries different answers.
"""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nanochat_core.report.canvas import SERIES_A, SERIES_B, SERIES_C, Chart, label_end, name_axes
from nanochat_core.report.training_figures import TrainingLog, smoothed

LAST_FRAC = 10  # the last tenth of the steps is what "at the end" means


def rl_numbers(log: TrainingLog | None) -> dict[str, Any] | None:
    """What report.json says of the practice; None where there was none."""
    measured = _measured(log)
    if log is None or not log.steps or not measured:
        return None
    before, after = measured[0], measured[-1]
    tries = [name.removeprefix("pass_at_") for name in after if name.startswith("pass_at_")]
    last = log.steps[-max(1, len(log.steps) // LAST_FRAC) :]
    return {
        "before": {name: before[name] for name in ("held_out_reward", "standard_error")},
        "after": {name: after[name] for name in ("held_out_reward", "standard_error")},
        "pass_at": [(k, before[f"pass_at_{k}"], after[f"pass_at_{k}"]) for k in sorted(tries, key=int)],
        "num_steps": log.steps[-1]["step"],
        "kl": _mean(last, "kl"),
        "first_entropy": log.steps[0]["entropy"],
        "entropy": _mean(last, "entropy"),
        "first_answer_tokens": log.steps[0]["answer_tokens"],
        "answer_tokens": _mean(last, "answer_tokens"),
    }


def rl_times(log: TrainingLog | None) -> dict[str, Any]:
    """What times.json says of the practice."""
    if log is None or rl_numbers(log) is None:
        return {}
    return {
        "rollout_s": sum(record["rollout_s"] for record in log.steps),
        "learn_s": sum(record["learn_s"] for record in log.steps),
    }


def _measured(log: TrainingLog | None) -> list[dict[str, Any]]:
    records = log.records if log is not None else []
    return [record for record in records if record["event"] == "validate" and "held_out_reward" in record]


def _mean(records: list[dict[str, Any]], name: str) -> float:
    return sum(float(record[name]) for record in records) / len(records)


def rl_charts(log: TrainingLog | None) -> list[Chart]:
    """Reward, and the distance from the model that it started as."""
    numbers = rl_numbers(log)
    if log is None or numbers is None:
        return []
    before, after = numbers["before"]["held_out_reward"], numbers["after"]["held_out_reward"]
    drift = f"KL {numbers['kl']:.3f} at the end, entropy {numbers['first_entropy']:.3f} to {numbers['entropy']:.3f}"
    return [
        Chart("rl_reward", "rl", "Reward: right answers while practising and on held-out questions",
              f"held-out questions from {before:.0%} to {after:.0%}", lambda axes: _draw_reward(axes, log)),
        Chart("rl_drift", "rl", "Entropy, and KL divergence from the fine-tuned model", drift,
              lambda axes: _draw_drift(axes, log)),
    ]  # fmt: skip


def _draw_reward(axes: Axes, log: TrainingLog) -> None:
    steps, reward = log.column("step"), log.column("reward")
    axes.plot(steps, reward, color=SERIES_A, alpha=0.35, linewidth=0.9)
    axes.plot(steps, smoothed(reward), color=SERIES_A, linewidth=2.0)
    measured = _measured(log)
    places, values = [r["step"] for r in measured], [r["held_out_reward"] for r in measured]
    errors = [r["standard_error"] for r in measured]
    axes.errorbar(places, values, yerr=errors, color=SERIES_B, fmt="o", markersize=4.5, elinewidth=1.4, capsize=2)
    axes.set_ylim(0, min(1.0, 1.15 * max([*values, *reward.tolist(), 0.1])))
    axes.text(0.9, 0.04, "dots: held out", color=SERIES_B, ha="right", transform=axes.transAxes)
    name_axes(axes, x="step", y="share of right answers", x_end=float(steps[-1]))
    label_end(axes, f"{values[-1]:.2f}", at=(places[-1], values[-1]), colour=SERIES_B)


def _draw_drift(axes: Axes, log: TrainingLog) -> None:
    steps = log.column("step")
    top = 0.0
    for name, colour in (("entropy", SERIES_A), ("kl", SERIES_C)):
        values = smoothed(log.column(name))
        axes.plot(steps, values, color=colour, linewidth=2.0)
        top = max(top, float(np.max(values)))
        label_end(axes, {"kl": "KL"}.get(name, name), at=(float(steps[-1]), float(values[-1])), colour=colour)
    axes.set_ylim(0, 1.1 * max(top, 1e-3))
    name_axes(axes, x="step", y="nats per token", x_end=float(steps[-1]))
