"""The lane that tries the newest packages: past our limits, and a failure is told by its test."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import newest
from conftest import ROOT


def test_every_package_is_taken_without_an_upper_limit() -> None:
    named = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    wanted = newest.unlimited()
    assert [re.match(r"[\w.-]+(\[.*\])?", one)[0] for one in wanted] == [
        re.match(r"[\w.-]+(\[.*\])?", one)[0] for one in named
    ]
    limits = [one.partition(";")[0] for one in wanted]  # what follows says on which machines
    assert not any(sign in one for one in limits for sign in ("<", "==", "!"))


def test_what_fails_is_named_and_what_passes_counted(tmp_path: Path) -> None:
    (tmp_path / "test_good.py").write_text("def test_one(): pass\ndef test_two(): pass\n")
    (tmp_path / "test_bad.py").write_text("def test_three(): assert False\n")
    says, failed = newest.tried(Path(sys.prefix), str(tmp_path))
    assert says == "1 failed, 2 passed"
    assert [name.rpartition("/")[2] for name in failed] == ["test_bad.py::test_three"]


def test_the_week_s_lane_is_a_target_of_make() -> None:
    [targets] = re.findall(r"^for target in ([a-z ]+); do", (ROOT / ".ci/weekly").read_text(), re.MULTILINE)
    command = ["make", "-n", *targets.split(), "RUNS=200"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "tests/newest.py" in said
    assert "tests/faults/soak.py --runs 200" in said
