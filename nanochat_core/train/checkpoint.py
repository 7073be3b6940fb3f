"""Checkpoints with torch.distributed.checkpoint: whole or absent, and loadable at any number of ranks and nodes.

What every rank holds whole (plain tensors) the first one writes, and reads and hands to the others. What ranks hold in
parts (DTensors) each writes and reads itself, where the ranks share a disk; else it has been gathered (saver.py).

A checkpoint is a folder step-00000120: DCP's shards, state.json (step, loss averages, seconds) and metrics.jsonl so
far. It is written under a .tmp name, described by complete.json (size and sha256 of every file) as its last file, and
renamed. A torn one, by a kill or by lost bytes, fails that description and the one before it is used.

DCP keeps its layout in a pickle; it is read here with an unpickler that knows DCP's own classes only,
by the names that every supported Python gives them.
"""

import hashlib
import io
import json
import os
import platform
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import _MEM_FORMAT_ENCODING, Metadata

from nanochat_core.base import distributed, files
from nanochat_core.base.distributed import World
from nanochat_core.base.errors import CorruptError, UnreadableError
from nanochat_core.base.foreign import NO_VALUES, PlainUnpickler, loads
from nanochat_core.base.records import RECORDS_NAME
from nanochat_core.train import parts

COMPLETE = "complete.json"
STATE = "state.json"
NEEDED = {STATE, ".metadata"}
NUM_KEPT = 2
# Not BytesStorageMetadata: of what it describes DCP loads any pickle, and a checkpoint of ours holds tensors only.
METADATA_CLASSES = (
    "Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
    "StorageMeta", "_MEM_FORMAT_ENCODING",
)  # fmt: skip
WRITTEN_BY = f"Python {platform.python_version()}, torch {torch.__version__}"
State = dict[str, Any]


class TakenOverError(RuntimeError):
    """This training belongs to another driver now."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """What goes into one checkpoint; nothing in it may change while it is written."""

    folder: Path
    step: int
    tensors: Mapping[str, torch.Tensor]
    state: State
    records: bytes
    """metrics.jsonl up to this step."""
    tag: str
    """Names the folder that it is written in: a driver that was taken over may be writing the same step."""
    successor: Path | None = None
    """Where this file exists another driver has taken over: nothing is put into what is now its folder."""
    best_step: int | None = None
    """The checkpoint that did best on what is held out; it is kept beside the last two."""

    @property
    def final(self) -> Path:
        return self.folder / step_name(self.step)


def step_name(step: int) -> str:
    """The folder of the checkpoint after `step` steps."""
    return f"step-{step:08d}"


def save(
    folder: Path,
    step: int,
    tensors: Mapping[str, torch.Tensor],
    *,
    state: State,
    metrics: Path,
    world: World,
    successor: Path | None = None,
    best_step: int | None = None,
) -> Path:
    """Write the checkpoint of plain tensors after `step` steps and wait for it; every rank calls it."""
    draft = Draft(
        folder=folder,
        step=step,
        tensors=tensors,
        state=state,
        records=metrics.read_bytes() if world.is_main else b"",
        tag=str(os.getpid()),
        successor=successor,
        best_step=best_step,
    )
    if world.is_main:
        write(draft)
    distributed.barrier(world)
    return draft.final


def write(draft: Draft, *, group: ProcessGroup | None = None, is_main: bool = True) -> Path:
    """Write a checkpoint, whole or not at all; returns its folder.

    With a process group every rank of it calls this, each with its own parts; without, the first rank alone.
    """
    part = draft.final.with_suffix(f".tmp{draft.tag}")
    if is_main:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True, exist_ok=True)
    writer = dcp.FileSystemWriter(part, per_thread_copy_ahead=0)  # the tensors are in host memory already
    if group is None:
        dcp.save(dict(draft.tensors), storage_writer=writer, no_dist=True)
    else:
        dcp.save(dict(draft.tensors), storage_writer=writer, process_group=group)  # ends when all parts are there
    if is_main:
        _finish(draft, part)
    return draft.final


def _finish(draft: Draft, part: Path) -> None:
    """The description, and the rename that makes it a checkpoint."""
    (part / STATE).write_text(json.dumps({**draft.state, "step": draft.step, "written_by": WRITTEN_BY}))
    (part / RECORDS_NAME).write_bytes(draft.records)
    description = {path.name: describe(path) for path in sorted(part.iterdir())}
    (part / COMPLETE).write_text(json.dumps(description))
    if draft.successor is not None and draft.successor.exists():
        shutil.rmtree(part)
        raise TakenOverError(f"another driver has taken over this training: {draft.successor} exists")
    shutil.rmtree(draft.final, ignore_errors=True)
    files.move(part, draft.final)
    _remove_old(draft.final, best_step=draft.best_step)


def describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"num_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _remove_old(last: Path, *, best_step: int | None) -> None:
    """Keep two and the best; later ones than the last could not be read here, and do not count."""
    best = None if best_step is None else step_name(best_step)
    for old in sorted(path for path in last.parent.glob("step-????????") if path.name <= last.name)[:-NUM_KEPT]:
        if old.name != best:
            shutil.rmtree(old)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    return next((path for path in _newest_first(folder) if is_whole(path)), None)


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-????????"), reverse=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is there with the bytes that were written."""
    return damage(checkpoint) is None


def damage(checkpoint: Path) -> str | None:
    """What is wrong with the bytes of a checkpoint; None: they are those that were written."""
    try:
        description = loads((checkpoint / COMPLETE).read_text())
        names = {path.name for path in checkpoint.iterdir()} - {COMPLETE}
        if not isinstance(description, dict) or set(description) != names or not names >= NEEDED:
            return f"its files are not those that {COMPLETE} names"
        wrong = [name for name, expected in description.items() if describe(checkpoint / name) != expected]
    except (OSError, ValueError, RecursionError) as error:
        return str(error) if isinstance(error, OSError) else f"{error} ({COMPLETE})"
    return f"{wrong[0]} does not hold the bytes that were written" if wrong else None


def load_newest(
    folder: Path, tensors: Mapping[str, torch.Tensor], *, world: World, has_common_disk: bool = True
) -> tuple[Path, State, list[str]] | None:
    """Fill `tensors` on every rank from the first rank's newest readable checkpoint; None where it has none at all.

    Returned beside it: why newer ones were left out. Where there are some and none can be read, that is an error: what
    they cost is not thrown away in silence. Parts are read by their owners where all ranks see the first one's disk,
    else handed out by it.
    """
    found, state, problems = None, None, list[str]()
    whole, sharded = parts.split(tensors)
    if world.is_main:
        for torn in folder.glob("step-*.tmp*"):  # by a kill in mid-write, or by a driver that was taken over
            shutil.rmtree(torn, ignore_errors=True)
        found, state, problems = _load_readable(folder, whole)
    name, state, problems = distributed.from_main((found and str(found), state, problems), world)
    if name is None:
        if not problems:
            return None
        raise UnreadableError(
            f"none of the checkpoints can be read: {'; '.join(problems)}",
            hint="go on with the Python and torch that wrote them, or begin this step anew: --fresh and its name",
        )
    found = Path(name)
    distributed.fill_from_main(whole.values(), world)
    if has_common_disk and sharded:
        load(found, sharded)
    for name, tensor in ({} if has_common_disk else sharded).items():
        full = torch.empty(tensor.shape, dtype=tensor.dtype)
        if world.is_main:
            load(found, {name: full})
        distributed.fill_from_main([full], world)
        parts.fill(tensor, full)
    return found, state, problems


def _load_readable(folder: Path, tensors: Mapping[str, torch.Tensor]) -> tuple[Path | None, State | None, list[str]]:
    """Fill `tensors` from the newest checkpoint that can be read, and say what is wrong with those that cannot."""
    problems = []
    for path in _newest_first(folder):
        if torn := damage(path):
            problems.append(f"{path} is damaged: {torn}")
            continue
        try:
            return path, load(path, tensors), problems
        except CorruptError as error:
            problems.append(error.message)
    return None, None, problems


def newest_state(folder: Path) -> State | None:
    """What the newest whole checkpoint of this process's disk says beside its tensors; None where there is none."""
    found = newest(folder)
    return _state(found) if found is not None else None


def _state(checkpoint: Path) -> State:
    try:
        state: State = loads((checkpoint / STATE).read_text())
    except NO_VALUES as error:
        raise CorruptError(f"{checkpoint} cannot be read: {STATE}: {error}") from error
    if not isinstance(state, dict):
        raise CorruptError(f"{checkpoint} cannot be read: {STATE} holds no state")
    return state


def load(checkpoint: Path, tensors: Mapping[str, torch.Tensor]) -> State:
    """Fill `tensors` in place and return the state; for this process alone."""
    state = _state(checkpoint)
    written_by = state.pop("written_by", "")
    others = f" (written by {written_by}; this is {WRITTEN_BY})" if written_by not in ("", WRITTEN_BY) else ""
    try:
        reader = _Reader(checkpoint, _layout(checkpoint))
    except Exception as error:  # bytes that are no layout raise anything
        what = error.message if isinstance(error, CorruptError) else f"its layout file is none of DCP's: {error!r}"
        raise CorruptError(f"{checkpoint} cannot be read: {what}{others}") from error
    try:
        dcp.load(dict(tensors), storage_reader=reader, no_dist=True)
    except (*NO_VALUES, CheckpointException) as error:
        raise CorruptError(f"{checkpoint} does not fit this model: {_first_cause(error)}{others}") from error
    return state


def _first_cause(error: BaseException) -> str:
    """DCP wraps what happened on each rank; the first rank's own words name the tensor."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Reader(dcp.FileSystemReader):
    """Reads by a layout that has been read already: DCP's own reader would run what a hostile pickle names."""

    def __init__(self, checkpoint: Path, layout: Metadata) -> None:
        super().__init__(checkpoint)
        self._layout = layout

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        return self._layout


def _layout(checkpoint: Path) -> Metadata:
    layout = _LayoutUnpickler(io.BytesIO((checkpoint / ".metadata").read_bytes())).load()
    if not isinstance(layout, Metadata):
        raise CorruptError(f"its layout file holds no layout but {type(layout).__name__}")
    return layout


def _path_of(*parts: str) -> str:
    """Where the checkpoint was written; nobody needs it as a path."""
    return os.path.join("", *parts)


def _member_of(kind: Any, name: str) -> _MEM_FORMAT_ENCODING:
    """Python up to 3.11.3 pickles an enum's member as getattr(class, name), later ones by its value."""
    if kind is not _MEM_FORMAT_ENCODING or name not in _MEM_FORMAT_ENCODING.__members__:
        raise CorruptError(f"its layout file asks for {name!r} of {kind!r}, which no checkpoint of ours does")
    return _MEM_FORMAT_ENCODING[name]


class _LayoutUnpickler(PlainUnpickler):
    """Knows DCP's metadata classes and torch's plain value types by name, nothing else.

    Whole modules may not be allowed: what they import (os, pickle) could be named through them, and protocol 4 resolves
    dotted names. What a name stands for is the same on every Python that may have written it.
    """

    ALLOWED = frozenset(
        {
            *[("torch.distributed.checkpoint.metadata", name) for name in METADATA_CLASSES],
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch", "Size"),
            ("torch", "device"),
            ("torch.serialization", "_get_layout"),
            ("collections", "OrderedDict"),
        }
    )
    STAND_INS = MappingProxyType(
        {
            ("builtins", "getattr"): _member_of,
            ("__builtin__", "getattr"): _member_of,  # protocol 2
            ("pathlib", "Path"): _path_of,
            ("pathlib", "PosixPath"): _path_of,
            ("pathlib._local", "Path"): _path_of,  # Python 3.13
            ("pathlib._local", "PosixPath"): _path_of,
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if stand_in := self.STAND_INS.get((module, name)):
            return stand_in
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.memory_format)
        if (module, name) in self.ALLOWED or is_dtype:
            return self.imported(module, name)
        raise CorruptError(f"its layout file names {module}.{name}, which no checkpoint of ours holds")
