"""Where the rows of benchmarks come from: the hub, or a folder that holds the same data sets.

In a folder a split is FOLDER/SUBSET/SPLIT.jsonl (or .json, packed or not), or parquet files as the hub names them
(FOLDER/SUBSET/SPLIT-00000-of-00001.parquet); FOLDER is short (gsm8k) or the hub's name (openai/gsm8k, gsm8k).
"""

from dataclasses import dataclass, field
from pathlib import Path

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.data import words as word_lists
from nanochat_core.data.files import kind_of, listing
from nanochat_core.data.rows import FileRows, Rows, open_dataset


@dataclass(frozen=True)
class Dataset:
    """A data set by its names on the hub and in a folder."""

    hub: str
    folder: str
    subset: str
    """The hub's configuration; in a folder a level below, which may be left out."""


@dataclass(frozen=True)
class Source:
    """The data sets of one run. `path` None: the hub."""

    path: Path | None = None
    is_offline: bool = False
    """No data sets at all: only what is generated from the documentation's words."""
    origins: dict[str, str] = field(default_factory=dict)
    """What was opened, for the record: "openai/gsm8k main test" -> the commit or the files."""

    def rows(self, dataset: Dataset, split: str) -> Rows:
        """One split of a data set."""
        key = f"{dataset.hub} {dataset.subset} {split}"
        if self.is_offline:
            raise ConfigError(
                f"{dataset.hub} is wanted, but benchmarks.source = none",
                hint="--set benchmarks.source=hub, or path with benchmarks.path=FOLDER",
            )
        if self.path is None:
            revision = _revision(dataset.hub)
            self.origins[key] = revision or "unknown commit"
            return open_dataset(dataset.hub, subset=dataset.subset, split=split, revision=revision)
        files = _files(self.path, dataset, split)
        self.origins[key] = ", ".join(str(file.relative_to(self.path)) for file in files)
        return FileRows(files)

    def words(self) -> word_lists.Words:
        """Words to spell: the folder's own list, the hub users' list, or the documentation's words."""
        if self.path is not None and (self.path / word_lists.FILE_NAME).is_file():
            words = word_lists.words_of_file(self.path / word_lists.FILE_NAME)
        elif self.path is None and not self.is_offline:
            words = word_lists.words_of_url()
        else:
            words = word_lists.words_of_documentation()
        self.origins["words"] = words.origin
        return words


def open_source(kind: str, path: str | None) -> Source:
    """The source that `benchmarks.source` and `benchmarks.path` name."""
    if kind == "none":
        return Source(is_offline=True)
    if kind == "hub":
        return Source()
    if not path:
        raise ConfigError("benchmarks.source = path needs benchmarks.path", hint="--set benchmarks.path=FOLDER")
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise MissingError(f"benchmarks.path = {path} is no folder", hint="check the path")
    return Source(folder)


def _files(root: Path, dataset: Dataset, split: str) -> list[Path]:
    """The files of a split, in the first of the places that has any; of several kinds the first."""
    unread: list[str] = []
    for folder in dict.fromkeys((dataset.folder, dataset.hub.split("/")[-1], dataset.hub)):
        for place in (root / folder / dataset.subset, root / folder):
            named = [path for path in sorted(place.glob("*")) if _is_of(path.name.lower(), split)]
            for kind in ("jsonl", "json", "parquet"):
                if files := [path for path in named if kind_of(path) == kind and path.is_file()]:
                    return files
            unread += [str(path) for path in named]
    seen = f"; not read: {listing(unread)}" if unread else ""
    raise MissingError(
        f"there is no {root / dataset.folder / dataset.subset / split}.jsonl{seen}",
        hint=f"it holds the rows of {dataset.hub} ({dataset.subset}, {split}); its parquet files will do as well",
    )


def _is_of(name: str, split: str) -> bool:
    return name.partition(".")[0] == split or name.startswith(f"{split}-")


def _revision(hub_name: str) -> str | None:
    """The commit that the hub's main branch is at; None without a network (the cache may still have the data)."""
    import huggingface_hub

    try:
        return huggingface_hub.dataset_info(hub_name, timeout=10).sha
    except Exception:  # the HTTP client has exceptions of its own; whether the data can be had, load_dataset will say
        return None
