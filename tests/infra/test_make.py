"""`make` finds a Python that is new enough, and a clone that was moved or copied works where it is now."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

MAKE = shutil.which("make")
pytestmark = pytest.mark.skipif(MAKE is None, reason="make is not installed")


def make(clone: Path, *words: str, path: str | None = None) -> "subprocess.CompletedProcess[str]":
    variables = {**os.environ, "PATH": path or os.environ["PATH"]}
    for name in ("PYTHON", "MAKEFLAGS", "MAKELEVEL"):
        variables.pop(name, None)
    return subprocess.run(
        [MAKE or "make", *words], cwd=clone, env=variables, capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The project's Makefile and a set-up environment whose `nanochat` says where it is."""
    folder = tmp_path / "first"
    (folder / "infra").mkdir(parents=True)
    shutil.copy(ROOT / "Makefile", folder)
    shutil.copy(ROOT / "infra/moved.py", folder / "infra")
    shutil.copy(ROOT / "nanochat", folder)
    for name in ("requirements.lock", "pyproject.toml"):
        (folder / name).touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / ".venv"], check=True)
    script = folder / ".venv/bin/nanochat"
    script.write_text(f"#!{folder}/.venv/bin/python\nimport sys, project\nprint(sys.prefix, project.__file__)\n")
    script.chmod(0o755)
    (folder / "project.py").touch()
    (site,) = folder.glob(".venv/lib/*/site-packages")
    (site / "__editable__.project.pth").write_text(f"{folder}\n")
    (folder / ".venv/.runtime").write_text(f"{folder}\n")
    assert make(folder, "speedrun").stdout == said(folder)
    return folder


def said(clone: Path) -> str:
    return f"{clone}/.venv {clone}/project.py\n"


def test_a_clone_that_was_moved_works_where_it_is_now(clone: Path, tmp_path: Path) -> None:
    moved = clone.rename(tmp_path / "second")
    done = make(moved, "speedrun")
    assert done.stdout == f"this clone was in {clone}: its .venv is mended for {moved}\n{said(moved)}", done.stderr
    assert make(moved, "speedrun").stdout == said(moved)


def test_a_copy_runs_its_own_code_and_leaves_the_first_alone(clone: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(clone, tmp_path / "copy", copy_function=os.link, symlinks=True))
    assert make(copy, "speedrun").stdout.endswith(said(copy))
    assert make(clone, "speedrun").stdout == said(clone)


@pytest.mark.parametrize("name", ["a folder", "long" * 40])
def test_an_environment_that_cannot_lie_where_it_is_now_is_made_anew(clone: Path, tmp_path: Path, name: str) -> None:
    moved = clone.rename(tmp_path / name)
    told = make(moved, "-n", "speedrun").stdout
    assert not (moved / ".venv").exists()
    assert "-m venv .venv" in told


def test_nanochat_at_the_root_needs_no_activation_and_says_so_when_nothing_is_installed(clone: Path) -> None:
    link = clone.with_name("link")
    link.symlink_to(clone / "nanochat")
    for command in ("first/nanochat", "./link"):
        done = subprocess.run([command], cwd=clone.parent, capture_output=True, text=True, timeout=60)
        assert done.stdout == said(clone), done.stderr
    shutil.rmtree(clone / ".venv")
    done = subprocess.run([clone / "nanochat"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, f"nothing is installed here yet: make -C '{clone}' setup\n")


def test_an_index_that_is_typed_installs_again_and_one_of_the_environment_does_not(clone: Path) -> None:
    assert "infra/install.py" in make(clone, "-n", "setup", "TORCH_INDEX=http://mirror").stdout
    os.environ["TORCH_INDEX"] = "http://mirror"
    try:
        assert "infra/install.py" not in make(clone, "-n", "setup").stdout
    finally:
        del os.environ["TORCH_INDEX"]


def bare(folder: Path, *pythons: str) -> str:
    """A PATH with little more than a python3 that is too old, and these."""
    folder.mkdir()
    for name in ("cat", "rm", "sh"):
        (folder / name).symlink_to(shutil.which(name) or name)
    (folder / "python3").write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.2 || exit 1\n')
    (folder / "python3").chmod(0o755)
    for name in pythons:
        (folder / name).symlink_to(sys.executable)
    return str(folder)


@pytest.mark.parametrize("name", ["python3.11", "python3.14"])
def test_a_python_that_is_new_enough_is_found_when_python3_is_not(clone: Path, tmp_path: Path, name: str) -> None:
    shutil.rmtree(clone / ".venv")
    assert f"{name} -m venv .venv" in make(clone, "-n", "setup", path=bare(tmp_path / "bin", name)).stdout


def test_without_one_make_says_how_to_name_one(clone: Path, tmp_path: Path) -> None:
    shutil.rmtree(clone / ".venv")
    done = make(clone, "setup", path=bare(tmp_path / "bin"))
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed, and Python 3.9.2 is what python3 is here" in done.stderr
    assert "make PYTHON=/path/to/python3.12 setup" in done.stderr
