"""Stores that earlier releases wrote are opened; what a later one wrote is refused in a line, and never overwritten.

tests/golden/stores: by the commit whose code wrote it (f43f9d8 is 0.1.0, 65379cf 0.2.0, f4df12b on the way to 0.3.0), a
run up to evaluate_base. Files above 20,000 bytes are left out there, and stand here as so many zeros.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError, CorruptError
from nanochat_core.base.neutral import ONCE_ABSENT
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import plan_run
from nanochat_core.presets import config_from_record
from nanochat_core.record.bundle import make_bundle
from nanochat_core.record.runs import list_runs, show_run
from nanochat_core.record.verify import verify
from nanochat_core.store import format, why
from nanochat_core.store.blobs import blob_key
from nanochat_core.store.copy import carry, everything
from nanochat_core.store.manifest import FORMAT, open_sealed_json, seal_json
from nanochat_core.store.reach import Policy, make_plan
from nanochat_core.store.store import Store

STORES = sorted((ROOT / "tests/golden/stores").glob("*.zip"))
OF_0_1 = "tiny-20261130-114634-1f2f"  # of before there were bundles: its log has no times of day
SETTINGS_OF_CONFIG = ("tokenizer", "tokens", "pretrain", "evaluate_base")  # a corpus from a path is known otherwise now


@pytest.fixture(params=STORES, ids=lambda path: path.stem)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    folder = tmp_path / "store"
    with zipfile.ZipFile(request.param) as archive:
        archive.extractall(folder)
    for manifest in folder.glob("steps/*/*.json"):
        for entry in json.loads(manifest.read_text())["files"].values():
            blob = folder / blob_key(entry["sha256"])
            blob.parent.mkdir(parents=True, exist_ok=True)
            if not blob.exists():
                blob.write_bytes(b"\0" * entry["num_bytes"])
    return Store.open(str(folder), cache_folder=tmp_path / "cache")


def test_its_runs_names_and_artifacts_are_read(old: Store) -> None:
    [run] = list_runs(old)
    assert run.last_step == "evaluate_base"
    assert [line["is_in_store"] for line in show_run(old, run.run_id)["steps"]] == [True] * 5
    assert old.ref("tiny-base").step == "pretrain"
    assert make_plan(old, Policy(keep_runs=1, keep_days=0, grace_s=0)).num_artifacts_kept == 5


def test_its_run_is_bundled_and_the_record_is_sound(old: Store, tmp_path: Path) -> None:
    [run_id] = old.runs()
    if run_id == OF_0_1:
        with pytest.raises(CorruptError, match=r"would be refused: .*metrics\.jsonl: line 1 field time_s: is missing"):
            make_bundle(old, [run_id], tmp_path / "record.zip")
        return
    make_bundle(old, [run_id], tmp_path / "record.zip")
    assert verify(tmp_path / "record.zip").problems == ()


def test_what_it_made_differs_in_what_may_be_accepted_alone(old: Store) -> None:
    [run_id] = old.runs()
    plan = plan_run(config_from_record(old.run(run_id)["config"]))
    for step in SETTINGS_OF_CONFIG:
        [artifact] = old.artifacts(step)
        settings = json.loads(json.dumps(STEPS[step].settings(plan)))
        now = {"step": step, "config": settings, "inputs": dict(artifact.inputs), "code": {}, "packages": {}}
        is_kept = (run_id, step) != (OF_0_1, "pretrain")  # its key had no head_dim, which is no later setting
        assert (why.drift(now, artifact, neutral=ONCE_ABSENT) is not None) == is_kept, step


def later(store: Store) -> None:
    """Somebody newer was here."""
    store.files.write(format.KEY, json.dumps({"format": format.FORMAT + 1}).encode())


@pytest.mark.parametrize("url", ["folder", "memory"])
def test_a_store_of_a_newer_release_is_refused_in_a_line(url: str, tmp_path: Path) -> None:
    url = str(tmp_path / "store") if url == "folder" else f"memory://{tmp_path.name}"
    later(Store.open(url, cache_folder=tmp_path / "cache"))
    with pytest.raises(ConfigError, match=r"was written by a newer release \(format 2, this one reads up to 1\)"):
        Store.open(url, cache_folder=tmp_path / "cache")


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "x"}', '{"format": true}', "{}"])
def test_a_number_that_is_none_is_refused_too(content: str) -> None:
    with pytest.raises(ConfigError, match=r"format\.json|newer release"):
        format.check(content.encode(), where="store")


def test_a_home_of_a_newer_release_is_refused_in_a_line(home: Path) -> None:
    home.mkdir(exist_ok=True)
    (home / format.KEY).write_text('{"format": 2}')
    workspace._open.cache_clear()
    with pytest.raises(ConfigError, match="home was written by a newer release"):
        workspace.current()


def test_a_manifest_of_a_newer_release_is_no_damage(old: Store, tmp_path: Path) -> None:
    [key] = old.files.keys("steps/pretrain")
    fields: dict[str, Any] = open_sealed_json(old.files.read(key) or b"", where=key)
    newer = seal_json({**fields, "format": FORMAT + 1})
    old.files.write(key, newer)
    target = Store.open(str(tmp_path / "target"), cache_folder=tmp_path / "cache")
    for uses in (
        old.artifacts,
        lambda: carry(old, target, everything(old)),
        lambda: old.find("pretrain", Path(key).stem),
    ):
        with pytest.raises(ConfigError, match=r"steps/pretrain/.* was written by a newer release"):
            uses()
    assert old.files.read(key) == newer
