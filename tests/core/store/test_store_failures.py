"""What people see when the storage cannot be used: one line, a cure, and within seconds."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from nanochat_core.base.errors import ConfigError, HardwareError, MissingError
from nanochat_core.store import Store
from nanochat_core.store.failures import UnreachableError
from nanochat_core.store.filesystem import parse_url

ROOT = Path(__file__).resolve().parents[3]
QUICK_S = 15.0
NOBODY = 65534

PUBLISH = """
import os, sys
from pathlib import Path
from nanochat_core.base.errors import NanochatError
from nanochat_core.store import Store

url, folder, cache, user = sys.argv[1:]
store = Store.open(url, cache_folder=Path(cache))
if int(user) != os.getuid():  # only now: the interpreter itself may be out of reach for that user
    os.setgroups([])
    os.setuid(int(user))
try:
    store.publish(
        Path(folder), step="s", fingerprint="f",
        inputs={}, config={}, code={}, packages={}, metrics={}, provenance={},
    )
except NanochatError as error:
    print(type(error).__name__, error.message, "|", error.hint)
"""


def open_error(url: str, tmp_path: Path) -> MissingError:
    began = time.monotonic()
    with pytest.raises(MissingError) as caught:
        Store.open(url, cache_folder=tmp_path / "cache")
    assert time.monotonic() - began < QUICK_S
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_wrong_key_is_named(s3_url, monkeypatch, tmp_path, variable):
    monkeypatch.setenv(variable, "test:wrong")
    error = open_error(s3_url, tmp_path)
    assert "refuses the key" in error.message
    assert variable in error.hint
    assert "test:wrong" not in error.message


def test_no_key_at_all_says_which_variables_to_set(s3_url, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    assert "AWS_ACCESS_KEY_ID" in open_error(s3_url, tmp_path).hint


def test_a_missing_bucket_is_named(s3_url, tmp_path):
    error = open_error("s3://no-such-bucket/prefix", tmp_path)
    assert "s3://no-such-bucket/prefix" in error.message
    assert "does not exist" in error.message
    assert "create the bucket" in error.hint


def test_a_server_that_is_not_there_is_an_error_that_waiting_may_heal(s3_url, monkeypatch, tmp_path):
    with socket.socket() as taken:  # bound and not listening: refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        error = open_error(s3_url, tmp_path)
    assert isinstance(error, UnreachableError)
    assert "did not answer" in error.message


def test_a_server_that_never_answers_is_given_up_soon(s3_url, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections and says nothing
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert isinstance(open_error(s3_url, tmp_path), UnreachableError)


def publish_into(store: Path, workplace: Path, *, user: int) -> str:
    """What `user` sees when publishing into `store`."""
    made = workplace / "made"
    made.mkdir()
    (made / "a").write_bytes(b"x" * 3_000_000)
    command = [sys.executable, "-c", PUBLISH, str(store), str(made), str(workplace / "cache"), str(user)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@pytest.mark.usefixtures("other_users")
def test_a_read_only_folder_is_named():
    with tempfile.TemporaryDirectory() as name:  # not tmp_path: pytest keeps that from other users
        workplace = Path(name)
        workplace.chmod(0o755)
        store = workplace / "store"
        store.mkdir(mode=0o555)
        # Nothing is read-only for root.
        said = publish_into(store, workplace, user=os.getuid() or NOBODY)
    assert said.startswith("MissingError no permission"), said
    assert str(store) in said
    assert "NANOCHAT_STORE" in said


def test_a_full_disk_is_named_and_nothing_is_left_behind(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=777", "tmpfs", str(store)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small file system can only be mounted by root")
    try:
        said = publish_into(store, tmp_path, user=os.getuid())
        assert said.startswith("HardwareError the disk is full"), said
        assert [path for path in store.rglob("*") if path.is_file()] == []
    finally:
        subprocess.run(["umount", str(store)], check=True)


def test_a_full_disk_below_the_cache_is_named(memory_bench, monkeypatch):
    artifact = memory_bench.publish({"a": b"x"})

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/cache/x")

    memory_bench.store = memory_bench.open("another")
    monkeypatch.setattr(memory_bench.store._files.fs, "get_file", full)
    with pytest.raises(HardwareError, match="disk is full"):
        memory_bench.store.fetch(artifact)


def test_a_file_where_the_store_should_be_is_named(tmp_path):
    (tmp_path / "store").write_text("not a folder")
    store = Store.open(str(tmp_path / "store"), cache_folder=tmp_path / "cache")
    assert store.find("s", "f") is None
    with pytest.raises(MissingError, match="cannot be used as a path"):
        store.put_run("r", {})


@pytest.mark.parametrize(
    "url",
    ["", "s3://", "s3:/bucket/x", "s3://bucket/x?endpoint=y", "nosuch://bucket/x", "file://relative/x"],
)
def test_a_url_that_is_none_is_refused(url, tmp_path):
    with pytest.raises(ConfigError):
        Store.open(url, cache_folder=tmp_path)


def test_keys_in_a_url_are_refused_and_not_repeated(tmp_path):
    with pytest.raises(ConfigError) as caught:
        Store.open("s3://KEY:SECRET@bucket/x", cache_folder=tmp_path)
    assert "SECRET@" not in f"{caught.value.message}"


def test_urls_are_normalised():
    assert parse_url("s3://bucket/a/").url == "s3://bucket/a"
    assert parse_url("/x/y/").url == "/x/y"
    assert parse_url("file:///x/y").path == "/x/y"
    assert parse_url("memory://a/b").path == "/a/b"
