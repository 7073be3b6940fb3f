"""`nanochat eval` plans as the run of its model did, so that what was measured is found."""

from types import SimpleNamespace

import pytest

from nanochat_core.cli.evaluate import _made_with, _steps
from nanochat_core.pipeline.models import StoredModel
from nanochat_core.pipeline.table import STEPS, wanted
from nanochat_core.pipeline.training import SEED_AFTER
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config


@pytest.mark.parametrize("seed", [0, 7, 2**40])
@pytest.mark.parametrize("step", SEED_AFTER)
def test_the_steps_of_an_evaluation_are_those_of_the_models_own_run(step, seed, tmp_path):
    data = ["benchmarks.source=path", f"benchmarks.path={tmp_path}", "core.source=path", f"core.path={tmp_path}"]
    run = plan_run(load_config("tiny", [*data, f"seed={seed}", "rl.enabled=true", "pretrain.dtype=bf16"]))
    made = SimpleNamespace(step=step, config=STEPS[step].settings(run))
    model = StoredModel("a-model", made, None)  # type: ignore[arg-type]
    again = plan_run(load_config("tiny", [*data, *_made_with(model)]))
    steps = _steps(again, model, is_named=False)
    assert set(steps) <= set(wanted(run)), "the run measured it under the same name"
    assert [STEPS[name].settings(again) for name in steps] == [STEPS[name].settings(run) for name in steps]
    assert {"pretrain": "benchmark_base", "sft": "benchmark_chat", "rl": "benchmark_rl"}[step] in steps
