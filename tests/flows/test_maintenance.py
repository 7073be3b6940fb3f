"""The maintenance flow collects, and leaves a page that says what it did."""

import json
import os
import subprocess
import sys
from pathlib import Path

import first_home
import pytest
from conftest import ROOT

from flows.maintenance import ROWS_SHOWN, markdown
from nanochat_core.store import Store
from nanochat_core.store.gc import Report
from nanochat_core.store.reach import Item

NOTHING = {"inputs": {}, "config": {}, "code": {}, "packages": {}, "metrics": {}, "provenance": {}}
RUN = """
import json, sys, urllib.request
from flows.server import prefect_server
with prefect_server() as server:
    server.wait_until_ready()
    from prefect.logging.handlers import APILogWorker
    from flows.maintenance import maintenance
    told = [maintenance(dry_run=dry_run, keep_runs=0, keep_days=0) for dry_run in (True, False)]
    APILogWorker.drain_all(timeout=5)  # while there is a server to take the last lines
    from nanochat_core.cli.prefect_api import authorization
    headers = {"Content-Type": "application/json", **authorization(server.auth, None)}
    request = urllib.request.Request(f"{server.url}/artifacts/filter", b'{"sort": "CREATED_DESC"}', headers)
    pages = json.load(urllib.request.urlopen(request, timeout=10))
    print(json.dumps({"told": told, "pages": [[page["key"], page["data"]] for page in pages]}))
"""


def item(number: int) -> Item:
    return Item(kind="blob", key=f"blobs/{number}", num_bytes=1 << 20, why="no manifest names it")


def test_the_page_has_sums_and_no_more_rows_than_people_read():
    items = tuple(item(number) for number in range(ROWS_SHOWN + 5))
    page = markdown(Report(is_dry_run=True, items=items, num_artifacts_kept=3, num_blobs_kept=9), "/store")
    assert "| blob | 205 | 205.0 MiB |" in page
    assert "would be deleted" in page
    assert "... and 5 more" in page
    assert page.count("`blobs/") == ROWS_SHOWN
    assert "|" not in markdown(Report(is_dry_run=False, items=(), num_artifacts_kept=0, num_blobs_kept=0), "/store")


@pytest.mark.slow
def test_the_flow_deletes_what_its_dry_run_named(home, tmp_path):
    store = Store.open(str(home / "store"), cache_folder=home / "cache")
    for name in ("kept", "lost"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "own").write_text(name)
        store.publish(tmp_path / name, step="sft", fingerprint=name, **NOTHING)
    store.set_ref("model", "1", store.find("sft", "kept"))
    for path in Path(home, "store").rglob("*"):
        os.utime(path, (1e9, 1e9))
    first_home.seed(home)
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    dry, real = said["told"]
    assert dry == real | {"is_dry_run": True}
    assert real["num_bytes"] > 0
    assert [artifact.fingerprint for artifact in store.artifacts()] == ["kept"]
    keys, pages = zip(*said["pages"], strict=True)
    assert keys == ("maintenance-report", "maintenance-report")
    assert all("steps/sft/lost.json" in page and "kept.json" not in page for page in pages)
