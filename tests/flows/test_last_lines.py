"""The last lines of a run: which figure is which."""

from types import SimpleNamespace

from flows.cli import _conclude
from nanochat_core.pipeline.training import headline
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config


def test_the_figures_called_bits_per_byte_say_what_they_are_of(capsys):
    refs = {name: SimpleNamespace(step=name, is_cached=False, metrics={"bits_per_byte": value})
            for name, value in (("evaluate_base", 1.2801), ("evaluate_chat", 3.72))}  # fmt: skip
    finished = SimpleNamespace(refs=list(refs.values()), seconds=5.0, ref=refs.get, report=None)
    plan = plan_run(load_config("tiny", ["evaluate.bpb_tokens=524288", "pretrain.validation_tokens=131072"]))
    _conclude(finished, plan)  # type: ignore[arg-type]
    base, chat = capsys.readouterr().out.splitlines()[2:4]
    assert base == (
        "  base   1.2801 bits per byte of held-out text (up to 524K tokens of it; up to 131K during training)"
    )
    assert chat.startswith("  chat   3.7200 bits per byte of held-out text (high, for it learnt to answer")
    assert headline({"num_steps": 5, "bits_per_byte": 1.2472}) == "5 steps, validation bpb 1.2472"
