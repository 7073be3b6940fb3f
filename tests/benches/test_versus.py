"""The bench beside nanochat: what it measures and how it puts it; and two parts against a real checkout of nanochat."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.versus import clock
from benchmarks.versus.harness import Failed, Measured, Row, Side, results, run_child, run_until, spread, table
from benchmarks.versus.machine import plain
from benchmarks.versus.material import sizes
from benchmarks.versus.parts import PARTS, SIZES, chosen

ROOT = Path(__file__).resolve().parents[2]
PEER = os.environ.get("NANOCHAT_PEER")
CHILD = """
import subprocess, sys, time
from benchmarks.versus.clock import run_part

def busy(given):
    yield
    for rounds in given["rounds"]:
        held = bytearray(given["mib"] << 20)
        for place in range(0, len(held), 4096):
            held[place] = 1
        work = "import time\\nwhile time.process_time() < %f: pass" % given["cpu_s"]
        subprocess.run([sys.executable, "-c", work], check=True)
        time.sleep(0.1)
        yield rounds
    yield {"near": {"answer": 42.0}}

def broken(given):
    yield
    raise ValueError("no such luck")

run_part(globals())
"""


def side(tmp_path: Path) -> Side:
    (tmp_path / "child.py").write_text(CHILD)
    return Side("ours", (sys.executable, str(tmp_path / "child.py")), ROOT, {"PYTHONPATH": str(ROOT)})


def given(tmp_path: Path, **values: object) -> Path:
    (tmp_path / "given.json").write_text(json.dumps(values))
    return tmp_path / "given.json"


def test_a_child_is_measured_with_all_its_processes(tmp_path: Path) -> None:
    found = run_child(side(tmp_path), "busy", given(tmp_path, rounds=[2], mib=200, cpu_s=0.5))
    assert 0.5 <= found.cpu_s < 3  # the work of a process below it, which has ended
    assert found.wall_s >= 0.6
    assert 200 < found.memory_mib < 400
    assert (found.count, found.result["near"]) == (2, {"answer": 42.0})


def test_of_several_rounds_the_fastest_counts(tmp_path: Path) -> None:
    found = run_child(side(tmp_path), "busy", given(tmp_path, rounds=[1, 1000, 1], mib=1, cpu_s=0.05))
    assert found.count == 1000


def test_a_child_that_fails_is_told_with_what_it_said(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no such luck"):
        run_child(side(tmp_path), "broken", given(tmp_path))


def test_a_command_is_measured_up_to_what_it_was_run_for_and_then_killed_whole(tmp_path: Path) -> None:
    sleeper = "import time; open({!r}, 'w').write('up'); time.sleep(60)".format(str(tmp_path / "up"))
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {sleeper!r}])"
    began = time.monotonic()
    command = [sys.executable, "-c", code]
    found = run_until(side(tmp_path), command, lambda said: (tmp_path / "up").exists(), tmp_path / "log")
    assert found.wall_s < 30
    assert time.monotonic() - began < 40
    left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(tmp_path / "up") not in left
    with pytest.raises(Failed, match="came to no step"):
        run_until(side(tmp_path), [sys.executable, "-c", "print('never')"], lambda said: False, tmp_path / "log")


def pair(ours: float, theirs: float, count: float = 1.0) -> tuple[Measured, Measured]:
    """Seconds of both; nanochat does `count` times the work."""
    return Measured(ours, 2 * ours, 100.0), Measured(theirs, theirs, 300.0, count)


def test_ratios_are_of_neighbours_and_per_unit_of_work() -> None:
    row = Row("rl", "token", "", [pair(1.0, 2.0), pair(2.0, 3.0), pair(1.0, 9.0, count=3)])
    assert row.ratios("wall_s") == [2.0, 1.5, 3.0]
    assert row.ratios("cpu_s") == [1.0, 0.75, 1.5]
    assert row.ratios("memory_mib") == [3.0, 3.0, 3.0]
    assert spread(row.ratios("wall_s")) == "2.00 (1.50-3.00)"
    assert spread([2.0]) == "2.00"


def test_the_table_shows_medians_results_and_what_was_not_run() -> None:
    rows = [Row("bits per byte", "", "other types", [pair(1.0, 3.0), pair(2.0, 4.0), pair(1.5, 3.0)]),
            Row("one stream", "token", "", [pair(0.002, 0.004)]), Row("core", "", "", problem="no data")]  # fmt: skip
    head, _, *lines = table(rows).splitlines()
    assert all(line.count("|") == head.count("|") for line in lines)
    assert "1.50 s, 3.00 s | 2.00 (2.00-3.00) |" in lines[0]
    assert "other types" in lines[0]
    assert "2.00 ms/token, 4.00 ms/token" in lines[1]
    assert "not run: no data" in lines[2]


def test_results_say_what_is_equal_and_what_is_not() -> None:
    ours = {"same": {"merges": "a"}, "near": {"bpb": 2.0}, "each": {"answers": [1, 2, 3]}, "told": {"tokens": 7}}
    theirs = {"same": {"merges": "a"}, "near": {"bpb": 2.0001}, "each": {"answers": [1, 5, 3]}, "told": {"tokens": 8}}
    assert (
        results(ours, theirs) == "merges equal, bpb 2 and 2.0001 (5.0e-05 apart), 2 of 3 answers equal, tokens 7 and 8"
    )
    drawn = {"any order": {"answers": [[1], [2], [2]]}}, {"any order": {"answers": [[2], [1], [3]]}}
    assert results(*drawn) == "2 of 3 answers equal"
    theirs["same"], theirs["near"] = {"merges": "b"}, {"bpb": 2.0}
    assert "merges DIFFER, bpb 2 and 2, 2 of 3" in results(ours, theirs)


def test_parts_are_chosen_by_name_in_the_order_of_the_table() -> None:
    assert chosen([]) == list(PARTS)
    assert chosen(["core", "vocabulary"]) == ["vocabulary", "core"]
    with pytest.raises(Failed, match=r"'cor'.*one-stream"):
        chosen(["cor"])
    known = (
        {name: each[0] for name, each in SIZES.items()}
        | sizes(4)
        | {"train_mb": 1.0, "num_core": 21, "choices_of": "sums", "problems_of": "sums"}
    )
    assert all("{" not in stage.title.format_map(known) for stage in PARTS.values())
    assert plain("2.13.0+cpu") == "2.13.0"


def test_both_sides_have_every_part() -> None:
    from benchmarks.versus import ours

    theirs = (ROOT / "benchmarks/versus/peer.py").read_text()
    for name in map(clock.function_name, PARTS):
        if not name.startswith("first_step"):
            assert callable(getattr(ours, name))
            assert f"def {name}(" in theirs or f"{name} = " in theirs


def test_a_digest_is_of_the_ids_and_of_where_the_documents_end() -> None:
    assert clock.digest([[1, 2], [3]]) == clock.digest([(1, 2), bytes([3])])
    assert len({clock.digest(rows) for rows in ([[1, 2], [3]], [[1], [2, 3]], [[12], [3]])}) == 3


@pytest.mark.slow
@pytest.mark.skipif(not PEER, reason="NANOCHAT_PEER names no checkout of nanochat")
def test_two_parts_against_nanochat_itself(tmp_path: Path) -> None:
    python = ["--peer-python", os.environ["NANOCHAT_PEER_PYTHON"]] if "NANOCHAT_PEER_PYTHON" in os.environ else []
    command = [sys.executable, "-m", "benchmarks.versus", "--peer", str(PEER), *python, "--folder", str(tmp_path)]
    options = ["--data", str(tmp_path / "none"), "--quick", "--threads", "1", "--depth", "2"]
    done = subprocess.run([*command, *options, "vocabulary", "one-stream"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line for line in done.stdout.splitlines() if line.startswith(("| vocabulary", "| one stream"))]
    assert "merges equal" in rows[0]
    assert "32 of 32 greedy tokens equal" in rows[1]
