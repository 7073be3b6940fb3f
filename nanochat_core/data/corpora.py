"""Where text comes from: one small interface, three sources.

A source yields training documents and validation documents; `build_corpus` writes both as parquet shards. The last
shard (or documents spread over the only one) is validation, and a document that is also in the validation set never
gets into training, so that bits per byte measure what was not seen. Fetched shards are checked by sha256 as they come
in and when a later attempt finds them again; `shards.json` lists them beside the text, whatever mirror or attempt they
are from. From there on the store answers for every byte: it checks a corpus whenever a step opens it (`store.fetch`).
"""

import functools
import gzip
import json
import queue
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.base.records import replace
from nanochat_core.base.text import MARK, decode, document, is_blank, parse_json
from nanochat_core.config import CorpusConfig
from nanochat_core.data import documentation, hub, shards
from nanochat_core.data.download import (
    Downloader,
    Fetched,
    Progress,
    Report,
    Wanted,
    in_parallel,
    require_space,
    sha256_of,
)
from nanochat_core.data.hub import Listed, Patience

SUFFIXES = (".parquet", ".jsonl", ".txt")
Log = Callable[[str], None]


@dataclass(frozen=True)
class Shard:
    """One fetched shard."""

    name: str
    """In the dataset."""
    path: Path
    sha256: str
    num_bytes: int
    url: str

    def entry(self) -> dict[str, Any]:
        """What is the same wherever the bytes came from."""
        return {"name": self.name, "sha256": self.sha256, "num_bytes": self.num_bytes}


@dataclass(frozen=True)
class Source:
    """Documents of one corpus. Each call starts a new pass in the same order."""

    train: Callable[[], Iterator[str]]
    validation: Callable[[], Iterator[str]]
    origin: dict[str, Any]
    """What the artifact records: names and sizes of what was read."""
    fetched: Sequence[Shard] = ()


def build_corpus(
    config: CorpusConfig,
    out: Path,
    *,
    downloads: Path,
    log: Log,
    progress: Report | None = None,
    num_downloads: int = 8,
    patience: Patience | None = None,
) -> dict[str, Any]:
    """Write out/train and out/validation; returns the counts, and for a download where it came from.

    `downloads` keeps what a broken attempt has fetched. Raises MissingError for an empty corpus.
    """
    fetch = functools.partial(
        fetch_shards,
        config,
        downloads=downloads,
        log=log,
        progress=progress,
        num_downloads=num_downloads,
        patience=patience,
    )
    source = open_source(config, fetch)
    held_out: set[bytes] = set()
    validation_docs, validation_bytes = shards.write_shards(
        _remember(source.validation(), held_out), out / "validation"
    )
    train = (text for text in source.train() if shards.document_key(text) not in held_out)
    train_docs, train_bytes = shards.write_shards(_limit(train, config.max_bytes), out / "train")
    if not train_docs or not validation_docs:
        raise MissingError(
            f"the corpus has {train_docs} training and {validation_docs} validation documents; it needs both",
            hint="give it more than one file, or one file with at least 10 documents",
        )
    (out / "origin.json").write_text(json.dumps(source.origin, indent=1, sort_keys=True))
    return {
        "train_docs": train_docs,
        "train_bytes": train_bytes,
        "validation_docs": validation_docs,
        "validation_bytes": validation_bytes,
        **_record_shards(source.fetched, out),
    }


def _record_shards(fetched: Sequence[Shard], out: Path) -> dict[str, Any]:
    """Write shards.json, which a later run can demand by corpus.digests_file; returns what goes into the metrics.

    Where the bytes came from is in the metrics only: they do not count for the artifact's digest.
    """
    if not fetched:
        return {}
    text = json.dumps({"shards": [shard.entry() for shard in fetched]}, indent=1)
    (out / "shards.json").write_text(text)
    places = Counter(shard.url.removesuffix(quote(shard.name)) for shard in fetched)
    return {
        "num_shards": len(fetched),
        "shard_bytes": sum(shard.num_bytes for shard in fetched),
        "shards_sha256": sha256(text.encode()).hexdigest(),
        "shard_sources": dict(sorted(places.items())),
    }


def open_source(config: CorpusConfig, fetch: Callable[[], list[Shard]]) -> Source:
    """The source that `config.source` names; `fetch` brings the shards of one that is elsewhere."""
    if config.source == "embedded":
        texts = list(documentation.documents())
        return _split_one(lambda: iter(texts), config.validation_docs, {"source": "embedded", "docs": len(texts)})
    if config.source == "path":
        return _open_files(list_files(config.path), config)
    fetched = fetch()
    return _open_files([shard.path for shard in fetched], config, fetched=fetched)


def fetch_shards(
    config: CorpusConfig,
    *,
    downloads: Path,
    log: Log,
    progress: Report | None = None,
    num_downloads: int = 8,
    patience: Patience | None = None,
) -> list[Shard]:
    """Fetch the shards that `config` names, in order of name; the last of the dataset is always among them."""
    if not config.dataset:
        raise ConfigError("corpus.source = hub needs corpus.dataset", hint="--set corpus.dataset=owner/name")
    downloads.mkdir(parents=True, exist_ok=True)

    def read(base: str, path: str, token: str | None, parse: Callable[[str], Any]) -> hub.Page:
        with Downloader([base], tokens={base: token} if token else {}, patience=patience) as net:
            return net.read(path, parse)

    place = hub.locate(config, downloads, read)
    chosen = place.listed
    if not chosen:
        return _convert(config, downloads)
    if config.max_shards and config.max_shards < len(chosen):
        chosen = chosen[: max(1, config.max_shards - 1)] + chosen[-1:]
    log(f"fetching {len(chosen)} shards of {config.dataset}")
    require_space(downloads, sum(max(0, (file.num_bytes or 0) - _bytes_here(file, downloads)) for file in chosen))
    notes: queue.SimpleQueue[str] = queue.SimpleQueue()

    def report(done: float, total: float, text: str) -> None:
        while not notes.empty():  # what the threads noted is told by this one, which has an observer
            log(notes.get())
        if progress:
            progress(done, total, text)

    with Downloader(
        place.bases, tokens=place.tokens, patience=patience, note=notes.put, num_connections=num_downloads
    ) as net:
        fetch = functools.partial(_fetch_shard, net, place, downloads)
        return in_parallel(chosen, fetch, num_downloads=num_downloads, report=report, stop=net.stop)


def _target(file: Listed, downloads: Path) -> Path:
    # sub-folders go into the name: hubs hold default/train/0000.parquet beside default/test/0000.parquet
    return downloads / quote(file.name, safe="")


def _bytes_here(file: Listed, downloads: Path) -> int:
    target = _target(file, downloads)
    return sum(path.stat().st_size for path in (target, target.with_name(f"{target.name}.part")) if path.is_file())


def _fetch_shard(net: Downloader, place: hub.Place, downloads: Path, file: Listed, tell: Progress) -> Shard:
    """One shard, from an earlier attempt when every byte of it is still there."""
    target = _target(file, downloads)
    record = target.with_name(f"{target.name}.record.json")
    try:
        shard = Shard(path=target, **json.loads(record.read_text()))
        if shard.sha256 == sha256_of(target) and file.sha256 in (None, shard.sha256):
            tell(shard.num_bytes, shard.num_bytes)
            return shard
    except (OSError, ValueError, TypeError):
        pass
    if place.filesystem is None:
        wanted = Wanted(
            url=lambda base: f"{base.rstrip('/')}/{quote(file.name)}",
            target=target,
            sha256=file.sha256,
            num_bytes=file.num_bytes,
            check=check_parquet if target.suffix == ".parquet" else None,
        )
        fetched = net.fetch(wanted, tell)
    else:
        fetched = net.places.persist(file.name, lambda root: _copy(place.filesystem, root, file, target))
    shard = Shard(file.name, target, fetched.sha256, fetched.num_bytes, fetched.url or hub.public(place.bases[0]))
    replace(record, json.dumps(shard.entry() | {"url": shard.url}).encode())
    return shard


def _copy(filesystem: Any, root: str, file: Listed, target: Path) -> Fetched:
    """Copy a file of any other filesystem. This does not go on in the middle."""
    path = f"{root}/{file.name}"
    part = target.with_name(f"{target.name}.part")
    try:
        filesystem.get_file(path, str(part))
    except FileNotFoundError as error:
        raise hub.Refused(MissingError(f"{path} does not exist any more")) from error
    except Exception as error:  # each filesystem has exceptions of its own
        raise hub.Failed(f"{path}: {error}") from error
    if file.num_bytes not in (None, part.stat().st_size):
        raise hub.Failed(f"{path}: {part.stat().st_size:,} of {file.num_bytes:,} bytes arrived")
    digest = sha256_of(part)
    if file.sha256 not in (None, digest):
        raise hub.Wrong(f"{path} has sha256 {digest}, {file.sha256} is right")
    part.replace(target)
    return Fetched(digest, target.stat().st_size, str(filesystem.unstrip_protocol(path)))


def check_parquet(path: Path) -> None:
    """A file cut short and a web page have no footer that can be read."""
    try:
        pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise CorruptError(f"is no whole parquet file: {str(error).splitlines()[0]}") from error


def _convert(config: CorpusConfig, downloads: Path) -> list[Shard]:
    """A dataset without parquet shards: let `datasets` read it and write shards from it."""
    import datasets  # slow to import, and only needed here

    dataset = config.dataset
    assert dataset
    folder = downloads / "converted"
    shutil.rmtree(folder, ignore_errors=True)  # of an attempt that was killed
    try:
        stream = datasets.load_dataset(dataset, split="train", streaming=True, revision=config.revision)
        texts = (row[config.text_column] for row in stream if row.get(config.text_column))
        shards.write_shards(texts, folder)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise MissingError(
            f"{dataset} has no file like {config.dataset_files} and `datasets` cannot read it: {error}",
            hint="check corpus.dataset and corpus.dataset_files",
        ) from error
    written = sorted(folder.glob("*.parquet"))
    if not written:
        raise MissingError(f"{dataset} has no rows with a field {config.text_column!r}")
    url = f"datasets:{dataset}"
    return [Shard(path.name, path, sha256_of(path), path.stat().st_size, url) for path in written]


def list_files(path: str | None) -> list[Path]:
    """The readable files of a folder (or of a glob), sorted by name: the last one becomes validation."""
    if not path:
        raise ConfigError("corpus.source = path needs corpus.path", hint="--set corpus.path=FOLDER")
    folder = Path(path).expanduser()
    names = folder.rglob("*") if folder.is_dir() else (Path(name) for name in glob(str(folder), recursive=True))
    files = sorted(name for name in names if name.is_file() and _kind(name) in SUFFIXES)
    if not files:
        seen = "is an empty folder" if folder.is_dir() else "does not exist"
        raise MissingError(f"corpus.path = {path} {seen} or holds no {', '.join(SUFFIXES)} file", hint="check the path")
    return files


def _kind(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix == ".gz" else path.suffix


def _open_files(files: list[Path], config: CorpusConfig, *, fetched: Sequence[Shard] = ()) -> Source:
    if config.source == "path" and config.max_shards and config.max_shards < len(files):
        files = files[: max(1, config.max_shards - 1)] + files[-1:]
    record: dict[str, Any] = {"source": config.source}
    if not fetched:
        record["files"] = [{"name": f.name, "num_bytes": f.stat().st_size} for f in files]
    if len(files) == 1:
        return _split_one(lambda: read_file(files[0], config.text_column), config.validation_docs, record, fetched)

    def train() -> Iterator[str]:
        for file in files[:-1]:
            yield from read_file(file, config.text_column)

    return Source(train, lambda: read_file(files[-1], config.text_column), record, fetched)


def _split_one(
    read: Callable[[], Iterator[str]], validation_docs: int, origin: dict[str, Any], fetched: Sequence[Shard] = ()
) -> Source:
    """Set documents aside at even distances, so that validation resembles the whole file."""
    total = sum(1 for _ in read())
    wanted = min(validation_docs, total // 10) if total >= 10 else min(1, total // 2)
    held_out = {(2 * i + 1) * total // (2 * wanted) for i in range(wanted)}
    return Source(
        lambda: (text for i, text in enumerate(read()) if i not in held_out),
        lambda: (text for i, text in enumerate(read()) if i in held_out),
        origin,
        fetched,
    )


def read_file(path: Path, text_column: str) -> Iterator[str]:
    """Documents of one parquet, jsonl (one object a line) or txt file (the whole file is one document)."""
    kind = _kind(path)
    if kind not in SUFFIXES:
        raise ConfigError(f"{path} is no {', '.join(SUFFIXES)} file", hint="choose others by corpus.dataset_files")
    if kind == ".parquet":
        file = shards.open_parquet(path, column=text_column)
        for group in range(file.num_row_groups):
            yield from (found.removeprefix(MARK) for found in shards.read_row_group(path, group, column=text_column))
    elif kind == ".jsonl":
        yield from _read_jsonl(path, text_column)
    else:
        whole = decode(_read_bytes(path), path).replace("\r\n", "\n").strip()
        if whole:
            yield whole


def _read_jsonl(path: Path, text_column: str) -> Iterator[str]:
    for number, line in enumerate(_read_bytes(path).splitlines(), start=1):
        if is_blank(line):
            continue
        found = _field(parse_json(line, path, line=number), text_column, where=f"{path}, line {number}")
        if found.strip():
            yield document(found)


def _field(record: Any, text_column: str, *, where: str) -> str:
    """The text of a record; "" where it is null, as a missing value of a parquet column is."""
    if not isinstance(record, dict):
        raise MissingError(f"{where} is a {type(record).__name__}, not an object", hint="one JSON object a line")
    if text_column not in record:
        raise MissingError(
            f"{where} has no field {text_column!r}; it has {', '.join(record)}", hint="--set corpus.text_column=NAME"
        )
    value = record[text_column]
    if not isinstance(value, str | None):
        raise MissingError(
            f"{where}: the field {text_column!r} is a {type(value).__name__}, not text",
            hint="--set corpus.text_column=NAME",
        )
    return value or ""


def _read_bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise MissingError(
            f"{path} cannot be read: {error}", hint="check the file, or take it out of the folder"
        ) from error


def _remember(texts: Iterable[str], keys: set[bytes]) -> Iterator[str]:
    for text in texts:
        keys.add(shards.document_key(text))
        yield text


def _limit(texts: Iterable[str], max_bytes: int | None) -> Iterator[str]:
    num_bytes = 0
    for text in texts:
        num_bytes += len(text.encode("utf-8"))
        if max_bytes is not None and num_bytes > max_bytes:
            return
        yield text
