"""Which GPUs a process sees, and that no two runs compute on one: real processes on a machine that says it has some."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from gpu_machine import A100, H100, machine_with

from nanochat_core.base import gpu_slots
from nanochat_core.base.errors import HardwareError
from nanochat_core.base.gpus import visible

RUN = """
import sys
from nanochat_core.base import gpu_slots
def say(text):
    print(text, flush=True)
with gpu_slots.taken(int(sys.argv[2]), owner=sys.argv[1], on_wait=lambda text: None, note=say):
    say("has " + gpu_slots.current().environment["CUDA_VISIBLE_DEVICES"])
    sys.stdin.readline()
"""
DRIVER = """
import sys
from pathlib import Path
from nanochat_core.base import gpu_slots
from nanochat_core.base.child import run_child
nothing = lambda text: None
with gpu_slots.taken(1, owner="first", on_wait=nothing, note=nothing):
    run_child([sys.executable, "-c", sys.argv[2]], Path(sys.argv[1]), on_record=nothing, environment={})
"""
RANK = """
import os, signal, time
from pathlib import Path
def save(*_):
    Path("saving").touch()
    time.sleep(3)
    raise SystemExit
signal.signal(signal.SIGTERM, save)
Path("rank").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        (None, ["GPU 0", "GPU 1 MIG 0", "GPU 1 MIG 1", "GPU 2"]),
        ("2,0", ["GPU 2", "GPU 0"]),
        (" 0 ", ["GPU 0"]),
        ("1", ["GPU 1 MIG 0"]),  # CUDA takes the first instance of a GPU that is cut
        (f"{A100.format(2)},{H100.format(4)}", ["GPU 2", "GPU 1 MIG 1"]),
        (A100.format(2)[:-1] + "2", ["GPU 2"]),
        ("0,-1,2", ["GPU 0"]),
        ("0,nonsense,2", ["GPU 0"]),
        ("7", []),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
    ],
)
def test_what_cuda_visible_devices_names_is_seen(
    given: str | None, seen: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", machine_with(tmp_path, 3, instances=(0, 2))["PATH"])
    environment = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    found = visible(environment)
    assert [gpu.name for gpu in found] == seen
    if given is not None:  # children are told what was given, cut to their share
        assert [gpu.variable for gpu in found] == [word.strip() for word in given.split(",")][: len(found)]


def test_without_nvidia_smi_the_devices_of_the_kernel_count_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible({}, tmp_path) == []
    (tmp_path / "nvidia0").touch()
    (tmp_path / "nvidia1").touch()
    [one] = visible({}, tmp_path)
    assert one.variable is None
    assert visible({"ROCR_VISIBLE_DEVICES": ""}, tmp_path) == []


def test_where_there_is_no_gpu_nobody_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in machine_with(tmp_path, 0).items():
        monkeypatch.setenv(name, value)
    with gpu_slots.taken(8, owner="one", on_wait=print, note=print):
        assert gpu_slots.current() == gpu_slots.Slots()
    assert not (tmp_path / "slots").exists()


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in machine_with(tmp_path, 2).items():
        monkeypatch.setenv(name, value)
    refused = pytest.raises(HardwareError, match="3 processes want a GPU each, and this machine shows 2")
    with refused, gpu_slots.taken(3, owner="one", on_wait=print, note=print):
        pass


class Machine:
    """With two GPUs, and runs that take some until they are told to end."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.environment = folder, {**os.environ, **machine_with(folder, 2)}
        self.runs: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, num: int = 1, *, user: str | None = None, **variables: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.runs[name] = subprocess.Popen(
                [sys.executable, "-c", RUN, name, str(num)], cwd=ROOT, env={**self.environment, **variables},
                stdin=subprocess.PIPE, stdout=log, stderr=log, user=user,
            )  # fmt: skip

    def said(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def until(self, is_so: Callable[[], bool], timeout_s: float = 30) -> float:
        began = time.monotonic()
        while not is_so():
            assert time.monotonic() - began < timeout_s, {name: self.said(name) for name in self.runs}
            time.sleep(0.05)
        return time.monotonic() - began

    def until_it_has(self, name: str, *numbers: int) -> float:
        return self.until(lambda: f"has {','.join(A100.format(number) for number in numbers)}\n" in self.said(name))

    def end(self, name: str) -> None:
        run = self.runs.pop(name)
        run.communicate(b"\n", timeout=30)
        assert run.returncode == 0


@pytest.fixture
def machine() -> Iterator[Machine]:
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to other users
        Path(folder).chmod(0o777)
        machine = Machine(Path(folder))
        yield machine
        for run in machine.runs.values():
            run.kill()
            run.wait()


def test_two_get_one_each_and_a_third_says_who_has_them_until_one_is_killed(machine: Machine) -> None:
    machine.start("first")
    machine.until_it_has("first", 0)
    machine.start("second")
    machine.until_it_has("second", 1)
    machine.start("third")
    machine.until(lambda: "waits" in machine.said("third"))
    [line] = machine.said("third").splitlines()
    assert line.startswith("waits for 1 of 2 GPUs: GPU 0 has first since ")
    assert ", GPU 1 has second since " in line
    machine.runs.pop("second").kill()
    assert machine.until_it_has("third", 1) < 10
    machine.end("first")
    machine.start("fourth")
    machine.until_it_has("fourth", 0)


def test_who_wants_all_of_them_is_not_overtaken(machine: Machine) -> None:
    machine.start("first")
    machine.until_it_has("first", 0)
    machine.start("both", 2)
    machine.until(lambda: "waits for 2 of 2" in machine.said("both"))
    machine.start("third")
    machine.until(lambda: "; before it both since " in machine.said("third"))
    assert "waits for 2" in machine.said("third")
    time.sleep(3 * gpu_slots.POLL_S)
    assert "\nhas " not in machine.said("third"), "GPU 1 is free, and spoken for"
    machine.end("first")
    machine.until_it_has("both", 0, 1)
    machine.end("both")
    machine.until_it_has("third", 0)


def test_who_waits_for_other_gpus_is_not_in_the_way(machine: Machine) -> None:
    machine.start("first", CUDA_VISIBLE_DEVICES="1")
    machine.until(lambda: "has 1\n" in machine.said("first"))
    machine.start("second", CUDA_VISIBLE_DEVICES=A100.format(1))
    machine.until(lambda: "waits for 1 of 1 GPUs: GPU 1 has first" in machine.said("second"))
    machine.start("third", CUDA_VISIBLE_DEVICES="0")
    machine.until(lambda: "has 0\n" in machine.said("third"))
    machine.runs.pop("second").kill()  # the place in the queue goes with it
    machine.end("first")
    machine.start("fourth", 1)
    machine.until_it_has("fourth", 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may start a process of another user")
@pytest.mark.usefixtures("other_users")
def test_another_user_takes_another_gpu(machine: Machine) -> None:
    machine.start("theirs", user="nobody", HOME="/", PYTHONDONTWRITEBYTECODE="1")
    machine.until_it_has("theirs", 0)
    machine.start("ours")
    machine.until_it_has("ours", 1)
    machine.start("again", user="nobody", HOME="/", PYTHONDONTWRITEBYTECODE="1")
    machine.until(lambda: "GPU 1 has ours since" in machine.said("again"))
    machine.end("ours")
    machine.until_it_has("again", 1)


def test_a_gpu_is_in_use_until_the_ranks_of_a_killed_driver_have_saved(machine: Machine) -> None:
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(machine.folder), RANK], cwd=machine.folder,
        env={**machine.environment, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "0"},
    )  # fmt: skip
    machine.until(lambda: (machine.folder / "rank").is_file())
    assert (machine.folder / "rank").read_text() == "0"
    machine.start("second", CUDA_VISIBLE_DEVICES="0")
    machine.until(lambda: "GPU 0 has first since" in machine.said("second"))
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    machine.until(lambda: (machine.folder / "saving").is_file())
    time.sleep(2)
    assert "has 0\n" not in machine.said("second")
    machine.until(lambda: "has 0\n" in machine.said("second"), timeout_s=10)
