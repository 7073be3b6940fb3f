"""Checkpoints of every Python and torch are read by every other one, and what no one writes is refused.

Those in `checkpoints/` were written by the versions that they are named after (`checkpoints/write.py`).
"""

import io
import json
import pickle
import runpy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    BytesStorageMetadata,
    MetadataIndex,
    TensorProperties,
)

from nanochat_core.base.distributed import World
from nanochat_core.base.errors import CorruptError, UnreadableError
from nanochat_core.train import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
WRITTEN = Path(__file__).parent / "checkpoints"
WRITERS = sorted(path.name for path in WRITTEN.glob("python-*"))
WRITE = runpy.run_path(str(WRITTEN / "write.py"))


def empty() -> dict[str, torch.Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in WRITE["tensors"]().items()}


def folder_of(*writers: str, at: Path) -> Path:
    """A training's folder with checkpoints of these writers, the last one the newest."""
    for number, writer in enumerate(writers):
        shutil.copytree(WRITTEN / writer / "step-00000007", at / checkpoint.step_name(7 + number))
    return at


def describe_anew(path: Path) -> None:
    """Make the description fit, as a hostile writer would."""
    files = [file for file in path.iterdir() if file.name != checkpoint.COMPLETE]
    (path / checkpoint.COMPLETE).write_text(json.dumps({file.name: checkpoint.describe(file) for file in files}))


def read_layout(content: bytes) -> Any:
    return checkpoint._LayoutUnpickler(io.BytesIO(content)).load()


def test_there_are_checkpoints_of_several_pythons_and_torches():
    assert any("python-3.11.2" in name for name in WRITERS), "a Python that pickles enum members by getattr"
    assert any("python-3.13" in name for name in WRITERS), "the Python whose paths are of pathlib._local"
    assert any("torch-2.11.0" in name for name in WRITERS), "the oldest torch"


@pytest.mark.parametrize("writer", WRITERS)
def test_a_checkpoint_of_another_python_and_torch_is_read_bit_for_bit(writer, tmp_path):
    tensors = empty()
    loaded = checkpoint.load_newest(folder_of(writer, at=tmp_path), tensors, world=World())
    assert loaded is not None
    assert loaded[1:] == ({"loss": 1.5, "step": 7}, [])
    for name, expected in WRITE["tensors"]().items():
        assert tensors[name].dtype == expected.dtype
        assert torch.equal(tensors[name], expected)


def test_what_this_python_and_torch_write_is_what_the_others_wrote(tmp_path):
    own = read_layout((WRITE["write"](tmp_path) / ".metadata").read_bytes())
    for writer in WRITERS:
        theirs = read_layout((WRITTEN / writer / "step-00000007/.metadata").read_bytes())
        assert theirs.state_dict_metadata == own.state_dict_metadata
        assert theirs.storage_data.keys() == own.storage_data.keys()


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("writer", WRITERS)
def test_every_protocol_of_the_same_layout_is_read(writer, protocol):
    """Python 3.14 writes 5 where those before it write 4."""
    layout = read_layout((WRITTEN / writer / "step-00000007/.metadata").read_bytes())
    layout.storage_meta.checkpoint_id = Path("/some/where")
    assert read_layout(pickle.dumps(layout, protocol)) == read_layout(pickle.dumps(layout, 4))


@pytest.mark.parametrize("module", ["pathlib", "pathlib._local"])
def test_a_path_is_read_by_the_name_that_any_python_gives_it(module):
    content = f"c{module}\nPosixPath\n(V/some\nVwhere\ntR.".encode()
    assert read_layout(content) == "/some/where"


class Asked:
    """Pickles as getattr(kind, name)."""

    def __init__(self, kind: object, name: object) -> None:
        self.asked = (kind, name)

    def __reduce__(self):
        return getattr, self.asked


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_getattr_gives_members_of_dcps_enum(protocol):
    for member in _MEM_FORMAT_ENCODING:
        assert read_layout(pickle.dumps(Asked(_MEM_FORMAT_ENCODING, member.name), protocol)) is member


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (_MEM_FORMAT_ENCODING, "__class__"),
        (_MEM_FORMAT_ENCODING, "__init_subclass__"),
        (_MEM_FORMAT_ENCODING, "mro"),
        (_MEM_FORMAT_ENCODING, "_member_map_"),
        (_MEM_FORMAT_ENCODING, "TORCH_CONTIGUOUS_FORMAT.name"),
        (_MEM_FORMAT_ENCODING, ["TORCH_CONTIGUOUS_FORMAT"]),
        (_MEM_FORMAT_ENCODING.TORCH_CHANNELS_LAST, "__class__"),
        (TensorProperties, "create_from_tensor"),
        (TensorProperties, "__init__"),
        (torch.Size, "__new__"),
        (Asked(_MEM_FORMAT_ENCODING, "TORCH_CHANNELS_LAST"), "__reduce_ex__"),
        ("text", "format"),
        ({}, "clear"),
    ],
)
def test_getattr_gives_nothing_else(kind, name, protocol):
    with pytest.raises((CorruptError, TypeError)):
        read_layout(pickle.dumps(Asked(kind, name), protocol))


@pytest.mark.parametrize("name", ["getattr.__call__", "setattr", "hasattr", "object", "__import__", "exec"])
def test_nothing_else_of_builtins_may_be_named(name):
    for module in ("builtins", "__builtin__"):
        content = b"\x80\x04" + b"".join(b"\x8c" + bytes([len(t)]) + t.encode() for t in (module, name)) + b"\x93."
        with pytest.raises(CorruptError, match=name):
            read_layout(content)


class Touch:
    """Pickles as a call that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_bytes_in_the_place_of_a_tensor_are_not_unpickled(tmp_path):
    """DCP loads what its layout calls bytes with torch.load, and there any pickle may be."""
    path = folder_of(WRITERS[0], at=tmp_path) / "step-00000007"
    layout = read_layout((path / ".metadata").read_bytes())
    layout.state_dict_metadata["optim.step"] = BytesStorageMetadata()
    hostile = io.BytesIO()
    torch.save(Touch(tmp_path / "mark"), hostile)
    (path / "__0_0.distcp").write_bytes(hostile.getvalue())
    where = next(iter(layout.storage_data.values()))
    where.offset, where.length = 0, len(hostile.getvalue())
    layout.storage_data = {MetadataIndex("optim.step"): where}
    (path / ".metadata").write_bytes(pickle.dumps(layout))
    describe_anew(path)
    with pytest.raises(UnreadableError, match="BytesStorageMetadata"):
        checkpoint.load_newest(tmp_path, {"optim.step": torch.tensor(0)}, world=World())
    assert not (tmp_path / "mark").exists()


def spoil(path: Path, content: bytes) -> None:
    (path / ".metadata").write_bytes(content)
    describe_anew(path)


FOREIGN = pickle.dumps(Asked("text", "format"))
NEWER = b"ctorch.distributed.checkpoint.metadata\nSomethingNewer\n."


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (FOREIGN, "its layout file asks for 'format' of 'text'"),
        (NEWER, "its layout file names torch.distributed.checkpoint.metadata.SomethingNewer"),
        (pickle.dumps({}), "its layout file holds no layout but dict"),
        (b"", "its layout file is none of DCP's: EOFError"),
    ],
)
def test_a_newest_one_that_cannot_be_read_says_why_and_the_one_before_is_used(tmp_path, content, why):
    folder = folder_of(*WRITERS[:2], at=tmp_path)
    state = json.loads((folder / "step-00000008/state.json").read_text())
    (folder / "step-00000008/state.json").write_text(json.dumps({**state, "written_by": "Python 3.19, torch 9.0"}))
    spoil(folder / "step-00000008", content)
    tensors = empty()
    loaded = checkpoint.load_newest(folder, tensors, world=World())
    assert loaded is not None
    found, _, (problem,) = loaded
    assert found == folder / "step-00000007"
    assert torch.equal(tensors["optim.step"], torch.tensor(7))
    assert problem.startswith(f"{folder / 'step-00000008'} cannot be read: {why}")
    assert "written by Python 3.19, torch 9.0; this is Python 3." in problem


def test_one_of_another_model_is_not_called_unreadable(tmp_path):
    folder = folder_of(WRITERS[0], at=tmp_path)
    with pytest.raises(UnreadableError, match=r"does not fit this model: .*optim.step"):
        checkpoint.load_newest(folder, {"optim.step": torch.zeros(3)}, world=World())


def test_where_none_can_be_read_the_training_does_not_begin_anew(tmp_path):
    folder = folder_of(*WRITERS[:2], at=tmp_path)
    spoil(folder / "step-00000008", FOREIGN)
    (folder / "step-00000007/state.json").unlink()
    with pytest.raises(UnreadableError) as error:
        checkpoint.load_newest(folder, empty(), world=World())
    assert "step-00000008 cannot be read" in error.value.message
    assert "step-00000007 is damaged" in error.value.message
    assert "--fresh" in (error.value.hint or "")


def test_without_any_checkpoint_a_training_begins(tmp_path):
    (tmp_path / "step-00000007.tmp12").mkdir()  # a kill in the middle of the first one
    assert checkpoint.load_newest(tmp_path, empty(), world=World()) is None
    assert checkpoint.load_newest(tmp_path / "absent", empty(), world=World()) is None


def test_one_that_could_not_be_read_takes_no_place_of_those_that_can(tmp_path):
    folder = folder_of(*WRITERS[:3], at=tmp_path)
    spoil(folder / "step-00000009", FOREIGN)
    (folder / "step-00000009").rename(folder / "step-00000099")
    for step in (8, 10):
        metrics = folder / "metrics.jsonl"
        metrics.write_text("")
        checkpoint.save(folder, step, WRITE["tensors"](), state={}, metrics=metrics, world=World())
    assert sorted(path.name[-2:] for path in folder.glob("step-*")) == ["08", "10", "99"]
