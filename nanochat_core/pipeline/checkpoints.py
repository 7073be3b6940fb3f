"""Where a training's checkpoints live between attempts: in the store's partial folder.

In a store that is a folder the training writes there directly. In a remote one it writes to scratch, and the
supervisor, which has nothing else to do, uploads while training goes on; a new machine starts from the newest
uploaded one. The training keeps its last two only, so a checkpoint is hard-linked aside before its upload, and when
uploads are slower than checkpoints the newest goes next and those between are left out.
"""

import logging
import os
import shutil
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
        self._staging = scratch.with_name("uploading")
        self._known: set[str] = set()
        self._next: Path | None = None
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-upload")
        self._pending: list[Future[None]] = []

    def prepare(self) -> Path:
        """The folder to train with, holding the newest checkpoint that there is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.is_remote:
            shutil.rmtree(self._staging, ignore_errors=True)
            self._known = set(self.partial.names())
            for name in sorted(self._known, reverse=True):
                if (self.folder / name).exists() or self.partial.get_folder(name, self.folder / name):
                    break
        found = sorted(path.name for path in self.folder.glob("step-????????"))
        if found:
            self.note(f"going on from the checkpoint of step {int(found[-1].removeprefix('step-')):,}")
        return self.folder

    def on_record(self, record: dict[str, Any]) -> None:
        """Queue a checkpoint for upload as soon as the training says that it is whole; a resumed one repeats itself."""
        if not self.is_remote or record["event"] != "checkpoint" or record["name"] in self._known:
            return
        self._known.add(record["name"])
        staged = self._staging / record["name"]
        try:
            shutil.copytree(self.folder / record["name"], staged, copy_function=os.link)
        except (FileNotFoundError, shutil.Error):
            shutil.rmtree(staged, ignore_errors=True)  # a newer one has taken its place already
            return
        self._next, passed_over = staged, self._next
        if passed_over is not None:
            shutil.rmtree(passed_over, ignore_errors=True)
        self._pending.append(self._uploads.submit(self._upload))

    def _upload(self) -> None:
        staged, self._next = self._next, None
        if staged is None:
            return
        self.partial.put_folder(staged, staged.name)
        shutil.rmtree(staged, ignore_errors=True)
        for old in sorted(self.partial.names())[:-NUM_KEPT]:
            self.partial.remove(old)

    def finish(self) -> None:
        """Wait for the uploads, also when the training was stopped: its last checkpoint is what a new machine needs."""
        self._uploads.shutdown(wait=True)
        for upload in self._pending:
            if error := upload.exception():
                log.warning("a checkpoint was not uploaded: %s", error)
