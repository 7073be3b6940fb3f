"""`nanochat uninstall` names what stays, with sizes, and deletes nothing."""

import os
from pathlib import Path

import pytest

from flows import uninstall_cli
from flows.stack import new_stack, save


def test_what_stays_is_listed_with_its_size_and_what_deletes_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "a prefect"))
    monkeypatch.setenv("NANOCHAT_STORE", "s3://bucket/prefix")
    monkeypatch.setattr("sys.prefix", str(tmp_path))  # ours are gigabytes in 60,000 files
    (tmp_path / "a prefect").mkdir()
    stack = new_stack(tmp_path / "server", database="sqlite", store="folder", user=None, port=None)
    stack.path.mkdir()
    save(stack)
    (home / "runs").mkdir(parents=True)
    (home / "runs/report.html").write_bytes(b"x" * 100_000)
    os.link(home / "runs/report.html", home / "runs/again.html")
    found = {item.place: item for item in uninstall_cli.leftovers()}
    assert list(found)[:4] == [str(tmp_path / "server"), "s3://bucket/prefix", str(home), str(tmp_path / "a prefect")]
    assert 100_000 <= (found[str(home)].num_bytes or 0) < 200_000, "two names of one file are one file"
    assert found["s3://bucket/prefix"].num_bytes is None
    assert found[str(tmp_path / "a prefect")].command == f"rm -r '{tmp_path}/a prefect'"
    assert found[str(tmp_path / "server")].command == "nanochat down --wipe"
    assert str(tmp_path / "hub") not in found, "what is not there needs no line"
    monkeypatch.setenv("NANOCHAT_STORE", str(home / "store"))
    assert sum("NANOCHAT_STORE" in item.what for item in uninstall_cli.leftovers()) == 0, "it is in the home"
    assert (home / "runs/report.html").exists()
