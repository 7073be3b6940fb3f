"""Where text comes from: one small interface, three sources.

A source yields training documents and validation documents; `build_corpus` writes both as parquet shards. The last
shard (or documents spread over the only one) is validation, and a document that is also in the validation set never
gets into training, so that bits per byte measure what was not seen.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.config import CorpusConfig
from nanochat_core.data import documentation, shards
from nanochat_core.data.hub import fetch_shards

SUFFIXES = (".parquet", ".jsonl", ".txt")


@dataclass(frozen=True)
class Source:
    """Documents of one corpus. Each call starts a new pass in the same order."""

    train: Callable[[], Iterator[str]]
    validation: Callable[[], Iterator[str]]
    origin: dict[str, Any]
    """What the manifest records: names, digests and sizes of what was read."""


def build_corpus(config: CorpusConfig, out: Path, *, downloads: Path, log: Callable[[str], None]) -> dict[str, Any]:
    """Write out/train and out/validation; returns the counts.

    `downloads` keeps what a broken attempt has fetched. Raises MissingError for an empty corpus.
    """
    source = open_source(config, downloads=downloads, log=log)
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
    }


def open_source(config: CorpusConfig, *, downloads: Path, log: Callable[[str], None]) -> Source:
    """The source that `config.source` names."""
    if config.source == "embedded":
        texts = list(documentation.documents())
        return _split_one(
            lambda: iter(texts), config.validation_docs, origin={"source": "embedded", "docs": len(texts)}
        )
    if config.source == "path":
        return _open_files(list_files(config.path), config)
    if not config.dataset:
        raise ConfigError("corpus.source = hub needs corpus.dataset", hint="--set corpus.dataset=owner/name")
    files = fetch_shards(config, downloads=downloads, log=log)
    return _open_files([file.path for file in files], config, origin=[file.record() for file in files])


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


def _open_files(files: list[Path], config: CorpusConfig, *, origin: Any = None) -> Source:
    if config.source == "path" and config.max_shards and config.max_shards < len(files):
        files = files[: max(1, config.max_shards - 1)] + files[-1:]
    record = {
        "source": config.source,
        "files": origin or [{"name": f.name, "num_bytes": f.stat().st_size} for f in files],
    }
    if len(files) == 1:
        return _split_one(lambda: read_file(files[0], config.text_column), config.validation_docs, origin=record)

    def train() -> Iterator[str]:
        for file in files[:-1]:
            yield from read_file(file, config.text_column)

    return Source(train, lambda: read_file(files[-1], config.text_column), record)


def _split_one(read: Callable[[], Iterator[str]], validation_docs: int, *, origin: dict[str, Any]) -> Source:
    """Set documents aside at even distances, so that validation resembles the whole file."""
    total = sum(1 for _ in read())
    wanted = min(validation_docs, total // 10) if total >= 10 else min(1, total // 2)
    held_out = {(2 * i + 1) * total // (2 * wanted) for i in range(wanted)}
    return Source(
        lambda: (text for i, text in enumerate(read()) if i not in held_out),
        lambda: (text for i, text in enumerate(read()) if i in held_out),
        origin,
    )


def read_file(path: Path, text_column: str) -> Iterator[str]:
    """Documents of one parquet, jsonl (one object a line) or txt file (the whole file is one document)."""
    kind = _kind(path)
    if kind not in SUFFIXES:
        raise ConfigError(f"{path} is no {', '.join(SUFFIXES)} file", hint="choose others by corpus.dataset_files")
    if kind == ".parquet":
        file = shards.open_parquet(path, column=text_column)
        for group in range(file.num_row_groups):
            yield from shards.read_row_group(path, group, column=text_column)
    elif kind == ".jsonl":
        yield from _read_jsonl(path, text_column)
    else:
        text = _decode(_read_bytes(path), path, 0).strip()
        if text:
            yield text


def _read_jsonl(path: Path, text_column: str) -> Iterator[str]:
    for number, line in enumerate(_read_bytes(path).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(_decode(line, path, number))
        except (json.JSONDecodeError, RecursionError) as error:
            raise MissingError(f"{path}, line {number} is not JSON: {error}", hint="one JSON object a line") from error
        if not isinstance(record, dict) or not isinstance(record.get(text_column), str):
            seen = ", ".join(record) if isinstance(record, dict) else type(record).__name__
            raise MissingError(
                f"{path}, line {number} has no text field {text_column!r}; it has {seen}",
                hint="--set corpus.text_column=NAME",
            )
        if record[text_column].strip():
            yield without_surrogates(record[text_column])


def _read_bytes(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise MissingError(
            f"{path} cannot be read: {error}", hint="check the file, or take it out of the folder"
        ) from error


def without_surrogates(text: str) -> str:
    """JSON can spell half of a surrogate pair, which no UTF-8 can hold: it becomes U+FFFD."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _decode(raw: bytes, path: Path, line: int) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        where = f", line {line}" if line else ""
        raise MissingError(
            f"{path}{where} is not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}",
            hint=f"convert it: iconv -f latin1 -t utf-8 {path.name}",
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
