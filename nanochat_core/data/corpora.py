"""Where text comes from: one small interface, three sources.

A source yields training documents and validation documents; `build_corpus` writes both as parquet shards. The last
shard (or documents spread over the only one) is validation, and a document that is also in the validation set never
gets into training, so that bits per byte measure what was not seen. Fetched shards are checked by sha256 as they come
in and when a later attempt finds them again; `shards.json` lists them beside the text, whatever mirror or attempt they
are from. From there on the store answers for every byte: it checks a corpus whenever a step opens it (`store.fetch`).
"""

import functools
import json
import queue
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.base.files import write_whole
from nanochat_core.config import CorpusConfig
from nanochat_core.data import documentation, files, hub, shards, splits
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
from nanochat_core.data.files import LeftOut
from nanochat_core.data.hub import Listed, Patience
from nanochat_core.data.placed import PlacedText
from nanochat_core.data.splits import Split
from nanochat_core.data.texts import unfit
from nanochat_core.data.told import AGAIN, CUT, REPEATED, all_encodings_told, corpus_notes, nothing

KINDS = ("parquet", "jsonl", "json", "txt")
ORIGIN = "log/origin.json"  # with the logs, for what files are called is no part of a result
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
    """Documents of one corpus."""

    split: Split
    origin: dict[str, Any]
    """What the artifact records: names and sizes of what was read."""
    fetched: Sequence[Shard] = ()
    found: files.Found | None = None
    """What a path of the user's means."""


def build_corpus(
    config: CorpusConfig,
    out: Path,
    *,
    downloads: Path,
    log: Log,
    least_bytes: int = 1,
    progress: Report | None = None,
    num_downloads: int = 8,
    patience: Patience | None = None,
) -> dict[str, Any]:
    """Write out/train and out/validation; returns the counts, and for a download where it came from.

    `downloads` keeps what a broken attempt has fetched; `least_bytes` is what the last file must hold to be validation.
    Raises MissingError for an empty corpus.
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
    dropped, held_out, keys = Counter[str](), set[bytes](), array("Q")
    with all_encodings_told((lambda: select(config)) if config.source == "path" else None):
        source = open_source(config, fetch, least_bytes=least_bytes)
        split = source.split
        validation = _remember(split.validation(), held_out)
        validation_docs, validation_bytes = shards.write_shards(validation, out / "validation")
        train = _unseen(split.train(), held_out, dropped, keys if source.found else None)
        train_docs, train_bytes = shards.write_shards(_limit(train, config.max_bytes, dropped), out / "train")
    dropped[AGAIN] = len(keys) - len(np.unique(np.frombuffer(keys, dtype=np.uint64)))
    if not train_docs or not validation_docs:
        raise nothing(split, train_docs, validation_docs, dropped, config)
    (out / ORIGIN).parent.mkdir(exist_ok=True)
    (out / ORIGIN).write_text(json.dumps(source.origin, indent=1, sort_keys=True))
    notes = list(corpus_notes(split, dropped, train_docs, config))
    for text in notes:
        log(text)
    return {
        "train_docs": train_docs,
        "train_bytes": train_bytes,
        "validation_docs": validation_docs,
        "validation_bytes": validation_bytes,
        "validation_is": split.told,
        "empty_docs": split.tally.empty.total(),
        "repeated_docs": dropped[REPEATED],
        "noticed": dict(split.tally.noticed),
        "left_out": [f"{each.name}: {each.reason}" for each in source.found.left_out] if source.found else [],
        "notes": notes,
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


def open_source(config: CorpusConfig, fetch: Callable[[], list[Shard]], *, least_bytes: int = 1) -> Source:
    """The source that `config.source` names; `fetch` brings the shards of one that is elsewhere."""
    if config.source == "embedded":
        pages = list(documentation.pages())
        split = splits.split_documents(lambda: iter(pages), config.validation_docs)
        return Source(split, {"source": "embedded", "docs": len(pages)})
    split_files = functools.partial(
        splits.split_files, column=config.text_column, validation_docs=config.validation_docs, least_bytes=least_bytes
    )
    if config.source == "path":
        found = select(config)
        read = [{"name": path.name, "num_bytes": path.stat().st_size} for path in found.files]
        split = split_files(dict(zip(found.names, found.files, strict=True)), is_published=False)
        return Source(split, {"source": "path", "files": read}, found=found)
    fetched = fetch()
    return Source(split_files({shard.name: shard.path for shard in fetched}), {"source": "hub"}, fetched)


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
    names = splits.limited([file.name for file in chosen], config.max_shards)
    chosen = [file for file in chosen if file.name in names]
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
    write_whole(record, json.dumps(shard.entry() | {"url": shard.url}).encode())
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


def select(config: CorpusConfig) -> files.Found:
    """What corpus.path means: the files to read, sorted by name, and what is left out."""
    found = files.find(config.path, KINDS, setting="corpus.path")
    limited = splits.limited(found.names, config.max_shards)

    def reason(path: Path) -> str | None:
        if found.name(path) not in limited:
            return f"corpus.max_shards = {config.max_shards}"
        return unfit(path, config.text_column) if len(found.files) > 1 else None

    reasons = {path: reason(path) for path in found.files}
    left_out = [LeftOut(found.name(path), why) for path, why in reasons.items() if why]
    kept = [path for path, why in reasons.items() if not why]
    if not kept:
        told = "; ".join(f"{each.name} ({each.reason})" for each in left_out[: files.NAMES_SHOWN])
        raise MissingError(f"corpus.path = {config.path} holds no text: {told}", hint="--set corpus.text_column=NAME")
    return replace(found, files=kept, left_out=[*found.left_out, *left_out])


def notes_of(config: CorpusConfig) -> list[str]:
    """What a person is told of the files each time, made or cached."""
    if config.source != "path":
        return []
    return [note] if (note := files.note_of(select(config), setting="corpus.path")) else []


def least_validation_bytes(found: files.Found, *, sequence_len: int) -> int:
    """What the last file must hold to be validation."""
    return splits.least_bytes(dict(zip(found.names, found.files, strict=True)), sequence_len=sequence_len)


def _remember(documents: Iterable[PlacedText], keys: set[bytes]) -> Iterator[PlacedText]:
    for document in documents:
        keys.add(shards.document_key(document.text))
        yield document


def _limit(documents: Iterable[PlacedText], max_bytes: int | None, dropped: Counter[str]) -> Iterator[PlacedText]:
    num_bytes = 0
    for document in documents:
        num_bytes += len(document.text.encode("utf-8"))
        if max_bytes is not None and num_bytes > max_bytes:
            dropped[CUT] += 1
            return
        yield document


def _unseen(
    documents: Iterable[PlacedText], held_out: set[bytes], dropped: Counter[str], keys: "array[int] | None"
) -> Iterator[PlacedText]:
    """Documents that are not held out; `keys` takes eight bytes of what tells each from others."""
    for document in documents:
        key = shards.document_key(document.text)
        if key in held_out:
            dropped[REPEATED] += 1
        else:
            if keys is not None:
                keys.append(int.from_bytes(key[:8]))
            yield document
