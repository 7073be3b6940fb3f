"""A copy of a store that is killed with -9 in the middle, twice each way: whole in the end, and nothing went twice."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.finish import finish_run
from nanochat_core.pipeline.table import previews
from nanochat_core.plan import RunPlan
from nanochat_core.store.store import Store

pytestmark = [pytest.mark.torture, pytest.mark.slow]
NUM_BULKY, FILES_OF_ONE, FILE_BYTES = 12, 4, 4 << 20
LAST = "conversations"


@pytest.mark.timeout(1800)
def test_a_copy_that_is_killed_is_whole_in_the_end_and_plan_says_cached(
    prepared_home: Path, micro_plan: RunPlan, s3_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = workspace.current().store
    finish_run(micro_plan, run_until(make, micro_plan, LAST), started_at=0.0)
    _fill(source, tmp_path)
    begun = time.monotonic()
    subprocess.run(["cp", "-a", source.url, str(tmp_path / "cp")], check=True)
    rows = [("cp -a", 0, time.monotonic() - begun)]
    home = str(tmp_path / "home-again")
    for start, end in ((source.url, s3_url), (s3_url, home)):
        num_killed = sum(_killed(start, end, after=4) for _ in range(2))
        target = Store.open(end, cache_folder=tmp_path / "cache")
        assert num_killed == 2
        assert not target.runs(), "names and runs come last"
        there = {artifact.fingerprint for artifact in target.artifacts()}
        assert all(target.verify(artifact) == [] for artifact in target.artifacts())
        told = _copied(start, end)
        assert len(told["was_there"]) == len(there) >= 8
        assert len(told["went"]) + len(there) == len(source.artifacts())
        assert told["num_files"] < len(source.files.keys("blobs")), "half of an artifact is not lost either"
        assert _keys(target) == _keys(source)
        assert all(target.verify(artifact) == [] for artifact in target.artifacts())
        assert _copied(start, end)["num_files"] == 0
    monkeypatch.setenv("NANOCHAT_STORE", home)
    assert {seen.state for seen in previews(micro_plan, LAST).values()} == {"cached"}
    for start, end in ((source.url, str(tmp_path / "there")), (source.url, f"{s3_url}/b"), (f"{s3_url}/b", home)):
        shutil.rmtree(home, ignore_errors=True)
        told = _copied(start, end)
        rows.append(
            (
                " -> ".join("bucket" if "://" in url else "folder" for url in (start, end)),
                told["num_bytes"],
                told["seconds"],
            )
        )
    num_bytes = rows[1][1]
    print()
    for name, _, seconds in rows:
        print(f"| {name} | {num_bytes / 1e6:.0f} MB | {seconds:.1f} s | {num_bytes / 1e6 / seconds:.0f} MB/s |")


def _fill(store: Store, tmp_path: Path) -> None:
    for number in range(NUM_BULKY):
        out = tmp_path / f"bulky-{number}"
        out.mkdir()
        for name in range(FILES_OF_ONE):
            (out / f"{name}.bin").write_bytes(os.urandom(FILE_BYTES))
        nothing: dict[str, dict[str, str]] = {"config": {}, "inputs": {}, "code": {}, "packages": {}, "provenance": {}}
        store.publish(out, step="tokens", fingerprint=f"bulky-{number}", metrics={}, **nothing)
        shutil.rmtree(out)


def _command(start: str, end: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "store", "copy", "--all", "--store", start, "--to", end, "--json"]


def _killed(start: str, end: str, *, after: int) -> bool:
    """Kill the copy when so many artifacts went, and a part of the next one maybe."""
    process = subprocess.Popen(
        _command(start, end), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        after -= line.rstrip().endswith("  went")
        if after == 0:
            time.sleep(0.05)
            process.kill()
    return process.wait() == -9


def _copied(start: str, end: str) -> dict[str, object] | dict[str, int]:
    done = subprocess.run(_command(start, end), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _keys(store: Store) -> set[str]:
    return {key for prefix in ("blobs", "steps", "refs", "pins", "runs") for key in store.files.keys(prefix)}
