"""Made-up runs in a store, and a sound bundle of two of them to spoil."""

from pathlib import Path

import pytest
from core.record.synthetic import Runs, core_files, plan_with, step_records

from nanochat_core.record.bundle import make_bundle
from nanochat_core.store.store import Store


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """An empty store to publish in."""
    return Runs(Store.open(str(tmp_path / "store"), cache_folder=tmp_path / "cache"), tmp_path / "scratch")


@pytest.fixture(scope="module")
def sound_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds with CORE; the second was resumed once."""
    folder = tmp_path_factory.mktemp("bundle")
    made = Runs(Store.open(str(folder / "store"), cache_folder=folder / "cache"), folder / "scratch")
    ids = []
    for seed, starts in ((42, (0,)), (43, (0, 17))):
        plan = plan_with(f"seed={seed}", "core.source=url", "core.max_per_benchmark=40")
        records = step_records(
            plan, starts=starts, step_ms=lambda step, seed=seed: 100.0 + (step + seed) % 7,
            bits=lambda step, seed=seed: 2.0 + 1.0 / (1 + step) + 1e-4 * (seed - 42),
        )  # fmt: skip
        ids.append(made.add(plan, records, core=core_files(0.3, seed=seed)))
    make_bundle(made.store, ids, folder / "bundle", description="two seeds", target_bits_per_byte=2.1)
    return folder / "bundle"
