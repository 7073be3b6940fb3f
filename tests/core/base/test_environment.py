"""What launchers, schedulers and shells leave behind reaches none of our processes, and what may be missed is told."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from nanochat_core.base.child import run_child
from nanochat_core.base.environment import cleaned, for_child, loopback, search_path
from nanochat_core.base.torchrun import STORE, torchrun

HERE = next(name for _, name in socket.if_nameindex())
FOREIGN = {
    "RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "10.255.255.1", "MASTER_PORT": "1",
    "GROUP_RANK": "1", "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True", "PET_NNODES": "2:4",
    "PET_RDZV_ENDPOINT": "nowhere:1", "PET_STANDALONE": "1", "SLURM_PROCID": "3", "SLURM_NTASKS": "8",
    "OMPI_COMM_WORLD_RANK": "3", "PMI_RANK": "3", "PMIX_RANK": "3", "NCCL_COMM_ID": "10.255.255.1:1",
    "NCCL_SOCKET_IFNAME": "ib9", "GLOO_SOCKET_IFNAME": "ib9", "TORCH_NCCL_TRACE_BUFFER_SIZE": "x",
    "TORCH_LOGS": "garbage", "TORCH_DISTRIBUTED_DEBUG": "yes", "TORCH_COMPILE_DEBUG": "x",
    "TORCHINDUCTOR_CACHE_DIR": "/proc/x", "TORCHINDUCTOR_COMPILE_THREADS": "x", "OMP_NUM_THREADS": "0",
    "MKL_NUM_THREADS": "many", "PYTORCH_CUDA_ALLOC_CONF": "garbage", "PYTORCH_JIT": "x", "PYTHONWARNINGS": "error",
    "PYTHONOPTIMIZE": "2", "PYTHONSTARTUP": "/nowhere.py", "PYTHONHOME": "/nowhere", "PYTHONINSPECT": "1",
    "PYTHONHASHSEED": "x", "PYTHONMALLOC": "x", "PYTHON_GIL": "0",
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_somebody_elses_is_not_passed_on(name: str) -> None:
    kept, _ = cleaned({name: FOREIGN[name], "OTHER": "1"})
    assert kept == {"OTHER": "1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GLOO_SOCKET_IFNAME", HERE), ("NCCL_SOCKET_IFNAME", HERE), ("NCCL_SOCKET_IFNAME", f"={HERE}"),
        ("NCCL_SOCKET_IFNAME", f"ib,{HERE[:2]}"), ("NCCL_SOCKET_IFNAME", "^docker0"), ("NCCL_IB_HCA", "mlx5"),
        ("NCCL_DEBUG", "INFO"), ("OMP_NUM_THREADS", "4"), ("CUDA_VISIBLE_DEVICES", ""), ("TORCH_HOME", "/x"),
        ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True,roundup_power2_divisions:[256:1,512:2]"),
        ("NANOCHAT_NODE_RANK", "1"), ("NANOCHAT_RENDEZVOUS", "first:29500"), ("PYTHONDONTWRITEBYTECODE", "1"),
    ],
)  # fmt: skip
def test_what_was_set_on_purpose_is_passed_on(name: str, value: str) -> None:
    assert cleaned({name: value}) == ({name: value}, [])


@pytest.mark.parametrize("name", ["GLOO_SOCKET_IFNAME", "TORCH_LOGS", "OMP_NUM_THREADS"])
def test_a_setting_that_is_left_out_is_told_and_can_be_kept(name: str) -> None:
    _, [line] = cleaned({name: FOREIGN[name]})
    assert line.startswith(f"{name}={FOREIGN[name]} ")
    kept, told = cleaned({name: FOREIGN[name], "NANOCHAT_KEEP_ENVIRONMENT": f"X,{name}"})
    assert kept[name] == FOREIGN[name]
    assert told == []


def test_modules_of_the_library_and_of_ours_come_before_anybodys() -> None:
    path = search_path(["", "/theirs"])
    assert path[-1] == "/theirs"
    assert "" not in path
    assert path.index(str(ROOT)) > path.index(os.path.dirname(os.__file__))


def foreign_modules(folder: Path) -> Path:
    """Files named like the library's modules and ours; whoever imports one ends."""
    folder.mkdir()
    for name in ("random", "types", "logging", "json", "enum", "re", "torch", "numpy", "prefect", "typer", "queue"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('somebody else has run {name}.py')")
    for name in ("tasks", "flows", "nanochat_core"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(f"raise SystemExit('somebody else has run {name}')")
    return folder


def test_a_child_imports_no_module_of_the_folder_it_stands_in_nor_of_pythonpath(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = foreign_modules(tmp_path / "project")
    (folder / "mine.py").write_text("WORD = 'theirs is still found'")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    body = (
        "import random, types, queue, tasks.pulse, flows.parameters, mine, multiprocessing as m, sys\n"
        "from pathlib import Path\nfrom nanochat_core.base.records import write_result\n"
        "if __name__ == '__main__':\n"
        "  p = m.get_context('spawn').Process(target=print); p.start(); p.join()\n"
        "  write_result(Path(sys.argv[1]), {'status': 'completed', 'word': mine.WORD, 'code': p.exitcode})"
    )
    (tmp_path / "work").mkdir()
    command = [sys.executable, "-c", body, str(tmp_path / "work")]
    result = run_child(command, tmp_path / "work", on_record=lambda record: None, environment={})
    assert (result["word"], result["code"]) == ("theirs is still found", 0)


@pytest.fixture(scope="module")
def program() -> Path:
    return Path(sys.executable).with_name("nanochat")


@pytest.mark.parametrize("names", ["PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS PYTHONOPTIMIZE PYTHONHASHSEED"])
def test_the_command_starts_whatever_the_environment_says_to_python(
    program: Path, names: str, tmp_path: Path, home: Path
) -> None:
    folder = foreign_modules(tmp_path / "project")
    given = {name: FOREIGN.get(name, str(folder)) for name in names.split()}
    command = [str(program), "plan", "tiny", "--json"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **given}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"]


def test_a_sitecustomize_on_pythonpath_still_runs(program: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys\nprint('traced', file=sys.stderr)")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([program, "--help"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stderr == "traced\n"


RANKS = """
import os, sys
from pathlib import Path
import torch, torch.distributed as dist
from nanochat_core.base import distributed
from nanochat_core.base.records import write_result
world = distributed.world_from_environment()
distributed.start(world, torch.device("cpu"))
size = torch.ones(1)
if world.size > 1:
    dist.all_reduce(size)
if world.is_main:
    write_result(Path(sys.argv[1]), {"status": "completed", "size": int(size.item())})
distributed.stop()  # as the worker does: a process that ends with gloo's threads alive may abort
"""


@pytest.mark.slow
@pytest.mark.parametrize("num_processes", [1, 2])
def test_ranks_find_each_other_whatever_a_launcher_left_behind(
    num_processes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "ranks_of_a_test.py").write_text(RANKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    command = [sys.executable, "-m", "ranks_of_a_test", str(tmp_path)]
    if num_processes > 1:
        command = torchrun("ranks_of_a_test", str(tmp_path), num_processes=num_processes)
    result = run_child(command, tmp_path, on_record=lambda record: None, environment=loopback())
    assert result["size"] == num_processes


def test_ranks_of_one_machine_meet_without_any_name() -> None:
    assert "localhost" not in " ".join(torchrun("x", num_processes=2))
    assert set(loopback().values()) <= {"lo"}
    assert for_child({"RANK": "1"})["PYTHONSAFEPATH"] == "1"
    assert STORE not in for_child({STORE: "/proc/1/fd/3"}), "ranks of somebody else's training"
