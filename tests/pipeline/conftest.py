"""Homes in which the first steps are done, made once and copied for each test."""

import fcntl
import hashlib
import platform
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pinned_venv
import pytest
from conftest import MICRO, ROOT

from flows.speedrun import run_until
from nanochat_core.pipeline.execute import make
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_corpus: Path) -> Path:
    """A home where everything up to the base model's evaluation is in the store: one for all test processes.

    It is kept below `$NANOCHAT_TEST_CACHE` until a byte of the product changes, or of what is installed.
    """
    kept = pinned_venv.cache() / "prepared" / _state_of_everything(small_corpus)
    kept.parent.mkdir(exist_ok=True)
    with open(kept.parent / "making", "w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not kept.is_dir():
            for old in kept.parent.glob("*/"):
                shutil.rmtree(old)
            _prepare(folder := tmp_path_factory.mktemp("prepared") / "home", small_corpus)
            shutil.copytree(folder, part := kept.with_suffix(".part"), symlinks=True)
            part.rename(kept)
        shutil.copytree(kept, home := tmp_path_factory.mktemp("prepared") / "home", symlinks=True)
    return home


def _prepare(home: Path, corpus: Path) -> None:
    plan = plan_run(load_config("tiny", [*MICRO, "corpus.source=path", f"corpus.path={corpus}"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_HOME", str(home))
        patch.setenv("NANOCHAT_STORE", str(home / "store"))
        run_until(make, plan, "conversations")


def _state_of_everything(corpus: Path) -> str:
    """A digest of our source, the text, the settings and the names and versions of what is installed."""
    source = [path for part in ("nanochat_core", "flows", "tasks") for path in sorted((ROOT / part).rglob("*.*"))]
    files = [path for path in (*source, *sorted(corpus.iterdir())) if path.is_file() and path.suffix != ".pyc"]
    installed = sorted(path.name for path in Path(sysconfig.get_path("purelib")).glob("*.dist-info"))
    said = [sys.version, platform.processor(), *MICRO, *installed]
    said += [f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for path in files]
    return hashlib.sha256("\n".join(said).encode()).hexdigest()[:16]


@pytest.fixture(scope="module")
def prepared_module(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One copy for all tests of a file, for those that share what they make or only look."""
    folder = tmp_path_factory.mktemp("module") / "home"
    shutil.copytree(prepared, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_HOME", str(folder))
        patch.setenv("NANOCHAT_STORE", str(folder / "store"))
        yield folder


@pytest.fixture
def prepared_home(prepared: Path, home: Path) -> Path:
    """This test's own copy of it."""
    shutil.copytree(prepared, home, symlinks=True)
    return home
