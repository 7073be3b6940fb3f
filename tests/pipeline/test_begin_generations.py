"""Each generation of nanochat's models goes the whole way: fine-tuning, practice, evaluations and an export.

The run is killed in the middle of its fine-tuning and of its practice, and ends with the bits of one that was not.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import torch
from conftest import MICRO, MICRO_RL, OFTEN, ROOT
from processes import wait_for_record, wait_until_no_ranks

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.export.adopt import adopt
from nanochat_core.export.folder import export_model
from nanochat_core.pipeline.beginning import settle
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.finish import finish_run
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config
from nanochat_core.store.manifest import Artifact

pytestmark = [pytest.mark.torture, pytest.mark.slow]
GENERATIONS = (
    "2025-10-13", "2026-01-11-lambdas", "2026-01-16-value-embeds", "2026-03-09-gates", "transformers-nanochat",
)  # fmt: skip
LAST = "evaluate_rl"
TRAINED = {"sft": 8, "rl": 1}
"""Each training, and the step at which it is killed."""


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_run_from_each_generation_survives_kills_and_is_found_again(
    generation: str,
    shared: Path,
    prepared_home: Path,
    small_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "TIMEOUT_S", 900)  # patience on a busy machine
    folder = shared / "golden/generations" / generation
    speaks = [f"base.tokenizer={folder.parent / '2025-10-13'}"] if "transformers" in generation else []
    sets = [
        *MICRO, *MICRO_RL, *speaks, f"base.model={folder}", "base.softcap=15", OFTEN, "corpus.source=path",
        f"corpus.path={small_corpus}", "sft.total_batch_tokens=1024", "pretrain.total_batch_tokens=1024",
        "rl.max_answer_tokens=16", "evaluate.num_questions=2",
    ]  # fmt: skip
    begun = time.monotonic()
    plan = plan_run(settle(load_config("tiny", sets)))
    expected = {ref.step: ref for ref in run_until(make, plan, LAST)}
    whole_s = time.monotonic() - begun
    for step in TRAINED:
        workspace.current().store.discard(_artifact(expected[step]))
    starts = [_kill(prepared_home, sets, step, after) for step, after in TRAINED.items()]

    made = {ref.step: ref for ref in run_until(make, plan, LAST)}
    assert {step: ref.digest for step, ref in made.items()} == {step: ref.digest for step, ref in expected.items()}
    for step in TRAINED:
        assert _results(_artifact(made[step])) == _results(_artifact(expected[step]))
    again = run_until(make, plan, LAST)
    assert all(ref.is_cached for ref in again)

    finish_run(plan, again, started_at=0.0)
    differs = _exported(tmp_path)
    metrics = {step: ref.metrics for step, ref in made.items()}
    print(
        f"\n| {generation} | {plan.pretrain.model.n_layer} layers, {plan.pretrain.model.vocab_size} tokens "
        f"| {metrics['sft']['num_steps']} | {metrics['sft']['validation_loss']:.3f} | {metrics['rl']['num_steps']} "
        f"| {', '.join(starts)} | equal | {len(again)} of {len(again)} | {differs:.1e} | {whole_s:.0f} s |"
    )


def _artifact(ref: Ref) -> Artifact:
    found = workspace.current().store.find(ref.step, ref.fingerprint)
    assert found is not None
    return found


def _results(artifact: Artifact) -> dict[str, str]:
    return {name: entry.sha256 for name, entry in artifact.files.items() if not name.startswith("log/")}


def _kill(home: Path, sets: list[str], step: str, after: int) -> str:
    """Start the run and kill all of its processes in mid-training."""
    options = [part for value in sets for part in ("--set", value)]
    command = [sys.executable, "-m", "flows.cli", "run", "tiny", "--no-prefect", "--until", LAST, *options]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        wait_for_record(home, step, after, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    wait_until_no_ranks(home, timeout_s=600)
    return f"{step} {after}"


@torch.no_grad()
def _exported(tmp_path: Path) -> float:
    """Both forms of the export compute what the run's last model does; the largest difference."""
    store = workspace.current().store
    logits = []
    for form in ("safetensors", "hf"):
        export_model(store, "tiny-chat", tmp_path / form, form=form)
        logits.append(adopt(tmp_path / form).model(torch.tensor([[5, *b"what came of it"]])).numpy())
    np.testing.assert_allclose(logits[0], logits[1], atol=1e-5)
    return float(np.abs(logits[0] - logits[1]).max())
