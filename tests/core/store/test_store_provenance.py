"""Provenance tells enough to make a thing again, and no secret."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from planted import PLANTED, WORD

from nanochat_core.base.errors import MissingError
from nanochat_core.base.redaction import redact, redact_arguments
from nanochat_core.store.provenance import collect, git_patch, git_state


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def test_collected_facts_are_json_and_name_time_and_packages():
    facts = collect(arguments=["run", "tiny"], started_at=time.time() - 2)
    json.dumps(facts, allow_nan=False)
    assert 2 <= facts["seconds"] < 60
    assert facts["started_at"] < facts["finished_at"]
    assert facts["started_at"].endswith("+00:00")
    assert facts["arguments"] == ["run", "tiny"]
    assert "numpy" in facts["packages"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--api-key", "hunter2"],
        ["--token=hunter2"],
        ["--set", "serve.password=hunter2"],
        ["secretAccessKey=hunter2"],
        ["s3://user:hunter2@bucket/x"],
        ["NANOCHAT_STORE=s3://user:hunter2@bucket/x"],
        ["https://host/x?a=1&X-Amz-Signature=hunter2"],
        ["hf_hunter2hunter2"],
        ["Authorization: Bearer hunter2"],
        ["AKIAHUNTER2HUNTER2X"],
    ],
)
def test_secrets_do_not_reach_a_manifest(arguments):
    assert "hunter2" not in " ".join(redact_arguments(arguments)).lower()


@pytest.mark.parametrize(
    "argument",
    [
        "pretrain.tokens_per_param=12",
        "--max-tokens=5",
        "n_kv_head=4",
        "s3://bucket/prefix",
        "/a/b.toml",
        "monkey=1",
        "-v",
    ],
)
def test_ordinary_arguments_stay_as_they_are(argument):
    assert redact(argument) == argument


def test_a_changed_file_changes_the_patch_digest_and_a_clean_tree_has_none(tmp_path):
    assert git_state(tmp_path)["is_git_checkout"] is False
    git(tmp_path, "init")
    (tmp_path / "a.py").write_text("x = 1\n")
    git(tmp_path, "add", "a.py")
    assert git_state(tmp_path)["git_commit"] is None
    git(tmp_path, "commit", "-m", "first")
    clean = git_state(tmp_path)
    assert len(clean["git_commit"]) == 40
    assert clean["git_patch_sha256"] is None
    (tmp_path / "a.py").write_text("x = 2\n")
    (tmp_path / "new.py").write_text("")
    changed = git_state(tmp_path)
    assert len(changed["git_patch_sha256"]) == 64
    assert changed["num_untracked_files"] == 1


def test_a_package_below_somebody_elses_repository_is_not_their_commit(tmp_path):
    git(tmp_path, "init")
    (tmp_path / "site-packages").mkdir()
    assert git_state(tmp_path / "site-packages")["is_git_checkout"] is False


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with one commit of a file of this package."""
    root = tmp_path / "ours"
    (root / "nanochat_core").mkdir(parents=True)
    (root / "nanochat_core/__init__.py").write_text("one = 1\n")
    git(root, "init", "-q")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "first")
    return root


def commit_of(root: Path) -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"]
)
@pytest.mark.parametrize("place", ["{other}/.git", "{other}", "/nowhere"])
def test_the_commit_is_of_the_code_whatever_a_shell_has_set(
    name: str, place: str, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, other = git_state(checkout), tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "another")
    monkeypatch.setenv(name, place.format(other=other))
    assert git_state(checkout) == before
    assert before["git_commit"] is not None


def test_the_patch_is_the_same_under_any_settings_of_a_person(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout / "nanochat_core/__init__.py").write_text("one = 2\n")
    before = git_state(checkout)
    settings = tmp_path / "gitconfig"
    settings.write_text("[diff]\nnoprefix = true\nexternal = /bin/true\n[color]\nui = always\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "/bin/true")
    assert git_state(checkout) == before
    assert before["git_patch_sha256"] is not None


def test_a_package_that_lies_in_somebodys_repository_has_no_commit(checkout: Path) -> None:
    git(checkout, "rm", "-rq", "--cached", "nanochat_core")
    git(checkout, "commit", "-q", "--allow-empty", "-m", "theirs")
    assert git_state(checkout)["git_commit"] is None


def test_a_checkout_of_another_user_is_read(checkout: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may give a file away")
    commit = commit_of(checkout)
    for path in (checkout, *checkout.rglob("*")):
        os.chown(path, 4242, 4242)
    assert git_state(checkout)["git_commit"] == commit


def test_without_git_the_commit_is_unknown(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert git_state(checkout)["git_commit"] is None


def test_without_git_a_search_says_so(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nanochat_core.gate.bisect import bisect
    from nanochat_core.gate.night import Asked

    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(MissingError, match="git is not installed"):
        bisect(checkout, "a", "b", asked=Asked(preset="tiny", overrides=()), tell=print)


def test_a_patch_loses_its_secrets_and_keeps_its_lines_and_binary_files(checkout: Path) -> None:
    (checkout / "nanochat_core/__init__.py").write_text("one = 1\n" + "".join(f"{each}\n" for each in PLANTED.values()))
    blob = bytes(range(256)) * 40
    (checkout / "nanochat_core/data.bin").write_bytes(blob)
    git(checkout, "add", "-N", "nanochat_core/data.bin")
    patch = git_patch(checkout)
    assert patch is not None
    assert WORD.findall(patch) == []
    (checkout / "nanochat_core/data.bin").unlink()
    git(checkout, "reset", "-q", "--hard")
    subprocess.run(["git", "apply", "-"], cwd=checkout, input=patch.encode(), check=True)
    assert (checkout / "nanochat_core/data.bin").read_bytes() == blob
    applied = (checkout / "nanochat_core/__init__.py").read_text()
    assert applied.count("\n") == sum(each.count("\n") + 1 for each in PLANTED.values()) + 1
    assert applied.count("***") >= len(PLANTED)
