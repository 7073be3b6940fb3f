"""Where a training's checkpoints live between attempts: in the store's partial folder.

In a store that is a folder the training writes there directly. In a remote one it writes to scratch, and the
supervisor, which has nothing else to do, uploads while training goes on; a new machine starts from the newest
uploaded one. The training keeps its last two only, so a checkpoint is hard-linked aside before its upload, and when
uploads are slower than checkpoints the newest goes next and those between are left out. Kept are the last two and the
one that did best on what is held out.
"""

import fnmatch
import logging
import math
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nanochat_core.base import files
from nanochat_core.base.errors import UnreadableError
from nanochat_core.store.partial import Partial

log = logging.getLogger(__name__)
NUM_KEPT = 2
TIMESHEETS = "timesheets"  # also the name that they are kept under in a remote store
CHECKPOINT = "step-????????"


def step_name(step: int) -> str:
    """The folder of the checkpoint after `step` steps; train/checkpoint.py's name, without loading torch."""
    return f"step-{step:08d}"


class CheckpointKeeper:
    """Moves checkpoints between a training's folder and the store."""

    def __init__(self, partial: Partial, *, scratch: Path) -> None:
        self.partial = partial
        self.is_remote = partial.folder is None
        self.folder = partial.folder or scratch
        self._staging = scratch.with_name("uploading")
        self.timesheet = scratch.with_name(TIMESHEETS) / "timesheet.jsonl"
        self._known: set[str] = set()
        self._expected: str | None = None
        self._best = (math.inf, "")  # loss on what is held out, and the checkpoint that had it
        self._next: Path | None = None
        self._untried: list[str] = []  # names in the store that were not fetched yet, oldest first
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="checkpoint-upload")
        self._pending: list[Future[None]] = []

    def prepare(self) -> Path:
        """The folder to train with, holding the newest checkpoint that there is."""
        self.partial.make_folder(self.folder)
        if self.is_remote:
            shutil.rmtree(self._staging, ignore_errors=True)
            if not self.timesheet.parent.exists():
                self.partial.get_folder(TIMESHEETS, self.timesheet.parent)
            self._untried = self._uploaded()
            self._known = set(self._untried)
            is_here = bool(self._known) and max(self._known) <= max(self._here(), default="")
            if self._known and not is_here and not self.older() and not self._here():
                raise UnreadableError(
                    f"none of the checkpoints in the store is intact: {', '.join(sorted(self._known))}",
                    hint="mend the store, or begin this step anew: --fresh and its name",
                )
        self.timesheet.parent.mkdir(parents=True, exist_ok=True)
        return self.folder

    def _here(self) -> list[str]:
        return [path.name for path in self.folder.glob(CHECKPOINT)]

    def older(self) -> bool:
        """Fetch the newest checkpoint of the store that was not fetched yet; False when there is none."""
        while self._untried:
            name = self._untried.pop()
            shutil.rmtree(self.folder / name, ignore_errors=True)  # what is here under its name was of no use
            if self.partial.get_folder(name, self.folder / name):
                return True
        return False

    def begun(self, step: int) -> None:
        """The training goes on from this step: what is kept of later ones could not be read, and is made again."""
        self._known = {name for name in self._known if name <= step_name(step)}

    def on_record(self, record: dict[str, Any]) -> None:
        """Expect a checkpoint that the training has begun to write; a resumed training repeats its records."""
        loss = record.get("validation_loss")
        if loss is not None and loss < self._best[0]:
            self._best = (loss, step_name(record["step"]))
        if self.is_remote and record["event"] == "checkpoint" and record["name"] not in self._known:
            self._expected = record["name"]  # one is written at a time: an older one is whole, or was replaced
        self.look()

    def look(self) -> None:
        """Queue the expected checkpoint for upload as soon as it is whole, which is when it has its name."""
        name = self._expected
        if name is None or not (self.folder / name).exists():
            return
        self._expected = None
        self._known.add(name)
        staged = self._staging / name
        try:
            shutil.copytree(self.folder / name, staged, copy_function=files.link_or_copy)
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
        if self.timesheet.exists():
            self._keep_timesheet()
        for old in [name for name in self._uploaded() if name <= staged.name][:-NUM_KEPT]:
            if old != self._best[1]:
                self.partial.remove(old)

    def _uploaded(self) -> list[str]:
        """Names of the checkpoints in the store, oldest first."""
        return sorted(name for name in self.partial.names() if fnmatch.fnmatch(name, CHECKPOINT))

    def _keep_timesheet(self) -> None:
        """A copy for another machine: what the attempts cost so far."""
        staged = self._staging / TIMESHEETS
        shutil.copytree(self.timesheet.parent, staged, dirs_exist_ok=True)
        self.partial.put_folder(staged, TIMESHEETS)

    def finish(self) -> None:
        """Wait for the uploads, also when the training was stopped: its last checkpoint is what a new machine needs."""
        self.look()
        if self.is_remote and self.timesheet.exists():
            self._pending.append(self._uploads.submit(self._keep_timesheet))
        self._uploads.shutdown(wait=True)
        for upload in self._pending:
            if error := upload.exception():
                log.warning("a checkpoint was not uploaded: %s", error)
