"""Checkpoints are whole or absent, fit their model or are refused, and run nobody's code."""

import io
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from nanochat_core.base.distributed import World
from nanochat_core.base.errors import CorruptError
from nanochat_core.config import GPTConfig
from nanochat_core.model.gpt import GPT
from nanochat_core.train import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
CONFIG = GPTConfig(sequence_len=32, vocab_size=70, n_layer=2, n_head=2, n_kv_head=1, n_embd=32)
FILES = ("complete.json", "state.json", "metrics.jsonl", ".metadata", "__0_0.distcp")


def _tensors(seed, config=CONFIG):
    model = GPT(config)
    generator = torch.Generator().manual_seed(seed)
    return {f"model.{name}": torch.randn(p.shape, generator=generator) for name, p in model.named_parameters()} | {
        "optim.step": torch.tensor(seed)
    }


def _empty(config=CONFIG):
    return {name: torch.zeros_like(tensor) for name, tensor in _tensors(0, config).items()}


def _save(folder, step):
    metrics = folder / "metrics.jsonl"
    metrics.parent.mkdir(parents=True, exist_ok=True)
    metrics.write_text(json.dumps({"event": "step", "step": step}) + "\n")
    return checkpoint.save(folder, step, _tensors(step), state={"loss": 1.5 + step}, metrics=metrics, world=World())


def _load(path, tensors=None):
    tensors = _empty() if tensors is None else tensors
    return tensors, checkpoint.load(path, tensors)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checkpoints")
    _save(folder, 10)
    _save(folder, 20)
    return folder


@pytest.fixture
def folder(two, tmp_path):
    return Path(shutil.copytree(two, tmp_path / "checkpoints"))


def test_what_is_saved_is_loaded_bit_for_bit(folder):
    tensors, state = _load(checkpoint.newest(folder))
    assert state == {"loss": 21.5, "step": 20}
    assert tensors.keys() == _tensors(20).keys()
    assert all(torch.equal(tensors[name], value) for name, value in _tensors(20).items())


def test_a_checkpoint_holds_the_files_that_these_tests_damage(folder):
    assert sorted(path.name for path in (folder / "step-00000020").iterdir()) == sorted(FILES)


def _delete(path):
    path.unlink()


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def _empty_out(path):
    path.write_bytes(b"")


def _zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def _extend(path):
    path.write_bytes(path.read_bytes() + b"x")


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [_delete, _truncate, _empty_out, _zero, _extend, _flip])
@pytest.mark.parametrize("name", FILES)
def test_the_one_before_is_used_when_any_file_is_damaged(folder, name, damage):
    damage(folder / "step-00000020" / name)
    assert checkpoint.newest(folder) == folder / "step-00000010"


@pytest.mark.parametrize("content", ["{}", "[]", "null", "3", '{"state.json": null}'])
def test_a_description_that_describes_nothing_makes_nothing_whole(folder, content):
    (folder / "step-00000020" / "complete.json").write_text(content)
    assert checkpoint.newest(folder) == folder / "step-00000010"


def test_every_bit_of_the_description_counts(folder):
    path = folder / "step-00000020" / "complete.json"
    content = path.read_bytes()
    for position in range(0, len(content), 3):
        for bit in (1, 32):
            damaged = bytearray(content)
            damaged[position] ^= bit
            path.write_bytes(bytes(damaged))
            assert checkpoint.newest(folder) == folder / "step-00000010", (position, bit)


def test_without_a_whole_one_there_is_none(folder, tmp_path):
    for path in folder.glob("step-*"):
        (path / "state.json").unlink()
    assert checkpoint.newest(folder) is None
    assert checkpoint.newest(tmp_path / "absent") is None


def test_one_that_was_being_written_is_no_checkpoint(folder):
    (folder / "step-00000020").rename(folder / "step-00000030.tmp77")  # of a process that was killed
    assert checkpoint.newest(folder) == folder / "step-00000010"
    found = checkpoint.load_newest(folder, _empty(), world=World())
    assert found is not None
    assert found[0] == folder / "step-00000010"
    assert not list(folder.glob("*.tmp*"))
    _save(folder, 30)
    assert checkpoint.newest(folder) == folder / "step-00000030"
    assert not list(folder.glob("*.tmp*"))


def test_nothing_is_saved_into_the_folder_of_a_driver_that_took_over(folder, tmp_path):
    (tmp_path / "00000002.json").write_text("{}")
    metrics = folder / "metrics.jsonl"
    with pytest.raises(checkpoint.TakenOverError):
        checkpoint.save(
            folder, 40, _tensors(40), state={}, metrics=metrics, world=World(), successor=tmp_path / "00000002.json"
        )
    assert checkpoint.newest(folder) == folder / "step-00000020"
    assert not list(folder.glob("*.tmp*"))


def test_two_are_kept_and_the_same_step_may_be_saved_again(folder):
    _save(folder, 20)
    _save(folder, 30)
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000020", "step-00000030"]
    assert _load(checkpoint.newest(folder))[1]["step"] == 30


@pytest.mark.parametrize("change", [{"n_layer": 3}, {"n_layer": 1}, {"n_embd": 64}, {"vocab_size": 140}])
def test_another_architecture_is_refused(folder, change):
    other = GPTConfig(**{**vars(CONFIG), **change})
    with pytest.raises(CorruptError) as error:
        _load(folder / "step-00000020", _empty(other))
    assert "model." in error.value.message, "the message names a tensor that differs"


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(5), pickle.dumps({"a": 1})])
def test_a_layout_file_that_is_none_is_refused(folder, content):
    (folder / "step-00000020" / ".metadata").write_bytes(content)
    with pytest.raises(CorruptError):
        _load(folder / "step-00000020")


def _call(module, name, argument, *, protocol):
    """The pickle of `module.name(argument)`, written by hand so that dotted names can be tried."""
    if protocol < 4:
        return f"c{module}\n{name}\n(V{argument}\ntR.".encode()
    text = b"".join(b"\x8c" + bytes([len(part)]) + part.encode() for part in (module, name))
    return b"\x80\x04" + text + b"\x93(" + b"\x8c" + bytes([len(argument)]) + argument.encode() + b"tR."


@pytest.mark.parametrize("protocol", [0, 4])
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("subprocess", "getoutput"),
        ("torch.distributed.checkpoint.filesystem", "os.system"),
        ("torch.distributed.checkpoint.metadata", "os.system"),
        ("torch.distributed.checkpoint.filesystem", "io.os.system"),
        ("torch", "os.system"),
        ("pathlib", "os.system"),
    ],
)
def test_a_hostile_layout_file_runs_nothing(folder, tmp_path, module, name, protocol):
    mark = tmp_path / "mark"
    argument = f"__import__('os').system('touch {mark}')" if name == "eval" else f"touch {mark}"
    content = _call(module, name, argument, protocol=protocol)
    (folder / "step-00000020" / ".metadata").write_bytes(content)
    with pytest.raises(CorruptError):
        _load(folder / "step-00000020")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["_split_by_size_and_type", "pickle", "os"])
def test_a_layout_file_may_name_no_function_and_no_module(name):
    content = _call("torch.distributed.checkpoint.filesystem", name, "", protocol=4).partition(b"\x93")[0] + b"\x93."
    with pytest.raises(CorruptError, match=name):
        checkpoint._LayoutUnpickler(io.BytesIO(content)).load()
