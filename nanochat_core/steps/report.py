"""Figures and tables of the run, from the logs and scores of what it made."""

from nanochat_core.pipeline.step import Metrics, Step, StepRun
from nanochat_core.steps.benchmark import benchmark_base, benchmark_chat, benchmark_rl
from nanochat_core.steps.core import evaluate_core
from nanochat_core.steps.evaluate import evaluate_base, evaluate_chat, evaluate_rl
from nanochat_core.steps.pretrain import pretrain
from nanochat_core.steps.rl import rl
from nanochat_core.steps.sft import sft
from nanochat_core.steps.tokenizer import tokenizer


def body(run: StepRun) -> Metrics:
    from nanochat_core.report.figures import draw_figures

    return draw_figures(run.inputs, run.out)


report = Step(
    name="report",
    description="Draw the run's figures and tables.",
    title=lambda plan: "curves and tables",
    headline=lambda metrics: f"{metrics['num_figures']} figures",
    settings=lambda plan: {},
    packages=("matplotlib", "numpy"),
    inputs=(
        tokenizer,
        pretrain,
        evaluate_base,
        evaluate_core,
        benchmark_base,
        sft,
        evaluate_chat,
        benchmark_chat,
        rl,
        evaluate_rl,
        benchmark_rl,
    ),
    body=body,
    reads_logs=True,
)
