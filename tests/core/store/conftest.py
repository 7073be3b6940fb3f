"""Stores of each kind, and a way to fill and damage them that goes around the store's own code."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import fsspec
import pytest

from nanochat_core.store import Artifact, Store


class Bench:
    """A store under test, with the raw objects below it."""

    def __init__(self, url: str, tmp_path: Path) -> None:
        self.url = url
        self.tmp_path = tmp_path
        self.store = self.open("cache")

    def open(self, cache: str, **options: Any) -> Store:
        return Store.open(self.url, cache_folder=self.tmp_path / cache, **options)

    @property
    def is_folder(self) -> bool:
        return "://" not in self.url

    def folder(self, files: dict[str, bytes]) -> Path:
        """A new folder with these files."""
        folder = self.tmp_path / f"made-{uuid4().hex[:8]}"
        folder.mkdir()
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        return folder

    def publish(
        self, files: dict[str, bytes], *, step: str = "tokens", fingerprint: str = "f1", **fields: Any
    ) -> Artifact:
        given = {"config": {"depth": 4}, "metrics": {"loss": 1.5}}
        nothing: dict[str, Any] = {"inputs": {}, "code": {}, "packages": {}, "provenance": {}}
        return self.store.publish(self.folder(files), step=step, fingerprint=fingerprint, **(nothing | given | fields))

    @cached_property
    def fs(self) -> Any:
        """A file system of our own on the store."""
        protocol = self.url.partition("://")[0] if "://" in self.url else "file"
        options = {"use_listings_cache": False, "skip_instance_cache": True} if protocol == "s3" else {}
        return fsspec.filesystem(protocol, **options)

    def raw(self) -> tuple[Any, str]:
        return self.fs, self.fs._strip_protocol(self.url)

    def objects(self) -> list[str]:
        fs, root = self.raw()
        return sorted(str(path)[len(root) + 1 :] for path in fs.find(root))

    def read(self, key: str) -> bytes:
        fs, root = self.raw()
        return bytes(fs.cat_file(f"{root}/{key}"))

    def overwrite(self, key: str, content: bytes) -> None:
        fs, root = self.raw()
        if self.is_folder:
            Path(root, key).chmod(0o644)
        fs.pipe_file(f"{root}/{key}", content)

    def delete(self, key: str) -> None:
        fs, root = self.raw()
        fs.rm_file(f"{root}/{key}")


@pytest.fixture(params=["folder", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store's URL, of each kind."""
    if request.param == "folder":
        return str(tmp_path / "store")
    if request.param == "memory":
        return f"memory://store-{uuid4().hex}"
    return f"{request.getfixturevalue('s3_url')}/some/prefix"


@pytest.fixture
def bench(url: str, tmp_path: Path) -> Bench:
    return Bench(url, tmp_path)


@pytest.fixture
def folder_bench(tmp_path: Path) -> Bench:
    return Bench(str(tmp_path / "store"), tmp_path)


@pytest.fixture
def memory_bench(tmp_path: Path) -> Bench:
    """The cheapest store that is not a folder."""
    return Bench(f"memory://store-{uuid4().hex}", tmp_path)


@pytest.fixture
def s3_bench(s3_url: str, tmp_path: Path) -> Bench:
    return Bench(f"{s3_url}/some/prefix", tmp_path)


Damage = Callable[[Bench, str], None]


def flip(bench: Bench, key: str) -> None:
    content = bytearray(bench.read(key))
    content[len(content) // 2] ^= 1
    bench.overwrite(key, bytes(content))


def truncate(bench: Bench, key: str) -> None:
    bench.overwrite(key, bench.read(key)[:-2])  # the last byte of our JSON is a line end, and means nothing


def swap(bench: Bench, key: str) -> None:
    """Put another object of the same kind in its place."""
    kind = key.partition("/")[0]
    other = next(name for name in bench.objects() if name.startswith(kind) and name != key)
    bench.overwrite(key, bench.read(other))


DAMAGES = {"flip": flip, "truncate": truncate, "delete": Bench.delete, "swap": swap}


@pytest.fixture(params=list(DAMAGES))
def damage(request: pytest.FixtureRequest) -> Damage:
    return DAMAGES[request.param]
