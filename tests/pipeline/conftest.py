"""Homes in which the first steps are done, made once and copied for each test."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import MICRO

from flows.speedrun import run_until
from nanochat_core.pipeline.execute import make
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, small_corpus: Path) -> Path:
    """A home where everything up to the base model's evaluation is in the store."""
    folder = tmp_path_factory.mktemp("prepared") / "home"
    plan = plan_run(load_config("tiny", [*MICRO, "corpus.source=path", f"corpus.path={small_corpus}"]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_HOME", str(folder))
        patch.setenv("NANOCHAT_STORE", str(folder / "store"))
        run_until(make, plan, "conversations")
    return folder


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
