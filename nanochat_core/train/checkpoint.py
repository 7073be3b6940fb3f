"""Checkpoints with torch.distributed.checkpoint: whole or absent, and loadable at any number of ranks and nodes.

What every rank holds whole (plain tensors) the first one writes, and reads and hands to the others. What ranks hold in
parts (DTensors) each writes and reads itself, where the ranks share a disk; else it has been gathered (snapshot.py).

A checkpoint is a folder step-00000120: DCP's shards, state.json (step, loss averages, seconds) and metrics.jsonl so
far. It is written under a .tmp name, described by complete.json (size and sha256 of every file) as its last file, and
renamed. A torn one, by a kill or by lost bytes, fails that description and the one before it is used.

DCP keeps its layout in a pickle; `_SafeMetadataReader` reads it with an unpickler that knows DCP's own classes only.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta

from nanochat_core.base import distributed, files
from nanochat_core.base.distributed import World
from nanochat_core.base.errors import CorruptError
from nanochat_core.base.records import RECORDS_NAME
from nanochat_core.train import parts

COMPLETE = "complete.json"
STATE = "state.json"
NEEDED = {STATE, ".metadata"}
NUM_KEPT = 2
METADATA_CLASSES = (
    "Metadata", "MetadataIndex", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
    "BytesStorageMetadata",
    "StorageMeta", "_MEM_FORMAT_ENCODING",
)  # fmt: skip
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
    writer = dcp.FileSystemWriter(part)
    if group is None:
        dcp.save(dict(draft.tensors), storage_writer=writer, no_dist=True)
    else:
        dcp.save(dict(draft.tensors), storage_writer=writer, process_group=group)  # ends when all parts are there
    if is_main:
        _finish(draft, part)
    return draft.final


def _finish(draft: Draft, part: Path) -> None:
    """The description, and the rename that makes it a checkpoint."""
    (part / STATE).write_text(json.dumps({**draft.state, "step": draft.step}))
    (part / RECORDS_NAME).write_bytes(draft.records)
    description = {path.name: describe(path) for path in sorted(part.iterdir())}
    (part / COMPLETE).write_text(json.dumps(description))
    if draft.successor is not None and draft.successor.exists():
        shutil.rmtree(part)
        raise TakenOverError(f"another driver has taken over this training: {draft.successor} exists")
    shutil.rmtree(draft.final, ignore_errors=True)
    files.move(part, draft.final)
    _remove_old(draft.folder, best_step=draft.best_step)


def describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"num_bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _remove_old(folder: Path, *, best_step: int | None) -> None:
    best = None if best_step is None else step_name(best_step)
    for old in sorted(folder.glob("step-????????"))[:-NUM_KEPT]:
        if old.name != best:
            shutil.rmtree(old)


def newest(folder: Path) -> Path | None:
    """The newest whole checkpoint, or None."""
    whole = (path for path in sorted(folder.glob("step-????????"), reverse=True) if is_whole(path))
    return next(whole, None)


def is_whole(checkpoint: Path) -> bool:
    """Whether every file is there with the bytes that were written."""
    try:
        description = json.loads((checkpoint / COMPLETE).read_text())
        names = {path.name for path in checkpoint.iterdir()} - {COMPLETE}
    except (OSError, ValueError):
        return False
    if not isinstance(description, dict) or set(description) != names or not names >= NEEDED:
        return False
    return all(describe(checkpoint / name) == expected for name, expected in description.items())


def load_newest(
    folder: Path, tensors: Mapping[str, torch.Tensor], *, world: World, has_common_disk: bool = True
) -> tuple[Path, State] | None:
    """Fill `tensors` on every rank from the first rank's newest whole checkpoint; None where it has none.

    Parts are read by their owners where all ranks see the first one's disk, else handed out by it.
    """
    found, state, problem = None, None, None
    whole, sharded = parts.split(tensors)
    if world.is_main:
        for torn in folder.glob("step-*.tmp*"):  # by a kill in mid-write, or by a driver that was taken over
            shutil.rmtree(torn, ignore_errors=True)
    if world.is_main and (found := newest(folder)) is not None:
        try:
            state = load(found, whole)
        except CorruptError as error:
            problem = (error.message, error.hint)
    found, state, problem = distributed.from_main((found, state, problem), world)
    if problem is not None:
        raise CorruptError(problem[0], hint=problem[1])
    if found is None:
        return None
    distributed.fill_from_main(whole.values(), world)
    if has_common_disk and sharded:
        load(found, sharded)
    for name, tensor in ({} if has_common_disk else sharded).items():
        full = torch.empty(tensor.shape, dtype=tensor.dtype)
        if world.is_main:
            load(found, {name: full})
        distributed.fill_from_main([full], world)
        parts.fill(tensor, full)
    return found, state


def newest_state(folder: Path) -> State | None:
    """What the newest whole checkpoint of this process's disk says beside its tensors; None where there is none."""
    found = newest(folder)
    return json.loads((found / STATE).read_text()) if found is not None else None


def load(checkpoint: Path, tensors: Mapping[str, torch.Tensor]) -> State:
    """Fill `tensors` in place and return the state; for this process alone."""
    try:
        dcp.load(dict(tensors), storage_reader=_SafeMetadataReader(checkpoint), no_dist=True)
    except (RuntimeError, ValueError, KeyError, CheckpointException) as error:
        raise CorruptError(
            f"{checkpoint} does not fit this model: {_first_cause(error)}",
            hint="start the step anew: --fresh pretrain",
        ) from error
    state: State = json.loads((checkpoint / STATE).read_text())
    return state


def _first_cause(error: BaseException) -> str:
    """DCP wraps what happened on each rank; the first rank's own words name the tensor."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return (str(error).splitlines() or [type(error).__name__])[0]


class _SafeMetadataReader(dcp.FileSystemReader):
    """Reads DCP's layout file without running what a hostile pickle would name."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        raw = (Path(self.path) / ".metadata").read_bytes()
        metadata = _MetadataUnpickler(io.BytesIO(raw)).load()
        if metadata.storage_meta is None:
            metadata.storage_meta = StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _MetadataUnpickler(pickle.Unpickler):
    """Knows DCP's metadata classes and torch's plain value types by name, nothing else.

    Whole modules may not be allowed: what they import (os, pickle) could be named through them, and protocol 4 resolves
    dotted names.
    """

    ALLOWED = frozenset(
        {
            *[("torch.distributed.checkpoint.metadata", name) for name in METADATA_CLASSES],
            ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
            ("torch", "Size"),
            ("torch", "device"),
            ("torch.serialization", "_get_layout"),
            ("collections", "OrderedDict"),
            ("pathlib", "PosixPath"),
            ("pathlib", "Path"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype | torch.memory_format)
        if (module, name) in self.ALLOWED or is_dtype:
            return super().find_class(module, name)
        raise CorruptError(f"a checkpoint's layout file names {module}.{name}, which no checkpoint of ours holds")
