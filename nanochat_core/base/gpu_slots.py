"""One run per GPU: a file for each GPU of the machine, locked by whoever computes on it.

The kernel takes a lock back when its holder ends, however it ends. The ranks' parent inherits it: the slot of a driver
that was killed is free when its ranks have saved and gone, not before. The files are the machine's and not a home's,
so that two users do not take the same GPU; a restart of the machine empties the folder.

Who waits leaves a file too, locked as well, and nobody takes a GPU that somebody wants who came earlier: a run that
wants all of them gets them, instead of waiting for ever behind runs that want one. All or none are taken, so two runs
never wait for each other.
"""

import contextlib
import json
import logging
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nanochat_core.base import locks
from nanochat_core.base.errors import HardwareError
from nanochat_core.base.gpus import Gpu, visible

log = logging.getLogger(__name__)
FOLDER = "NANOCHAT_GPU_SLOTS"  # another folder than the machine's: for containers that share GPUs, and for tests
SHARED_MEMORY = Path("/dev/shm")  # of all users, and empty after a restart, as locks are
OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
POLL_S = 1.0
SHOWN_CHARS = 200  # of what another process has written


@dataclass(frozen=True)
class Slots:
    """The GPUs of a step: what its children inherit."""

    environment: dict[str, str] = field(default_factory=dict)
    files: tuple[int, ...] = ()


_current: ContextVar[Slots] = ContextVar("slots", default=Slots())  # noqa: B039 (nobody changes it)


def current() -> Slots:
    """What a child that computes for the current step is given."""
    return _current.get()


@contextlib.contextmanager
def taken(num: int, *, owner: str, on_wait: Callable[[str], None], note: Callable[[str], None]) -> Iterator[None]:
    """Within the block `num` of the GPUs that this process sees are its own, and its children see no others.

    Waits while they are in use, and calls `on_wait` about once a second with who has them; it may raise to stop
    waiting. `note` hears it when that changes, and in the end which ones it got. Nothing happens where there is no GPU.
    HardwareError where there are fewer.
    """
    gpus = visible() if num else []
    if not gpus:
        yield
        return
    if len(gpus) < num and gpus[0].variable is not None:
        raise HardwareError(
            f"{num} processes want a GPU each, and this machine shows {len(gpus)}",
            hint=f"--set runtime.num_processes={len(gpus)}",
        )
    with contextlib.ExitStack() as held:
        own = _got(_Asking(gpus, min(num, len(gpus)), owner), held, _told_once(on_wait, note))
        if own:
            note(f"on {', '.join(gpu.name for gpu in own)}, of {len(gpus)} here")
        names = [gpu.variable for gpu in own if gpu.variable is not None]
        environment = {"CUDA_VISIBLE_DEVICES": ",".join(names)} if names else {}
        token = _current.set(Slots(environment, tuple(slot.file for slot in own.values())))
        try:
            yield
        finally:
            _current.reset(token)


def _told_once(on_wait: Callable[[str], None], note: Callable[[str], None]) -> Callable[[str], None]:
    told = ""

    def on_reason(reason: str) -> None:
        nonlocal told
        if reason != told:
            told = reason
            note(reason)
        on_wait(reason)

    return on_reason


@dataclass(frozen=True)
class _Asking:
    gpus: Sequence[Gpu]
    num: int
    owner: str

    @property
    def words(self) -> dict[str, Any]:
        """What others read."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return {"owner": self.owner, "since": since, "num": self.num, "gpus": [gpu.uuid for gpu in self.gpus]}


class _Slot:
    """An open file of the folder."""

    def __init__(self, path: Path, file: int | None = None) -> None:
        self.path = path
        self.file = _opened(path) if file is None else file

    def is_taken(self) -> bool:
        """Take it; False where somebody else holds it."""
        try:
            locks.take(self.file, self.path)
        except locks.HeldError:
            return False
        return True

    def write(self, words: dict[str, Any]) -> None:
        os.truncate(self.file, 0)
        os.pwrite(self.file, json.dumps(words).encode() if words else b"", 0)

    def read(self) -> dict[str, Any]:
        """What its holder has written; empty while nobody has."""
        with contextlib.suppress(ValueError):
            words = json.loads(os.pread(self.file, 1 << 16, 0))
            return words if isinstance(words, dict) else {}
        return {}

    def give_back(self) -> None:
        with contextlib.suppress(OSError):
            self.write({})
        os.close(self.file)


def _got(asking: _Asking, held: contextlib.ExitStack, on_wait: Callable[[str], None]) -> dict[Gpu, _Slot]:
    """The slots, one for each GPU that was got; `held` gives them back. None where the folder is of no use."""
    try:
        return _wait(_folder(), asking, held, on_wait)
    except OSError as error:
        log.warning("GPUs cannot be shared out here (%s): another run may be on the same one", error)
        return {}


def _wait(
    folder: Path, asking: _Asking, held: contextlib.ExitStack, on_wait: Callable[[str], None]
) -> dict[Gpu, _Slot]:
    with _ticket(folder, asking) as own:
        while True:
            before = _earlier(folder, own)
            spoken_for = {uuid for words in before for uuid in words.get("gpus", ())}
            got = _take([gpu for gpu in asking.gpus if gpu.uuid not in spoken_for], asking.num, folder)
            if got:
                for slot in got.values():
                    held.callback(slot.give_back)
                    slot.write(asking.words)
                return got
            on_wait(_reason(asking, folder, before))
            time.sleep(POLL_S * random.uniform(0.5, 1.5))  # two that look at once do not do so for ever


def _take(gpus: Sequence[Gpu], num: int, folder: Path) -> dict[Gpu, _Slot]:
    """All of them or none."""
    got: dict[Gpu, _Slot] = {}
    for gpu in gpus:
        slot = _Slot(folder / f"{_file_name(gpu)}.json")
        if slot.is_taken():
            got[gpu] = slot
        else:
            os.close(slot.file)
        if len(got) == num:
            return got
    for slot in got.values():
        os.close(slot.file)
    return {}


@contextlib.contextmanager
def _ticket(folder: Path, asking: _Asking) -> Iterator[Path]:
    """A place in the queue, which lasts as long as the block, or this process."""
    name = f"{time.time_ns():020d}-{os.getpid()}"
    slot, place = _Slot(folder / f"new-{name}"), folder / f"wait-{name}"
    try:
        slot.is_taken()
        slot.write(asking.words)
        slot.path.rename(place)  # now it can be seen, and is locked already
        yield place
    finally:
        place.unlink(missing_ok=True)
        os.close(slot.file)


def _earlier(folder: Path, own: Path) -> list[dict[str, Any]]:
    """What those asked for who came before and still wait."""
    found = []
    for path in sorted(folder.glob("wait-*")):
        if path.name >= own.name:
            break
        with contextlib.suppress(OSError):  # it has just got what it wanted
            other = _Slot(path, os.open(path, OPEN))
            try:
                if other.is_taken():
                    path.unlink()  # its process is gone
                else:
                    found.append(other.read())
            finally:
                os.close(other.file)
    return found


def _reason(asking: _Asking, folder: Path, before: Sequence[dict[str, Any]]) -> str:
    """Who has the GPUs, and who comes first."""
    told = []
    for gpu in asking.gpus:
        slot = _Slot(folder / f"{_file_name(gpu)}.json")
        if words := slot.read():
            told.append(f"{gpu.name} has {_told(words)}")
        os.close(slot.file)
    queue = [f"{_told(words)} waits for {words.get('num')}" for words in before]
    first = f"; before it {', '.join(queue)}" if queue else ""
    return f"waits for {asking.num} of {len(asking.gpus)} GPUs: {', '.join(told) or 'they are about to be free'}{first}"


def _told(words: dict[str, Any]) -> str:
    with contextlib.suppress(ValueError, TypeError):
        since = datetime.fromisoformat(words["since"])
        return f"{' '.join(str(words['owner']).split())[:SHOWN_CHARS]} since {since:%H:%M} UTC"
    return "another process"


def _file_name(gpu: Gpu) -> str:
    return gpu.uuid.replace("/", "_")  # the older form of a MIG instance's


def _folder() -> Path:
    shared = SHARED_MEMORY if SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())
    folder = Path(os.environ.get(FOLDER) or shared / "nanochat-gpus")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(parents=True)
        folder.chmod(0o1777)  # of everybody on the machine, as /tmp
    return folder


def _opened(path: Path) -> int:
    """The file, made where it is not there. Never with O_CREAT where it is: in such a folder the kernel refuses it for
    another user's file (fs.protected_regular)."""
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, OPEN)
    with contextlib.suppress(FileExistsError):
        descriptor = os.open(path, OPEN | os.O_CREAT | os.O_EXCL, 0o666)
        os.fchmod(descriptor, 0o666)  # whatever the umask
        return descriptor
    return os.open(path, OPEN)
