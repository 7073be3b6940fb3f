"""What a Prefect server of ours does otherwise."""

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

TIMEOUT_S = 5  # of the database's lock
# A cursor in the garbage, whose connection waits for a lock in a thread, which only this one can free
WAITING = """
import gc, sqlite3, sys, threading, time
from flows import adapted
path, mended = sys.argv[1:]
if mended == "True":
    adapted.collect_garbage_elsewhere()
holder = sqlite3.connect(path, isolation_level=None)
holder.execute("PRAGMA journal_mode=WAL")
holder.execute("CREATE TABLE t AS SELECT 1 AS x UNION SELECT 2")
waits = sqlite3.connect(path, timeout=TIMEOUT_S, isolation_level=None, check_same_thread=False)
cursor = waits.execute("VALUES (1), (2)")
cursor.fetchone()
garbage = [cursor]
garbage.append(garbage)
holder.execute("BEGIN IMMEDIATE")
waiting = threading.Thread(target=waits.execute, args=("INSERT INTO t VALUES (3)",))
waiting.start()
time.sleep(1)
del cursor, garbage
began = time.monotonic()
for _ in range(100_000):
    cycle = []
    cycle.append(cycle)
time.sleep(2 * adapted.COLLECT_EVERY_S)
print(time.monotonic() - began)
holder.execute("COMMIT")
waiting.join()
print(*holder.execute("SELECT count(*) FROM t").fetchone())
""".replace("TIMEOUT_S", str(TIMEOUT_S))


@pytest.mark.parametrize("mended", [True, False])
def test_garbage_of_a_connection_that_waits_does_not_hold_up_the_loop(tmp_path: Path, *, mended: bool) -> None:
    command = [sys.executable, "-c", WAITING, tmp_path / "database", str(mended)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=mended)
    held_up_s, *rows = done.stdout.split()
    assert (float(held_up_s) < TIMEOUT_S / 2) is mended
    assert (rows == ["3"]) is mended, "the other connection's row was refused: the database is locked"
