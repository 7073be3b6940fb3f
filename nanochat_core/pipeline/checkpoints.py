"""Where a training's checkpoints live between attempts: in the store's partial folder.

In a store that is a folder the training writes there directly. In a remote one it writes to scratch, and the
supervisor, which has nothing else to do, uploads each whole checkpoint while training goes on; a new machine starts
from the newest uploaded.
"""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nanochat_core.store.partial import Partial

log = logging.getLogger(__name__)
NUM_KEPT = 2


class CheckpointKeeper:
    """Moves checkpoints between a training's folder and the store."""

    def __init__(self, partial: Partial, *, scratch: Path, note: Callable[[str], None]) -> None:
        self.partial, self.note = partial, note
        self.is_remote = partial.folder is None
        self.folder = partial.folder or scratch
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-upload")
        self._pending: list[Future[None]] = []

    def prepare(self) -> Path:
        """The folder to train with, holding the newest checkpoint that there is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.is_remote:
            for name in sorted(self.partial.names(), reverse=True):
                if (self.folder / name).exists() or self.partial.get_folder(name, self.folder / name):
                    break
        found = sorted(path.name for path in self.folder.glob("step-????????"))
        if found:
            self.note(f"going on from the checkpoint of step {int(found[-1].removeprefix('step-')):,}")
        return self.folder

    def on_record(self, record: dict[str, Any]) -> None:
        """Upload a checkpoint as soon as the training says it is whole."""
        if self.is_remote and record["event"] == "checkpoint":
            self._pending.append(self._uploads.submit(self._upload, record["name"]))

    def _upload(self, name: str) -> None:
        try:
            self.partial.put_folder(self.folder / name, name)
            for old in sorted(self.partial.names())[:-NUM_KEPT]:
                self.partial.remove(old)
        except FileNotFoundError:
            log.info("checkpoint %s was replaced by a newer one before its upload", name)

    def finish(self) -> None:
        """Wait for uploads; one that failed is told, and costs nothing now that the training is done."""
        self._uploads.shutdown(wait=True)
        for upload in self._pending:
            if error := upload.exception():
                log.warning("a checkpoint was not uploaded: %s", error)
