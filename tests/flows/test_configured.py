"""A server that a file of the current folder names is the one that is asked, before a run and in one line."""

import os
import subprocess
import sys
from pathlib import Path

import first_home
import pytest
from conftest import ROOT

from flows.configured import may_be_configured

URL = "http://127.0.0.1:9/api"
OPEN = """
import sys
from nanochat_core.base.errors import NanochatError
from nanochat_core.cli import prefect_api
from flows.server import prefect_server
prefect_api.check.__kwdefaults__["wait_s"] = 0.0  # it may be starting again, and has eight seconds
try:
    with prefect_server():
        print("started")
except NanochatError as error:
    print(error.message)
"""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (".env", f"PREFECT_API_URL={URL}\n"),
        ("prefect.toml", f'[api]\nurl = "{URL}"\n'),
        ("pyproject.toml", f'[tool.prefect.api]\nurl = "{URL}"\n'),
    ],
)
def test_a_server_that_a_file_of_the_folder_names_is_asked_first(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    homes = {"PREFECT_HOME": str(tmp_path / "prefect"), "NANOCHAT_HOME": str(tmp_path / "home")}
    environment = {**os.environ, **homes, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-P", "-c", OPEN]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.startswith(f"PREFECT_API_URL of {tmp_path / name} = {URL} does not answer"), done.stderr


def test_a_prefect_that_was_imported_before_sees_the_server_of_the_run_and_its_password(tmp_path: Path) -> None:
    """It would start one of its own, without a password."""
    script = (
        "from flows.configured import settings\nsettings()\nfrom flows.server import prefect_server\n"
        "from prefect.settings import get_current_settings\nwith prefect_server() as server:\n"
        " api = get_current_settings().api\n"
        " print(api.url == server.url, api.auth_string.get_secret_value() == server.auth)\n"
        "print(get_current_settings().api.url)"
    )
    first_home.seed(tmp_path)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"NANOCHAT_HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path / "prefect"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["True", "True", "None"], done.stderr


@pytest.mark.parametrize(
    ("content", "may"),
    [
        ((ROOT / "pyproject.toml").read_text(encoding="utf-8"), False),  # ours: a start does not wait for Prefect first
        ("[tool]\nprefect.api.url = 'http://127.0.0.1:9/api'\n", True),
        ("tool = 'prefect'\n", True),
        ("[tool.prefect\n", True),
        ("[project]\n", False),
    ],
)
def test_of_a_projects_file_prefects_own_table_counts(
    content: str, may: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyproject.toml").write_text(content, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert may_be_configured() is may
