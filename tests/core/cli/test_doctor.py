"""The doctor: each fault is found by its own check, with a command that mends it."""

import json
import os
import socket
import threading

import matrix
import pytest
from conftest import ROOT

from nanochat_core.cli import doctor
from nanochat_core.cli.doctor import examine


def _find(check):
    return next(finding for finding in examine() if finding.check == check)


def test_a_good_set_up_has_no_fault(home):
    findings = {finding.check: finding for finding in examine()}
    named = {"python", "packages", "torch", "home", "store", "prefect home", "prefect server", "proxies", "sandbox"}
    assert named | {"installed files", "tried with"} == set(findings)
    bad = [finding for finding in findings.values() if not finding.is_good and finding.check != "home"]
    assert not bad


def test_what_was_tried_is_what_the_page_tells():
    tried = json.loads((ROOT / "nanochat_core/cli/tried.json").read_text())
    assert matrix.table(tried) in (ROOT / "docs/tried.md").read_text(), "python3 tests/matrix.py --parts none"
    assert not [cell for row in tried["rows"] for cell in row["parts"].values() if matrix.is_bad(cell)]
    seen = _find("tried with").seen
    for row in tried["rows"]:
        assert row["python"] in seen
        assert row["torch"] in seen


def test_a_gpu_that_this_torch_does_not_use_is_found(home, monkeypatch):
    monkeypatch.setattr(doctor, "NVIDIA", home.parent)
    monkeypatch.setattr("torch.version.cuda", None)
    finding = doctor._torch()
    assert not finding.is_good
    assert finding.seen.endswith("the NVIDIA GPU here is not used")
    assert finding.mend == "make clean setup"
    monkeypatch.setattr("torch.version.cuda", "13.0")
    assert doctor._torch().mend.startswith("install a driver for CUDA 13.0, or make setup TORCH_INDEX=")


def test_examining_leaves_nothing_behind_in_the_store(home):
    examine()
    left = [path for path in (home / "store").rglob("*") if path.is_file() and "probe" in path.name]
    assert left == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/api", "http://nowhere.invalid/api", "not a url", "localhost:4200/api", "ftp://127.0.0.1:1",
        "http://127.0.0.1:notaport/api", "http://127.0.0.1:99999/api", "http://[bad/api", "http:///api",
        "http://a b/api",
    ],
)  # fmt: skip
def test_a_prefect_address_that_does_not_answer_is_found(monkeypatch, url):
    monkeypatch.setenv("PREFECT_API_URL", url)
    finding = _find("prefect server")
    assert not finding.is_good
    assert url in finding.seen
    assert finding.mend == "unset PREFECT_API_URL"


@pytest.mark.parametrize("answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 500 Oops\r\n\r\n", b"HTTP/1.1 404 No\r\n\r\n"])
def test_a_server_that_is_no_prefect_is_found(monkeypatch, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{server.getsockname()[1]}/api")
        assert not _find("prefect server").is_good
        thread.join(5)


def test_a_home_below_a_file_is_found(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "file" / "home"))
    finding = _find("home")
    assert not finding.is_good
    assert "NANOCHAT_HOME" in finding.mend
    assert not _find("store").is_good


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_home_that_cannot_be_written_is_found(monkeypatch, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    monkeypatch.setenv("NANOCHAT_HOME", str(locked / "home"))
    finding = _find("home")
    assert not finding.is_good
    assert "NANOCHAT_HOME" in finding.mend


@pytest.mark.parametrize("url", ["nonsense://bucket/x", "s3://"])
def test_a_store_that_cannot_be_opened_is_found(monkeypatch, url):
    monkeypatch.setenv("NANOCHAT_STORE", url)
    assert not _find("store").is_good


def test_a_damaged_prefect_database_is_found(tmp_path):
    (tmp_path / "prefect").mkdir()
    (tmp_path / "prefect" / "prefect.db").write_bytes(b"no database at all" * 100)
    finding = _find("prefect home")
    assert not finding.is_good
    assert finding.mend.startswith("mv ")


def test_doctor_says_which_of_put_get_list_and_delete_a_store_does(monkeypatch, home, tmp_path):
    from faulty_s3 import BUCKET, FaultyS3, Refusal

    from nanochat_core import workspace

    def no_delete(request):
        return Refusal(403, "AccessDenied") if request.method == "DELETE" else None

    with FaultyS3(no_delete) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("NANOCHAT_STORE", f"s3://{BUCKET}/team")
        workspace._open.cache_clear()
        refused = doctor._store()
        server.refuse = lambda request: None
        taken = doctor._store()
    workspace._open.cache_clear()
    assert not refused.is_good
    assert refused.seen.startswith("put, get, list work; delete does not: ")
    assert "s3:DeleteObject" in (refused.mend or "")
    assert taken.is_good
    assert "put, get, list, delete work" in taken.seen


def test_doctor_says_what_the_homes_file_system_lacks(monkeypatch, tmp_path):
    def refuse(*_arguments, **_options):
        raise OSError(38, "Function not implemented")

    assert doctor.lacking(tmp_path) == []
    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr("os.symlink", refuse)
    assert doctor.lacking(tmp_path) == ["no file locks", "no symbolic links"]
    assert list(tmp_path.iterdir()) == []
