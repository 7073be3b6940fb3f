"""How the store's listings grow with what is in it: python benchmarks/store_scale.py [--runs 300 1000] -> JSON.

A synthetic store of runs with ten steps each (three of them shared, as corpus, tokenizer and tokens are), small files.
Times are wall seconds of one call on a local folder; docs/scale.md takes them to 10,000 runs.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nanochat_core.base.fingerprint import identity_digest
from nanochat_core.store.reach import Policy, make_plan
from nanochat_core.store.store import Store

STEPS_SHARED, STEPS_OWN = 3, 7


def fill(store: Store, scratch: Path, num_runs: int) -> float:
    """Publish the artifacts of `num_runs` runs; returns seconds per publish."""
    started, published = time.perf_counter(), 0
    shared = [publish(store, scratch, f"shared{number}", "all") for number in range(STEPS_SHARED)]
    for run in range(num_runs):
        own = [publish(store, scratch, f"own{number}", f"run {run}") for number in range(STEPS_OWN)]
        published += STEPS_OWN
        lines = [{"step": step, "fingerprint": key} for step, key in [*shared, *own]]
        store.put_run(f"bench-20260101-{run:06d}-abcd", {"started_at": "2026-01-01T00:00:00+00:00", "steps": lines})
    return (time.perf_counter() - started) / (published + STEPS_SHARED)


def publish(store: Store, scratch: Path, step: str, what: str) -> tuple[str, str]:
    folder = scratch / "out"
    folder.mkdir(exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"step": step, "what": what}))
    identity: dict[str, Any] = {"step": step, "config": {"what": what}, "inputs": {}, "code": {}, "packages": {}}
    key = identity_digest(identity)
    store.publish(folder, **identity, fingerprint=key, metrics={}, provenance={})
    return step, key


def timed(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def measure(num_runs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as scratch:
        store = Store.open(f"{scratch}/store", cache_folder=Path(scratch) / "cache")
        return {
            "runs": num_runs,
            "publish_ms": 1e3 * fill(store, Path(scratch), num_runs),
            "find_ms": 1e3 * timed(lambda: store.find(*store_key(store))),
            "list_artifacts_s": timed(store.artifacts),
            "list_one_step_s": timed(lambda: store.artifacts("own0")),
            "list_runs_s": timed(store.runs),
            "gc_plan_s": timed(lambda: make_plan(store, Policy(keep_runs=50, keep_days=30))),
        }


def store_key(store: Store) -> tuple[str, str]:
    return "shared0", identity_digest(
        {"step": "shared0", "config": {"what": "all"}, "inputs": {}, "code": {}, "packages": {}}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, nargs="+", default=[300, 1000])
    print(json.dumps([measure(num_runs) for num_runs in parser.parse_args().runs], indent=1))


if __name__ == "__main__":
    main()
