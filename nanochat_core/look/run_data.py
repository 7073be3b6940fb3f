"""The artifacts of one run that hold what it learns from, fetched when they are looked at."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanochat_core.base.errors import MissingError
from nanochat_core.record.runs import LATEST, resolve_run
from nanochat_core.store.manifest import LOG_FOLDER, Artifact
from nanochat_core.store.store import Store, run_artifacts

if TYPE_CHECKING:
    from nanochat_core.tokenizer.tokenizer import Tokenizer

SPLITS = ("train", "validation")
REMOVED, NEAR = "removed", "near"  # folders of a step that cleans (data/cleaning.py)


@dataclass
class RunData:
    """What a run was made of."""

    store: Store
    run_id: str
    artifacts: dict[str, Artifact]
    """By step, in the run's order."""
    attempts: Mapping[str, Path] = field(default_factory=dict)
    """Of trainings that are not done (unfinished.py): where each writes its log."""
    _folders: dict[tuple[str, str], Path] = field(default_factory=dict)
    _tokenizer: "Tokenizer | None" = None

    @classmethod
    def open(cls, store: Store, run: str = LATEST) -> "RunData":
        """The artifacts of a run that are still there; MissingError where it has none."""
        run_id = resolve_run(store, run)
        named = run_artifacts(store.run(run_id))
        found = {step: artifact for step, key in named if (artifact := store.find(step, key))}
        if not found:
            raise MissingError(f"nothing of {run_id} is in {store.url} any more", hint="nanochat runs list")
        return cls(store, run_id, found)

    def of(self, step: str) -> Artifact:
        """The artifact of a step, or MissingError."""
        if step not in self.artifacts:
            raise MissingError(
                f"{self.run_id} has no {step}, or gc took it", hint=f"it has {', '.join(self.artifacts) or 'nothing'}"
            )
        return self.artifacts[step]

    def text_of(self, step: str) -> Artifact:
        """The corpus, cleaned or not, that a step has read."""
        read = set(self.of(step).inputs.values())
        for artifact in self.artifacts.values():
            if artifact.result_digest in read and has_text(artifact):
                return artifact
        raise MissingError(
            f"the text that {step} of {self.run_id} has read is not in the store any more", hint="run it again"
        )

    @property
    def last_text(self) -> Artifact:
        """The corpus that the run learns from; before there are tokens, what was made last."""
        if "tokens" in self.artifacts:
            return self.text_of("tokens")
        found = [artifact for artifact in self.artifacts.values() if has_text(artifact)]
        if not found:
            raise MissingError(f"{self.run_id} has no text in the store", hint="nanochat runs list")
        return found[-1]

    def folder(self, artifact: Artifact, beginning: str = "") -> Path:
        """A verified folder with those files of an artifact whose names begin so."""
        key = (artifact.digest, beginning)
        if key not in self._folders:
            names = [name for name in artifact.files if name.startswith(beginning)]
            self._folders[key] = self.store.fetch(artifact, names)
        return self._folders[key]

    def log(self, step: str, name: str) -> bytes:
        """A file of the logs that a step left."""
        if step in self.attempts:
            path = self.attempts[step] / name
            if not path.is_file():
                raise MissingError(f"{step} of {self.run_id} has no {name} yet", hint="look again when it has begun")
            return path.read_bytes()
        artifact, file = self.of(step), f"{LOG_FOLDER}/{name}"
        if file not in artifact.files:
            raise MissingError(f"{step} of {self.run_id} has no {name}", hint="a model that was taken was not trained")
        return (self.folder(artifact, file) / file).read_bytes()

    @property
    def tokenizer(self) -> "Tokenizer":
        """The vocabulary of the run."""
        from nanochat_core.tokenizer.tokenizer import Tokenizer

        if self._tokenizer is None:
            self._tokenizer = Tokenizer.load(self.folder(self.of("tokenizer")))
        return self._tokenizer

    def summary(self) -> dict[str, Any]:
        """What there is to look at."""
        metrics = {step: artifact.metrics for step, artifact in self.artifacts.items()}
        texts = {step: _numbers(metrics[step]) for step, artifact in self.artifacts.items() if has_text(artifact)}
        return {
            "run_id": self.run_id,
            "texts": texts,
            "removed": {step: metrics[step].get("removed", {}) for step in self.cleaned},
            "tokens": _numbers(metrics.get("tokens", {})),
            "conversations": _numbers(metrics.get("conversations", {})),
            "trainings": {step: metrics[step].get("num_steps") for step in ("pretrain", "sft") if step in metrics},
        }

    @property
    def cleaned(self) -> list[str]:
        """The steps that took documents out, or could have."""
        prefixes = tuple(f"{folder}/" for folder in (REMOVED, NEAR))
        return [
            step for step, made in self.artifacts.items()
            if any(name.startswith(prefixes) for name in made.files) or "removed" in made.metrics
        ]  # fmt: skip


def has_text(artifact: Artifact) -> bool:
    """Whether it is a corpus."""
    return any(name.startswith("train/") and name.endswith(".parquet") for name in artifact.files)


def _numbers(metrics: Any) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if isinstance(value, int | float)}
