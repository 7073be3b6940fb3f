"""What a bundle takes along, which runs it refuses to take together, and that it is the same each time."""

import hashlib
import json
from pathlib import Path

import pytest
from core.record.synthetic import Runs, core_files, plan_with, step_records

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.record.bundle import make_bundle
from nanochat_core.record.claims import usd_per_gpu_hour
from nanochat_core.record.verify import verify

OF_ANOTHER_SEED = {"step_ms": lambda step: 101.0, "bits": lambda step: 2.001 + 1.0 / (1 + step)}


def run_of(runs: Runs, *sets: str, **log) -> str:
    plan = plan_with(*sets)
    return runs.add(plan, step_records(plan, **log))


def test_a_run_without_core_claims_nothing_about_it(runs: Runs, tmp_path: Path) -> None:
    made = make_bundle(runs.store, [run_of(runs)], tmp_path / "b")
    assert made.claims["core"] is None
    assert made.claims["reaches_gpt2"] is None
    assert made.claims["significance"]["core_above_gpt2"] is None
    verdict = verify(tmp_path / "b")
    assert verdict.is_sound
    assert any("CORE was not measured" in note for note in verdict.notes)


def test_evidence_with_a_secret_is_not_bundled(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As versions before the table of secrets recorded it."""
    run_id = run_of(runs)
    record = runs.store.run(run_id)
    monkeypatch.setattr("nanochat_core.store.store.redact_value", lambda value: value)
    runs.store.put_run(run_id, {**record, "remark": "https://me:hunter2@host/x"})
    with pytest.raises(ConfigError, match=r"run.json of this run holds an address with a password") as error:
        make_bundle(runs.store, [run_id], tmp_path / "b")
    assert "hunter2" not in error.value.message
    assert not (tmp_path / "b").exists()
    monkeypatch.undo()
    runs.store.put_run(run_id, {**record, "remark": "https://me:hunter2@host/x"})
    assert make_bundle(runs.store, [run_id], tmp_path / "b", description="to https://me:hunter2@host/x").path.exists()
    assert all(b"hunter2" not in path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file())


def test_the_claims_are_those_of_hand_worked_numbers(runs: Runs, tmp_path: Path) -> None:
    # 30 steps of 512 tokens: ten at 900 ms count at the median of the others, 200 ms; two processes
    run_id = run_of(runs, step_ms=lambda step: 900.0 if step <= 10 else 200.0, world_size=2)
    claims = make_bundle(runs.store, [run_id], tmp_path / "b").claims
    [run] = claims["runs"]
    assert claims["clock_s"] == pytest.approx(6.0)
    assert run["device_s"] == pytest.approx(12.0)
    assert run["measured_s"] == pytest.approx(13.0)
    assert run["log_wall_s"] == pytest.approx(99.0)
    assert run["tokens"] == 15_360
    assert claims["tokens_per_s"] == pytest.approx(2560)
    assert claims["val_bits_per_byte"] == pytest.approx(2.0 + 1 / 31)
    assert run["peak_memory_gib"] == pytest.approx(0.53)
    assert (run["num_processes"], run["num_gpus"], run["usd"]) == ([2], 0, 0.0)


def test_dollars_are_device_hours_at_the_price_of_the_gpu(runs: Runs, tmp_path: Path) -> None:
    plan = plan_with()
    records = step_records(plan, step_ms=lambda step: 120_000.0, world_size=8)  # an hour on eight
    run_id = runs.add(plan, records, device="NVIDIA H100 80GB HBM3")
    claims = make_bundle(runs.store, [run_id], tmp_path / "b").claims
    assert claims["usd"] == pytest.approx(24.0)
    assert claims["runs"][0]["num_gpus"] == 8
    assert verify(tmp_path / "b").is_sound


@pytest.mark.parametrize(
    ("device", "configured", "price"),
    [("cpu", 5.0, 0.0), ("NVIDIA GeForce RTX 4090", None, 0.5), ("NVIDIA H100", 2.0, 2.0), ("abacus", None, None)],
)
def test_a_price_is_configured_or_of_the_table_or_unknown(device: str, configured, price) -> None:
    assert usd_per_gpu_hour(device, configured) == price


def test_the_same_runs_give_the_same_bytes(runs: Runs, tmp_path: Path) -> None:
    ids = [run_of(runs), run_of(runs, "seed=2", **OF_ANOTHER_SEED)]
    digests = set()
    for name, order in (("a.zip", ids), ("b.zip", ids[::-1])):
        make_bundle(runs.store, order, tmp_path / name)
        assert verify(tmp_path / name).is_sound
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


def test_weights_come_along_when_asked_for_and_are_checked(runs: Runs, tmp_path: Path) -> None:
    run_id = run_of(runs)
    make_bundle(runs.store, [run_id], tmp_path / "b", with_weights=True)
    assert verify(tmp_path / "b").is_sound
    path = tmp_path / "b/evidence" / run_id / "pretrain/model.safetensors"
    assert path.read_bytes() == b"weights of 42, 0.32"
    path.write_bytes(b"weights of seed 43")
    found = [str(problem) for problem in verify(tmp_path / "b").problems]
    assert any("model.safetensors: has sha256" in line and "the manifest of pretrain" in line for line in found)


def test_a_full_core_above_gpt2_is_a_record_with_a_p_value(runs: Runs, tmp_path: Path) -> None:
    plan = plan_with("core.source=url")
    run_id = runs.add(plan, step_records(plan), core=core_files(0.30, max_per_benchmark=None))
    claims = make_bundle(runs.store, [run_id], tmp_path / "b.zip").claims
    assert claims["reaches_gpt2"] is True
    assert claims["core"] == pytest.approx(0.30, abs=0.02)
    assert 0 < claims["significance"]["core_above_gpt2"]["p_value"] < 0.05
    assert verify(tmp_path / "b.zip").is_sound


def test_a_core_over_a_part_of_the_items_reaches_nothing(runs: Runs, tmp_path: Path) -> None:
    plan = plan_with("core.source=url", "core.max_per_benchmark=40")
    run_id = runs.add(plan, step_records(plan), core=core_files(0.6))
    claims = make_bundle(runs.store, [run_id], tmp_path / "b").claims
    assert claims["core"] > 0.4
    assert claims["reaches_gpt2"] is None
    assert claims["significance"]["core_above_gpt2"] is None


@pytest.mark.parametrize(
    ("sets", "said"), [(["pretrain.matrix_lr=0.1"], "config.pretrain.matrix_lr"), ([], "are not all different")]
)
def test_runs_that_are_no_replicates_are_refused(runs: Runs, tmp_path: Path, sets: list[str], said: str) -> None:
    ids = [run_of(runs), run_of(runs, *sets, *(["seed=2"] if sets else []))]
    with pytest.raises(ConfigError, match=said):
        make_bundle(runs.store, ids, tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_a_log_with_every_tenth_step_is_refused_with_what_to_do(runs: Runs, tmp_path: Path) -> None:
    plan = plan_with()
    records = [r for r in step_records(plan) if r["event"] != "step" or r["step"] % 10 == 0]
    with pytest.raises(CorruptError) as refused:
        make_bundle(runs.store, [runs.add(plan, records)], tmp_path / "b")
    assert "log_every_steps=1" in (refused.value.hint or "")


def test_nothing_is_replaced_and_a_run_that_lost_an_artifact_is_told(runs: Runs, tmp_path: Path) -> None:
    run_id = run_of(runs)
    (tmp_path / "b").mkdir()
    with pytest.raises(ConfigError, match="is there already"):
        make_bundle(runs.store, [run_id], tmp_path / "b")
    runs.store.discard(runs.store.artifacts("tokens")[0])
    with pytest.raises(MissingError, match="tokens/"):
        make_bundle(runs.store, [run_id], tmp_path / "c")


def test_the_patch_of_a_dirty_run_is_in_the_bundle_and_its_digest_is_checked(runs: Runs, tmp_path: Path) -> None:
    patch = "--- a/x\n+++ b/x\n\udcff\n"  # a byte that is no text
    digest = hashlib.sha256(patch.encode("utf-8", "surrogateescape")).hexdigest()
    runs.source = {"git_patch_sha256": digest}
    run_id = run_of(runs)
    record = runs.store.run(run_id)
    runs.store.put_run(run_id, {**record, "source": {"git_patch": patch}})
    claims = make_bundle(runs.store, [run_id], tmp_path / "b").claims
    assert claims["runs"][0]["is_dirty"]
    assert claims["runs"][0]["has_patch"]
    assert verify(tmp_path / "b").is_sound
    path = tmp_path / "b/evidence" / run_id / "source.patch"
    assert path.read_bytes() == patch.encode("utf-8", "surrogateescape")
    path.write_bytes(b"nothing to see")
    assert any(
        str(problem).startswith(f"evidence/{run_id}/source.patch: ") for problem in verify(tmp_path / "b").problems
    )


def test_a_record_reads_well(runs: Runs, tmp_path: Path) -> None:
    make_bundle(runs.store, [run_of(runs)], tmp_path / "b")
    record = json.loads((tmp_path / "b/record.json").read_text())
    assert record["description"] == "tiny, depth 2"
    assert set(record) == {"format", "rules", "description", "target_bits_per_byte", "claims", "files", "seal"}
