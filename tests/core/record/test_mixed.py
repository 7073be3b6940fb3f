"""A training that several codes made: its record says so, names which steps, and is no time of any code."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from core.record.spoil import edit_json, reseal_bundle, reseal_manifest, setting
from core.record.synthetic import Runs, core_files, plan_with, step_records

from nanochat_core.base.errors import ConfigError
from nanochat_core.base.fingerprint import identity_digest
from nanochat_core.gate.baseline import _may_lead
from nanochat_core.pipeline.ingredients import evidence
from nanochat_core.pipeline.reproduce import _check_plain
from nanochat_core.record.bundle import make_bundle
from nanochat_core.record.leaderboard import MIXED, leaderboard
from nanochat_core.record.runs import show_run
from nanochat_core.record.verify import verify
from nanochat_core.store.provenance import STEPS_BY_CODE
from nanochat_core.store.store import manifest_key


@pytest.fixture
def mixed(runs: Runs) -> str:
    """A run that went on at step 17 with another code."""
    plan = plan_with("core.source=url", "core.max_per_benchmark=10")
    run_id = runs.add(plan, step_records(plan, starts=(0, 17)), core=core_files(0.3, max_per_benchmark=10))
    [artifact] = runs.store.artifacts("pretrain")
    earlier = {"code": {"nanochat_core.train.saver": "0"}, "packages": {"torch": "1"}}
    identity = {"step": "pretrain", "config": artifact.config, "inputs": artifact.inputs, **earlier}
    parts: list[dict[str, Any]] = [
        {"first_step": 1, "last_step": 17, "fingerprint": identity_digest(identity), "git_commit": "a" * 40, **earlier},
        {"first_step": 18, "last_step": 30, "fingerprint": artifact.fingerprint, "git_commit": "b" * 40},
    ]
    made = replace(artifact, provenance={**artifact.provenance, STEPS_BY_CODE: parts})
    runs.store.files.write(manifest_key("pretrain", artifact.fingerprint), made.to_json())
    return run_id


def test_a_mixed_record_is_sound_and_says_what_that_means(runs: Runs, mixed: str, tmp_path: Path) -> None:
    made = make_bundle(runs.store, [mixed], tmp_path / "b")
    [claims] = made.claims["runs"]
    assert [(part["first_step"], part["last_step"]) for part in claims[STEPS_BY_CODE]] == [(1, 17), (18, 30)]
    verdict = verify(tmp_path / "b")
    assert verdict.problems == ()
    assert any("2 codes made the steps of its pretraining" in note for note in verdict.notes)
    rows = [row for row in leaderboard(runs.store, [tmp_path / "b"]) if not row.is_published]
    assert [row.lacks for row in rows] == [MIXED, MIXED]
    shown = {line["step"]: line[STEPS_BY_CODE] for line in show_run(runs.store, mixed)["steps"]}
    assert shown["pretrain"][0].startswith("steps 1 to 17 by commit aaaaaaaaaaaa (fingerprint ")
    assert shown["corpus"] == []
    with pytest.raises(ConfigError, match="several codes made the steps of pretrain"):
        _check_plain(evidence(runs.store, mixed))


@pytest.mark.parametrize(
    ("where", "value", "told"),
    [
        ("0/last_step", 16, "says steps 1 to 16"),
        ("1/first_step", 17, "says steps 17 to 30"),
        ("1/last_step", 29, "says steps 18 to 29"),
        ("0/code", {"nanochat_core.train.saver": "1"}, "its code gives"),
        ("0/first_step", None, "says steps null to 17"),
    ],
)
def test_steps_that_the_log_does_not_have_so_are_refused(
    where: str, value: Any, told: str, runs: Runs, mixed: str, tmp_path: Path
) -> None:
    bundle = tmp_path / "b"
    make_bundle(runs.store, [mixed], bundle)
    run = bundle / "evidence" / mixed
    edit_json(run / "manifests/pretrain.json", setting(f"provenance/{STEPS_BY_CODE}/{where}", value))
    reseal_manifest(run, "pretrain")
    reseal_bundle(bundle)
    assert any(told in str(problem) for problem in verify(bundle).problems)


def test_a_mixed_night_leads_no_baseline() -> None:
    night = {"run_id": "nightly-1", "state": "green", "runs": [{"conditions": {}}]}
    assert _may_lead(night, None)
    assert not _may_lead({**night, "runs": [{"conditions": {STEPS_BY_CODE: ["steps 1 to 17"]}}]}, None)
    assert not _may_lead({**night, "runs": [{"conditions": {STEPS_BY_CODE: ["steps 1 to 17"]}}]}, "nightly-1")
