"""On what terms a source may be used, and where it is from: as somebody, its folder or a catalogue says, or unknown.

Nothing is concluded here: what is not said is unknown, and whoever publishes weights has to look it up. A catalogue's
entry is its publisher's word about a collection, whose texts have owners of their own.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from nanochat_core.config import CorpusConfig, SftConfig

UNKNOWN = "unknown"
LICENCE = re.compile(r"^licen[cs]e:\s*(\S.*?)\s*$", re.MULTILINE | re.IGNORECASE)
CARD_CHARS, LINE_CHARS = 4000, 80
CLIMBMIX = (
    "CC BY-NC 4.0, for research and development only, by the list of nvidia/ClimbMix, of which it is made "
    "(https://huggingface.co/datasets/nvidia/ClimbMix)"
)
CATALOGUE = {"karpathy/climbmix-400b-shuffle": CLIMBMIX, "nvidia/ClimbMix": CLIMBMIX}
"""Data set -> what its catalogue said in November 2026."""
OF_PACKAGES = "each package's own, of the documentation that is read"


@dataclass(frozen=True)
class Terms:
    """What is recorded of a source."""

    licence: str
    origin: str
    """Without where on this machine it lies."""

    @property
    def is_known(self) -> bool:
        return self.licence != UNKNOWN

    def note(self, what: str, setting: str) -> str:
        """A line for a run."""
        if self.is_known:
            return f"licence of the {what}: {self.licence}"
        return (
            f"licence of the {what}: unknown, and recorded so; --set {setting}=... says it, as a LICENSE beside it does"
        )


def terms(licence: str | None, origin: str | None, *, dataset: str | None = None, path: str | None = None) -> Terms:
    """The terms of a data set or of files: what was said by a setting goes before what is found."""
    found = CATALOGUE.get(dataset or "", UNKNOWN)
    for folder in _folders(path or dataset):
        found = licence_of_folder(folder) if found == UNKNOWN else found
    return Terms(licence or found, origin or dataset or (f"files named {Path(path).name}" if path else UNKNOWN))


def corpus_terms(config: CorpusConfig) -> Terms:
    """Those of a corpus."""
    if config.source == "embedded":
        return Terms(
            config.licence or OF_PACKAGES, config.origin or "documentation of Python and of installed packages"
        )
    if config.source == "path":
        return terms(config.licence, config.origin, path=config.path)
    return terms(config.licence, config.origin, dataset=config.dataset)


def talk_terms(config: SftConfig) -> Terms:
    """Those of conversations, but for what benchmarks add to them."""
    if config.source == "builtin":
        return Terms(OF_PACKAGES, "generated here, from documentation of installed packages")
    if config.source == "path":
        return terms(config.licence, config.origin, path=config.path)
    return terms(None, None, dataset=config.smoltalk)


def _folders(path: str | None) -> list[Path]:
    """The folder that is named, or of the file that is."""
    named = Path(path).expanduser() if path else None
    if named is None or not named.exists():
        return []
    return [named if named.is_dir() else named.parent]


def licence_of_folder(folder: Path) -> str:
    """What the folder's card says, else the first line of its licence file."""
    card, text = folder / "README.md", folder / "LICENSE"
    if card.is_file() and (found := LICENCE.search(card.read_text(encoding="utf-8", errors="replace")[:CARD_CHARS])):
        return found[1][:LINE_CHARS]
    if text.is_file():
        lines = [line.strip() for line in text.read_text(encoding="utf-8", errors="replace").splitlines()]
        return next((line[:LINE_CHARS] for line in lines if line), UNKNOWN)
    return UNKNOWN
