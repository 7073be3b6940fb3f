"""A model of the hub as a folder: which files are asked for, what its name becomes, and what is refused."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from http_server import Fault, HttpServer
from huggingface_hub import constants

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.export import hub

NAME, COMMIT = "somebody/d20", "c0ffee" + "0" * 34
FILES = {
    "model_000010.pt": b"weights " * 999, "meta_000010.json": b"{}", "tokenizer.pkl": b"tokens", "README.md": b"card",
    "optim_000010.pt": b"moments", "sft/model_000020.pt": b"other weights", "sft/meta_000020.json": b"{}",
    "sft/older/model_000001.pt": b"older",
}  # fmt: skip
WEIGHTS = f"/{NAME}/resolve/{COMMIT}/model_000010.pt"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-login"))
    return tmp_path / "hub"


@pytest.fixture
def server(monkeypatch):
    with HttpServer() as server:
        server.serve_model(NAME, COMMIT, FILES, revisions=("main", "v1.0"))
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", f"@{COMMIT}"])
def test_only_a_models_files_come_and_its_name_holds_the_commit(server, revision):
    found = hub.bring(f"hf:{NAME}{revision}")
    assert found.name == f"hf:{NAME}@{COMMIT}"
    assert names(found.folder) == ["README.md", "meta_000010.json", "model_000010.pt", "tokenizer.pkl"]
    assert (found.folder / "model_000010.pt").read_bytes() == FILES["model_000010.pt"]
    asked = len(server.log)
    assert hub.bring(found.name) == found
    assert len(server.log) == asked, "what the cache has by its commit is not asked for"


def test_a_folder_in_it_is_a_model_of_its_own(server):
    found = hub.bring(f"hf:{NAME}/sft@v1.0")
    assert found.name == f"hf:{NAME}/sft@{COMMIT}"
    assert names(found.folder) == ["meta_000020.json", "model_000020.pt"]
    with pytest.raises(MissingError, match="has no folder base"):
        hub.bring(f"hf:{NAME}/base")


def test_a_copy_of_the_cache_is_enough_where_there_is_no_network(server, monkeypatch):
    found = hub.bring(f"hf:{NAME}")
    server.files.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub.bring(f"hf:{NAME}") == found
    with pytest.raises(MissingError, match="cannot be had"):
        hub.bring("hf:somebody/else")


def test_a_damaged_copy_is_refused_with_what_to_remove(server):
    found = hub.bring(f"hf:{NAME}")
    blob = (found.folder / "model_000010.pt").resolve()
    assert blob.name == hashlib.sha256(FILES["model_000010.pt"]).hexdigest()
    blob.write_bytes(b"w" + FILES["model_000010.pt"][1:-1] + b"x")
    with pytest.raises(CorruptError, match="other bytes") as error:
        hub.bring(f"hf:{NAME}")
    assert str(blob) in error.value.hint
    blob.unlink()
    assert (hub.bring(f"hf:{NAME}").folder / "model_000010.pt").read_bytes() == FILES["model_000010.pt"]


@pytest.mark.parametrize(
    ("path", "status", "code", "told", "hint"),
    [
        ("revision/main", 404, "RepoNotFound", "is not on http://127", "HF_TOKEN"),
        ("revision/main", 401, None, "cannot be had", "HF_TOKEN is not set"),
        ("revision/main", 403, "GatedRepo", "asks who reads it", "accept its terms"),
        ("revision/main", 404, "RevisionNotFound", "has no revision main", "a tag"),
        ("revision/main", 500, None, "cannot be had", "HF_ENDPOINT"),
    ],
)
def test_what_the_hub_refuses_is_one_line(server, path, status, code, told, hint):
    headers = {"X-Error-Code": code} if code else {}
    server.always[f"/api/models/{NAME}/{path}"] = Fault(status=status, headers=headers)
    with pytest.raises(MissingError, match=told) as error:
        hub.bring(f"hf:{NAME}")
    assert "\n" not in error.value.message
    assert hint in error.value.hint


@pytest.mark.parametrize("name", ["hf:d20", "hf:a/../b", "hf:", "hf:a/b@", "hf:a/b c"])
def test_what_is_no_name_is_refused_before_anybody_is_asked(server, name):
    with pytest.raises(ConfigError, match="no model of the hub"):
        hub.bring(name)
    assert not server.log


def test_a_download_that_was_killed_becomes_whole(server, tmp_path, cache):
    content = bytes(range(256)) * 8_000
    server.serve_model(NAME, COMMIT, {**FILES, "model_000010.pt": content}, revisions=("main",))
    slow = server.always[WEIGHTS]
    server.script(WEIGHTS, slow, Fault(headers=slow.headers, pause_s=0.01))  # HEAD first, then the file
    code = f"from nanochat_core.export import hub; hub.bring('hf:{NAME}')"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={"HF_ENDPOINT": server.url, "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_XET": "1", "HOME": str(tmp_path),
             "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    while not any(one.path == WEIGHTS and one.num_sent > 200_000 for one in server.log):
        assert process.poll() is None
    process.kill()
    process.wait()
    found = hub.bring(f"hf:{NAME}")
    assert (found.folder / "model_000010.pt").read_bytes() == content
