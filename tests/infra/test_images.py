"""The Dockerfile passes hadolint, runs as nobody special, and its Python is one that the project supports."""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT

FILE = ROOT / "infra/Dockerfile"


def hadolint(validators: Path, text: str) -> "subprocess.CompletedProcess[str]":
    command = [str(validators / "hadolint"), "--no-color", "-"]
    return subprocess.run(command, input=text, capture_output=True, text=True)


def test_hadolint_finds_nothing(validators: Path) -> None:
    done = hadolint(validators, FILE.read_text())
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize(
    ("wrong", "rule"), [("FROM python:latest\n", "DL3007"), ("FROM python:3.12\nRUN cd /tmp\n", "DL3003")]
)
def test_a_mistake_in_a_dockerfile_would_be_found(validators: Path, wrong: str, rule: str) -> None:
    assert rule in hadolint(validators, wrong).stdout


def test_both_targets_run_without_root_from_a_pinned_base() -> None:
    text = FILE.read_text()
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", text, re.M | re.S))
    assert {"cpu", "cuda"} <= set(stages)
    for target in ("cpu", "cuda"):
        assert re.findall(r"^USER (\S+)", stages[target], re.M) == ["1000"]
        assert "HEALTHCHECK" in stages[target]
    outside = [base for base in re.findall(r"^FROM (\S+)", text, re.M) if base not in stages]
    assert all(re.search(r"@sha256:[0-9a-f]{64}$", base) for base in outside)
    supported = re.search(r'requires-python = ">=(3\.\d+)"', (ROOT / "pyproject.toml").read_text())
    assert supported
    assert int(re.search(r"^FROM python:3\.(\d+)", text, re.M)[1]) >= int(supported[1].split(".")[1])  # type: ignore[index]


def test_what_the_images_copy_and_start_is_there_and_secrets_stay_out() -> None:
    for path in re.findall(r"infra/\S+\.py", FILE.read_text()):
        assert (ROOT / path).is_file()
    ignored = set((ROOT / ".dockerignore").read_text().splitlines())
    assert {"infra/.env", ".git/config", ".venv"} <= ignored


def test_git_still_names_the_commit_of_a_checkout_without_its_configuration(tmp_path: Path) -> None:
    """What .dockerignore leaves out must not take the provenance away."""

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*"]
        return subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("text")
    git("add", "file")
    git("commit", "--quiet", "--message", "one")
    commit = git("rev-parse", "HEAD")
    (tmp_path / ".git/config").unlink()
    assert git("rev-parse", "HEAD") == commit
    assert git("diff", "HEAD") == ""
