"""What a run may choose of its text: one source or several, with weights, and phases of the schedule.

A part of config.py, in no key by itself for the same reason: every value is in the keys that it decides.
"""

from dataclasses import dataclass, field
from typing import Literal

from nanochat_core.base.neutral import later


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Where the text of one source comes from."""

    source: Literal["embedded", "path", "hub"] = "embedded"
    """embedded: the documentation of what is installed. path: your files. hub: a Hugging Face dataset."""
    path: str | None = None
    """source = path: a file, a folder or a pattern of .parquet, .jsonl, .json, .txt or .md files, but parquet packed or
    not (.gz, .bz2, .xz, .zst). Files named valid, val, dev, test are validation, else the last is (docs/data.md)."""
    dataset: str | None = None
    """source = hub: a Hugging Face dataset ("owner/name"), or a URL or folder that holds shards in its layout."""
    revision: str | None = None
    """source = hub: branch, tag or commit of the dataset; None: its main branch as it was when first fetched."""
    dataset_files: str = "*.parquet"
    """source = hub: which files of the dataset are shards, as a glob."""
    mirrors: str | None = None
    """source = hub: further web addresses, separated by commas, below which the same shards are; tried in turn."""
    digests_file: str | None = None
    """source = hub: the sha256 that each shard must have: a file of lines "<sha256>  <name>", or an earlier corpus's
    shards.json. It says which shards there are, so no listing is asked for."""
    text_column: str = "text"
    """The field or column that holds the text; of one in another, with a dot: content.body."""
    licence: str | None = later(None)
    """On what terms the text may be used; None: as its folder or catalogue says, else unknown. Makes nothing anew."""
    origin: str | None = later(None)
    """Where the text is from, in words; None: the name of the data set or the files."""
    max_shards: int | None = None
    """Take only the first shards plus the last one (validation)."""
    max_bytes: int | None = None
    """Stop the training text after this many bytes of UTF-8."""
    validation_docs: int = 160
    """Where no file is validation: this many documents (a tenth at most), spread over all, are."""


@dataclass(frozen=True, kw_only=True)
class SourceConfig(TextConfig):
    """One of several sources. It may say all that `corpus` may; one that says no place is what `corpus` says."""

    name: str
    """Letters, digits, - and _; its files, tokens and figures are called so."""
    weight: float = 1.0
    """Its share of the tokens that are trained on, against the others' weights; 0: it is left out."""
    repeats: float = 4.0
    """It is gone through so often at most; weights that ask for more are refused. To four times its text teaches
    nearly as well as new text does (arXiv 2305.16264)."""
    max_tokens: int | None = None
    """Only so many of its tokens are trained on, however often; None: all."""


@dataclass(frozen=True, kw_only=True)
class CorpusConfig(TextConfig):
    """Where the text comes from."""

    sources: tuple[SourceConfig, ...] = later(())
    """Several sources in the place of one: `[[corpus.sources]]` in a file (docs/data.md)."""


@dataclass(frozen=True, kw_only=True)
class PhaseConfig:
    """A part of the pretraining's schedule, one after the other."""

    name: str
    """Letters, digits, - and _."""
    share: float | None = None
    """Of the steps; None: what the others leave."""
    weights: dict[str, float] = field(default_factory=dict, hash=False)
    """Source = weight; a source that is not named is left out. Of none at all: the weights of the sources."""
