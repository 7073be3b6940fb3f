"""Shards from the Hugging Face hub, a URL or a folder in the hub's layout.

Any fsspec address works: "owner/name" means hf://datasets/owner/name. Parquet shards are fetched as they are, several
at once; a shard is downloaded under a temporary name and renamed when whole, with its size and sha256 in a record
beside it, so an interrupted fetch goes on where it was. Other formats are read through the `datasets` library.
"""

import hashlib
import json
import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import fsspec

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.config import CorpusConfig
from nanochat_core.data import shards

NUM_CONNECTIONS = 8
NUM_TRIES = 5
BLOCK_BYTES = 8 << 20


@dataclass(frozen=True)
class Shard:
    """One fetched shard."""

    path: Path
    url: str
    sha256: str
    num_bytes: int

    def record(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "path"} | {"name": self.path.name}


def fetch_shards(config: CorpusConfig, *, downloads: Path, log: Callable[[str], None]) -> list[Shard]:
    """Fetch the shards that `config` names; the last of the dataset is always among them (validation)."""
    assert config.dataset
    if "@" in config.dataset.partition("://")[2].partition("/")[0] or "?" in config.dataset:
        raise ConfigError(
            "corpus.dataset holds a user name, a password or a query, and it would be stored with every artifact",
            hint="give secrets through the environment (HF_TOKEN, AWS_*)",
        )
    downloads.mkdir(parents=True, exist_ok=True)
    filesystem, root, names = list_shards(config.dataset, config.dataset_files, revision=config.revision)
    if not names:
        return _convert(config, downloads)
    if config.max_shards and config.max_shards < len(names):
        names = names[: max(1, config.max_shards - 1)] + names[-1:]
    log(f"fetching {len(names)} shards of {config.dataset}")
    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        return list(pool.map(lambda name: _fetch(filesystem, name, downloads, root=root), names))


def list_shards(dataset: str, pattern: str, *, revision: str | None = None) -> tuple[Any, str, list[str]]:
    """The dataset's filesystem, its root there, and the sorted names of the shards that match the pattern."""
    url = dataset_url(dataset, revision)
    try:
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        names = sorted(set(filesystem.glob(f"{root}/{pattern}")) | set(filesystem.glob(f"{root}/**/{pattern}")))
        found = bool(names) or filesystem.exists(root)
    except Exception as error:  # each filesystem has exceptions of its own; all of them mean "cannot be listed"
        raise MissingError(
            f"{dataset} cannot be listed: {error}", hint="check the name, the network and HF_TOKEN"
        ) from error
    if not found:
        raise MissingError(f"{dataset} does not exist (looked at {url})", hint="owner/name, a URL or a folder")
    return filesystem, root, names


def dataset_url(dataset: str, revision: str | None = None) -> str:
    """ "owner/name" -> hf://datasets/owner/name; folders and URLs stay."""
    if "://" in dataset or Path(dataset).expanduser().is_dir() or dataset.startswith((".", "/", "~")):
        return str(Path(dataset).expanduser()) if "://" not in dataset else dataset
    return f"hf://datasets/{dataset}" + (f"@{revision}" if revision else "")


def _fetch(filesystem: Any, name: str, folder: Path, *, root: str) -> Shard:
    # sub-folders go into the name: hubs hold default/train/0000.parquet beside default/test/0000.parquet
    target = folder / name.removeprefix(root).strip("/").replace("/", "__")
    record = target.with_name(f"{target.name}.record.json")
    if (known := _known(target, record)) is not None:
        return known
    for attempt in range(1, NUM_TRIES + 1):
        try:
            return _download(filesystem, name, target, record)
        except Exception as error:  # the network's own zoo of exceptions; the last one is reported
            if attempt == NUM_TRIES or isinstance(error, FileNotFoundError):
                raise MissingError(f"{name} could not be fetched after {attempt} tries: {error}") from error
            time.sleep(random.uniform(0.5, 1.5) * 2**attempt)
    raise AssertionError("unreachable")


def _known(target: Path, record: Path) -> Shard | None:
    """What an earlier attempt fetched, if it is whole."""
    try:
        shard = Shard(target, **json.loads(record.read_text()))
        is_whole = shard.num_bytes == target.stat().st_size and shard.sha256 == _sha256(target)
    except (OSError, ValueError, TypeError):
        return None
    return shard if is_whole else None


def _download(filesystem: Any, name: str, target: Path, record: Path) -> Shard:
    expected = filesystem.info(name).get("size")
    part = target.with_name(f"{target.name}.part")
    with filesystem.open(name, "rb") as source, part.open("wb") as sink:
        while block := source.read(BLOCK_BYTES):
            sink.write(block)
        sink.flush()
        os.fsync(sink.fileno())
    size = part.stat().st_size
    if expected is not None and size != expected:
        raise OSError(f"{size:,} of {expected:,} bytes arrived")
    known = {"url": filesystem.unstrip_protocol(name), "sha256": _sha256(part), "num_bytes": size}
    part.replace(target)
    written = record.with_suffix(".tmp")
    written.write_text(json.dumps(known))
    written.replace(record)
    return Shard(target, **known)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _convert(config: CorpusConfig, downloads: Path) -> list[Shard]:
    """A dataset without parquet shards: let `datasets` read it and write shards from it."""
    import datasets  # slow to import, and only needed here

    dataset = config.dataset
    assert dataset
    try:
        stream = datasets.load_dataset(dataset, split="train", streaming=True, revision=config.revision)
        texts = (row[config.text_column] for row in stream if row.get(config.text_column))
        folder = downloads / "converted"
        shards.write_shards(texts, folder)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise MissingError(
            f"{dataset} has no file like {config.dataset_files} and `datasets` cannot read it: {error}",
            hint="check corpus.dataset and corpus.dataset_files",
        ) from error
    written = sorted(folder.glob("*.parquet"))
    if not written:
        raise MissingError(f"{dataset} has no rows with a field {config.text_column!r}")
    return [Shard(path, f"datasets:{dataset}", _sha256(path), path.stat().st_size) for path in written]
