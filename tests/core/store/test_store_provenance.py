"""Provenance tells enough to make a thing again, and no secret."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from nanochat_core.store.provenance import collect, git_state, redact, redact_arguments


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
