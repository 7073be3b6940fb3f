"""What is kept although code, packages or neutral settings changed: offered, summed up, taken, and refused in time."""

from dataclasses import replace
from pathlib import Path

import pytest

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.neutral import ONCE_ABSENT
from nanochat_core.cli.app import derived_plan
from nanochat_core.cli.plan_view import preview_steps
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.table import above, check_drift, previews
from nanochat_core.store import why
from nanochat_core.store.manifest import Artifact
from nanochat_core.store.store import Store

CURRENT = {
    "step": "pretrain", "config": {"seed": 1, "fp8": "auto", "rl": None, "document_mask": False},
    "inputs": {"tokens": "t"}, "code": {"a": "1"}, "packages": {"torch": "2"},
}  # fmt: skip


def earlier(**changes: object) -> Artifact:
    made = {**CURRENT, "config": {"seed": 1}, "code": {"a": "0"}, "packages": {"torch": "1"}, **changes}
    return Artifact(fingerprint="f", files={}, metrics={}, provenance={}, **made)  # type: ignore[arg-type]


def test_code_packages_and_settings_at_their_neutral_values_may_differ() -> None:
    lines = why.drift(CURRENT, earlier(), neutral=ONCE_ABSENT)
    assert lines is not None
    assert "package torch: 1 -> 2" in lines
    assert "code a changed" in lines
    for name, value in {"fp8": "dynamic", "document_mask": True, "seed": 2}.items():
        changed = {**CURRENT, "config": {**CURRENT["config"], name: value}}  # type: ignore[dict-item]
        assert why.drift(changed, earlier(), neutral=ONCE_ABSENT) is None
    off = earlier(config={**CURRENT["config"], "fp8": "off"})  # type: ignore[dict-item]
    assert why.drift(CURRENT, off, neutral=ONCE_ABSENT) is None, "somebody chose it: it is not absent"
    assert why.drift(CURRENT, earlier(inputs={"tokens": "u"}), neutral=ONCE_ABSENT) is None


def test_a_step_stands_for_what_it_is_made_from() -> None:
    cleaning = ("filter_language", "filter_quality", "deduplicate", "core_bundle", "benchmarks", "decontaminate")
    assert above(["tokens"]) == ("corpus", *cleaning, "base", "tokenizer", "tokens")
    assert "report" in above(["all"])


def aged(store: Store, *steps: str) -> None:
    """What the store has of these steps, as if made by other code, by another torch, before a setting came."""
    for step in steps:
        artifact = store.artifacts(step)[0]
        config = {name: value for name, value in artifact.config.items() if name != "document_mask"}
        old = {"code": {"gone": "0"}, "packages": {**artifact.packages, "torch": "1.0"}, "config": config}
        folder, inputs = store.fetch(artifact), artifact.inputs
        store.discard(artifact)
        store.publish(
            folder, step=step, fingerprint=f"{step}-old", inputs=inputs, metrics=artifact.metrics,
            provenance={**artifact.provenance, "seconds": 60.0}, **old,
        )  # fmt: skip


@pytest.fixture
def old_home(prepared_home: Path) -> Path:
    aged(workspace.current().store, "tokenizer", "tokens", "pretrain", "evaluate_base")
    return prepared_home


def test_all_of_an_earlier_version_is_kept_and_what_follows_is_found(old_home: Path, micro_sets: list[str]) -> None:
    plan = derived_plan("tiny", micro_sets, accept_drift=["all"])
    rows = {row["step"]: row for row in preview_steps(plan)}
    states = {name: row["state"] for name, row in rows.items()}
    assert [name for name, state in states.items() if state == "accepted"] == [
        "tokenizer", "tokens", "pretrain", "evaluate_base",
    ]  # fmt: skip
    assert states["conversations"] == "cached", "what was made from an accepted one is looked up as well"
    assert rows["pretrain"]["saved_s"] == 60.0
    made = {ref.step: ref for ref in run_until(make, plan, "conversations")}
    assert all(ref.is_cached for ref in made.values())
    artifact = workspace.current().store.find("pretrain", made["pretrain"].fingerprint)
    assert artifact is not None
    assert "code gone is gone" in artifact.provenance["accepted_drift"]
    assert {seen.state for seen in previews(replace(plan, accept_drift=()), "conversations").values()} == {"cached"}


def test_what_cannot_be_kept_is_refused_before_the_first_step(old_home: Path, micro_sets: list[str]) -> None:
    sets = [*micro_sets, "pretrain.matrix_lr=0.01"]
    with pytest.raises(MissingError, match=r"--accept-drift pretrain cannot hold: config .*matrix_lr"):
        derived_plan("tiny", sets, accept_drift=["pretrain"])
    plan = derived_plan("tiny", sets, accept_drift=["pretrain"], is_checked=False)
    assert previews(plan)["pretrain"].state == "run", "plan and why show it and do not refuse"
    assert previews(plan)["tokens"].state == "accepted", "what it is made from is kept with it"
    check_drift(plan, ["all"])
    with pytest.raises(ConfigError, match="there is no step 'pretrian'"):
        derived_plan("tiny", micro_sets, accept_drift=["pretrian"])
