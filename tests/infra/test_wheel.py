"""A wheel works outside of a clone: a run in an empty folder, and deployments that find the code."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import MICRO, ROOT

PARTS = ("flows", "tasks", "nanochat_core", "bin", "deployments")
FILES = ("pyproject.toml", "prefect.yaml", "README.md", "LICENSE")
DEPLOYMENTS = """
import json
from pathlib import Path
from flows.deploy import ROOT, described, read, read_deployments, wanted_fields
from flows.seaweedfs import LOCK
found = []
for spec in read_deployments(ROOT):
    fields = wanted_fields(spec, ROOT)
    [step] = [step["prefect.deployments.steps.set_working_directory"] for step in fields["pull_steps"]]
    found.append(str(Path(step["directory"]) / fields["entrypoint"].partition(":")[0]))
pools = read(described(ROOT) / "deployments/pools.yaml"), read(described(ROOT) / "deployments/automations.yaml")
print(json.dumps([found, all(pools), LOCK.is_file()]))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of a wheel, which was built from the files that git knows; the packages are those of ours."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in PARTS:
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    pip, venv = [sys.executable, "-m", "pip", "--quiet"], folder / "venv"
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", folder, source],
        check=True,
        timeout=300,
    )
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    [site] = venv.glob("lib/*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_path("purelib"))
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "--python", venv / "bin/python", "install", "--no-deps", "--no-index", wheel], check=True)
    return venv


def ran(installed: Path, folder: Path, *command: str | Path) -> str:
    """What a command of the environment prints in an empty folder with a home of its own."""
    (folder / "empty").mkdir()
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("NANOCHAT_", "PREFECT_", "PYTHON"))
    }
    done = subprocess.run(
        command, cwd=folder / "empty", env={**kept, "HOME": str(folder)}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert list((folder / "empty").iterdir()) == []
    return done.stdout


@pytest.mark.slow
def test_a_wheel_runs_in_an_empty_folder(installed: Path, tmp_path: Path, small_corpus: Path) -> None:
    sets = [*MICRO, "corpus.source=path", f"corpus.path={small_corpus}"]
    arguments = [
        "run",
        "tiny",
        "--until",
        "tokenizer",
        "--no-prefect",
        *(part for each in sets for part in ("--set", each)),
    ]
    assert ": 2 made, 0 cached" in ran(installed, tmp_path, installed / "bin/nanochat", *arguments)
    [manifest] = (tmp_path / ".nanochat/store/steps/tokenizer").iterdir()
    assert json.loads(manifest.read_text())["provenance"]["git_commit"] is None


@pytest.mark.slow
def test_deployments_of_a_wheel_find_the_code(installed: Path, tmp_path: Path) -> None:
    [site] = installed.glob("lib/*/site-packages")
    files, has_pools, has_lock = json.loads(ran(installed, tmp_path, installed / "bin/python", "-P", "-c", DEPLOYMENTS))
    assert has_pools
    assert has_lock
    assert len(files) == 6
    assert [file for file in files if not (Path(file).is_file() and Path(file).is_relative_to(site))] == []
