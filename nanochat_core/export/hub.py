"""A model on the Hugging Face hub, as a folder of this machine: `hf:OWNER/NAME`, a folder in it, a revision after @.

huggingface_hub brings it, with its cache (HF_HOME), its token (HF_TOKEN) and its patience; only the files of a model
are asked for. Which commit a branch or tag means is settled once, and goes into the name. What the hub keeps as large
files is named in the cache by its sha256: that is computed again, since a disk may lie where a download did not.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.data.hub import endpoint, hub_token, public
from nanochat_core.data.part import sha256_of

PREFIX = "hf:"
NAME = re.compile(r"([\w.-]+/[\w.-]+)((?:/[\w.-]+)*)(?:@([\w./-]+))?")
FILES = ("model*.safetensors", "*.json", "model_*.pt", "tokenizer.pkl", "README.md", "LICENSE*")
SHA256 = re.compile(r"[0-9a-f]{64}")
MAIN = "main"


@dataclass(frozen=True)
class HubModel:
    """What was asked for, and where it lies now."""

    name: str
    """With the commit."""
    folder: Path


def is_on_hub(model: str) -> bool:
    return model.startswith(PREFIX)


def bring(model: str) -> HubModel:
    """Download what is not in the cache yet; MissingError or CorruptError in a line where that cannot be."""
    match = NAME.fullmatch(model.removeprefix(PREFIX))
    if match is None or ".." in model:
        raise ConfigError(f"{model} is no model of the hub", hint=f"{PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME@REVISION")
    repository, within, revision = match[1], match[2].strip("/"), match[3] or MAIN
    snapshot = _snapshot(repository, within, revision)
    folder = snapshot / within
    if not folder.is_dir():
        raise MissingError(f"{model} has no folder {within}", hint="look at its files on the hub")
    for path in folder.iterdir():
        _check(path)
    return HubModel(f"{PREFIX}{repository}{f'/{within}' if within else ''}@{snapshot.name}", folder)


def _snapshot(repository: str, within: str, revision: str) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    below = f"{within}/" if within else ""
    asked = f"{PREFIX}{repository}@{revision}"
    try:
        return Path(
            huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=[below + name for name in FILES],
                ignore_patterns=[f"{below}*/*"], endpoint=endpoint(), token=hub_token(),
            )
        )  # fmt: skip
    except GatedRepoError as error:
        raise MissingError(
            f"{asked} asks who reads it", hint="accept its terms on its page, and set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise MissingError(f"{repository} has no revision {revision}", hint="a branch, a tag or a commit") from error
    except RepositoryNotFoundError as error:
        raise MissingError(
            f"{asked} is not on {public(endpoint())}", hint="check its name; a private one wants HF_TOKEN"
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:  # ValueError: what is no answer of a hub
        told = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        hint = "the same command goes on where it was; HF_ENDPOINT names a mirror, HF_HOME where a copy lies"
        if "401" in told:
            hint = "HF_TOKEN is not set, or does not open it"
        raise MissingError(f"{asked} cannot be had from {public(endpoint())}: {told}", hint=hint) from error


def _check(path: Path) -> None:
    """CorruptError for a large file with other bytes than the hub's own digest says."""
    blob = path.resolve()
    if SHA256.fullmatch(blob.name) and sha256_of(blob) != blob.name:
        raise CorruptError(f"{path} has other bytes than the hub says", hint=f"remove {blob}, then run the same again")
