"""Checkpoints, tokenizers and text of strangers, damaged anywhere: read, or refused by one line."""

import bz2
import dataclasses
import gzip
import json
import lzma
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiktoken
import torch
from fuzz_lane import LONG_S, Lane, peak_mib

from nanochat_core.base.errors import CorruptError, MissingError, NanochatError
from nanochat_core.base.foreign import MAX_MODEL
from nanochat_core.config import GPTConfig
from nanochat_core.data.conversations import conversation_of_row
from nanochat_core.data.rows import FileRows
from nanochat_core.data.texts import _parquet, read_texts
from nanochat_core.evals.core.bundle_source import open_bundle
from nanochat_core.export.peer_tokenizer import load_peer_tokenizer
from nanochat_core.export.tokenizer_import import tokenizer_from_json
from nanochat_core.export.tokenizer_json import tokenizers_json
from nanochat_core.model.gpt import GPT
from nanochat_core.model.import_checkpoint import load_nanochat_checkpoint
from nanochat_core.model.weights import save_model
from nanochat_core.presets import load_config
from nanochat_core.tokenizer.tokenizer import SPECIAL_TOKENS, SPLIT_PATTERN, Tokenizer
from nanochat_core.train import checkpoint

SHORT_S = 5
CONFIG = GPTConfig(sequence_len=32, vocab_size=320, n_layer=2, n_head=2, n_kv_head=1, n_embd=32, window_pattern="L")
ROWS = [{"text": f"document {number}: {'words and more of them ' * (number % 7)}"} for number in range(200)]
TALK = {"messages": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Hello."}]}
STATE = {"smooth_loss": 1.0}
Reader = Callable[[Path], object]


def all_texts(path: Path) -> int:
    return sum(1 for _ in read_texts(path, "text"))


def all_talks(path: Path) -> int:
    rows = FileRows([path])
    return len([conversation_of_row(rows[number], number) for number in range(len(rows))])


def tensors() -> dict[str, torch.Tensor]:
    return {"a": torch.zeros(64), "b.c": torch.zeros(3, 5)}


READERS: dict[str, Reader] = {
    "weights": lambda path: load_nanochat_checkpoint(path.parent),
    "torch": lambda path: load_nanochat_checkpoint(path.parent),
    "pickle": lambda path: load_peer_tokenizer(path.parent),
    "json": tokenizer_from_json,
    "ours": lambda path: Tokenizer.load(path.parent),
    "dcp": lambda path: checkpoint.load(path.parent, tensors()),
    "text": all_texts,
    "talk": all_talks,
    "core": lambda path: open_bundle(path, path.parent / f"unpacked{random.random()}"),
    "toml": lambda path: load_config(str(path)),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, Path]]:
    """(reader, a file for it), each in a folder of its own."""
    folder = tmp_path_factory.mktemp("sound")
    return [*_models(folder), *_tokenizers(folder), *_checkpoint(folder), *_texts(folder), *_others(folder)]


def _models(folder: Path) -> list[tuple[str, Path]]:
    model = GPT(CONFIG)
    model.init_weights(1)
    save_model(folder / "ours", model)
    (folder / "theirs").mkdir()
    (folder / "theirs/config.json").write_text(json.dumps(dataclasses.asdict(CONFIG)))
    torch.save(model.state_dict(), folder / "theirs/model_000001.pt")
    names = ("ours/model.safetensors", "ours/config.json")
    return [*(("weights", folder / name) for name in names), ("torch", folder / "theirs/model_000001.pt")]


def _tokenizers(folder: Path) -> list[tuple[str, Path]]:
    tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the"]
    tokenizer = Tokenizer(tokens, SPLIT_PATTERN)
    tokenizer.save(folder / "own")
    (folder / "peer").mkdir()
    special = {name: tokenizer.special(name) for name in SPECIAL_TOKENS}
    ranks = {token: rank for rank, token in enumerate(tokens)}
    encoding = tiktoken.Encoding("x", pat_str=SPLIT_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    (folder / "peer/tokenizer.pkl").write_bytes(pickle.dumps(encoding))
    torch.save(torch.tensor(tokenizer.token_bytes(), dtype=torch.int32), folder / "peer/token_bytes.pt")
    (folder / "hf.json").write_text(json.dumps(tokenizers_json(tokenizer)))
    return [
        ("ours", folder / "own/tokenizer.json"), ("json", folder / "hf.json"),
        ("pickle", folder / "peer/tokenizer.pkl"), ("pickle", folder / "peer/token_bytes.pt"),
    ]  # fmt: skip


def _checkpoint(folder: Path) -> list[tuple[str, Path]]:
    (folder / "metrics.jsonl").write_text("")
    from nanochat_core.base.distributed import World

    made = checkpoint.save(
        folder / "checkpoints", 3, tensors(), state=STATE, metrics=folder / "metrics.jsonl", world=World(rank=0, size=1)
    )
    return [("dcp", path) for path in sorted(made.iterdir())]


def _texts(folder: Path) -> list[tuple[str, Path]]:
    (folder / "data").mkdir()
    data = folder / "data"
    lines = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    pq.write_table(pa.Table.from_pylist(ROWS), data / "a.parquet", row_group_size=64, compression="zstd")
    pq.write_table(pa.Table.from_pylist(ROWS), data / "b.parquet", use_dictionary=False, compression="gzip")
    (data / "a.jsonl").write_bytes(lines)
    (data / "a.json").write_text(json.dumps(ROWS))
    (data / "a.txt").write_text("\n\n".join(row["text"] for row in ROWS))
    for ending, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        (data / f"b.jsonl{ending}").write_bytes(pack(lines))
    (data / "b.jsonl.zst").write_bytes(pa.compress(lines, codec="zstd", asbytes=True))
    (data / "talk.jsonl").write_text("\n".join([json.dumps(TALK)] * 20))
    found = sorted(path for path in data.iterdir() if path.name != "talk.jsonl")
    return [*(("text", path) for path in found), ("talk", data / "talk.jsonl")]


def _others(folder: Path) -> list[tuple[str, Path]]:
    (folder / "core").mkdir()
    with zipfile.ZipFile(folder / "core/bundle.zip", "w", zipfile.ZIP_DEFLATED) as target:
        task = {"label": "x", "dataset_uri": "x.jsonl", "num_fewshot": [0], "icl_task_type": "language_modeling"}
        target.writestr("b/core.yaml", json.dumps({"icl_tasks": [task]}))
        target.writestr("b/eval_meta_data.csv", "Eval Task,Task Category,Random baseline\nx,language,0\n")
        target.writestr("b/eval_data/x.jsonl", json.dumps({"context": "a", "continuation": "b"}) + "\n")
    (folder / "preset.toml").write_text('[pretrain]\ndepth = 4\nwindow_pattern = "L"\n[corpus]\nsource = "embedded"\n')
    return [("core", folder / "core/bundle.zip"), ("toml", folder / "preset.toml")]


def damaged(content: bytes, draw: random.Random) -> bytes:
    """Bits, bytes, pieces lost, doubled, put elsewhere, or of another kind."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 5))):
        near = draw.choice((len(changed), min(len(changed), 400)))  # half of them where headers are
        at = draw.randrange(near) if near else 0
        end = at + draw.choice((1, 1, 4, 8, 100))
        piece = bytes(changed[at:end])
        changed[at:end] = draw.choice((
            b"", piece * 2, b"\xff" * len(piece), b"\0" * len(piece), draw.randbytes(len(piece)), piece[::-1],
            b"9" * 400, b"[" * 3000, b"{\"a\":" * 3000, b"NaN", b"null", b"-1", b"1e999", b"\x1b[2J", b"\xed\xa0\x80",
        ))  # fmt: skip
    return bytes(changed[: draw.randrange(len(changed) + 1)] if draw.random() < 0.1 else changed)


def fuzz(sound: list[tuple[str, Path]], *, seed: int, seconds: float) -> tuple[Lane, dict[str, int]]:
    draw, lane, counts = random.Random(seed), Lane(), dict.fromkeys(READERS, 0)
    while lane.goes_on(seconds):
        kind, path = draw.choice(sound)
        content = path.read_bytes()
        changed = damaged(content, draw)
        path.write_bytes(changed)
        try:
            with lane.case(path.name):
                counts["refused"] = counts.get("refused", 0) + is_refused(kind, path)
        except BaseException:
            print(f"seed {seed}, {counts}: {path.name} as {changed[:2000]!r}")
            raise
        finally:
            path.write_bytes(content)
        counts[kind] += 1
    return lane, counts


def is_refused(kind: str, path: Path) -> bool:
    """Whether its reader says what is wrong with it; anything else that it raises goes on up."""
    try:
        READERS[kind](path)
    except NanochatError as error:
        return bool(error.message)
    return False


def test_all_of_them_are_sound(sound: list[tuple[str, Path]]) -> None:
    for kind, path in sound:
        READERS[kind](path)


def test_damaged_files_are_read_or_refused(sound: list[tuple[str, Path]]) -> None:
    lane, _ = fuzz(sound, seed=14, seconds=SHORT_S)
    assert lane.num > 20


@pytest.mark.torture
@pytest.mark.timeout(LONG_S + 600)
def test_many_damaged_files_are_read_or_refused(sound: list[tuple[str, Path]]) -> None:
    print(*fuzz(sound, seed=20261129, seconds=LONG_S))


@pytest.mark.parametrize("name", MAX_MODEL)
@pytest.mark.parametrize("value", [10**9, 10**30, 0, -1, 2.5, "8", None, True, [4]])
def test_a_config_that_asks_for_all_memory_is_refused(name: str, value: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**dataclasses.asdict(CONFIG), name: value}))
    torch.save({}, tmp_path / "model_000001.pt")
    with pytest.raises(MissingError, match=name):
        load_nanochat_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "index",
    [
        [], {}, {"weight_map": ["a"]}, {"weight_map": {}}, {"weight_map": {"a": 1}}, {"weight_map": {"a": "pipe"}},
        *({"weight_map": {"a": name}} for name in (
            "../b.safetensors", "/b.safetensors", "a/../b.safetensors", ".", "", "a\0.safetensors", "pipe.safetensors",
            "\x1b[2Jb.safetensors", "model.safetensors.index.json",
        )),
    ],
)  # fmt: skip
def test_an_index_that_names_no_weights_beside_it_is_refused(index: object, tmp_path: Path) -> None:
    save_model(
        tmp_path / "b", GPT(GPTConfig(sequence_len=8, vocab_size=64, n_layer=1, n_head=2, n_kv_head=1, n_embd=32))
    )
    (folder := tmp_path / "b/a").mkdir()
    (tmp_path / "b/config.json").rename(folder / "config.json")
    (tmp_path / "b/model.safetensors").rename(tmp_path / "b/b.safetensors")  # what a name with dots would reach
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(MissingError) as refused:
        load_nanochat_checkpoint(folder)
    assert "\x1b" not in str(refused.value)


@pytest.mark.parametrize("stored", [[], 7, {"a": 1}, {1: torch.zeros(1)}, {"a": torch.zeros(1, dtype=torch.int64)}])
def test_a_checkpoint_of_something_else_is_refused(stored: object, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(dataclasses.asdict(CONFIG)))
    torch.save(stored, tmp_path / "model_000001.pt")
    with pytest.raises(MissingError, match="other than weights"):
        load_nanochat_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04r\xff\xff\xff\x7f.",
        b"\x80\x04N" + b"r\xff\xff\xff\xff" + b".",
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x00.",
    ],
)
def test_a_pickle_takes_no_memory_for_what_it_only_announces(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.pkl").write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten: other tests have theirs
    held_mib = peak_mib()
    with pytest.raises(MissingError, match="is not nanochat's tokenizer"):
        load_peer_tokenizer(tmp_path)
    assert peak_mib() - held_mib < 500


def test_a_state_that_is_none_is_named(sound: list[tuple[str, Path]]) -> None:
    path = next(path for kind, path in sound if kind == "dcp" and path.name == "state.json")
    content = path.read_bytes()
    for changed in (b"[]", b"", b"[" * 9000, b"\xff"):
        path.write_bytes(changed)
        with pytest.raises(CorruptError, match=r"state\.json"):
            checkpoint.load(path.parent, tensors())
    path.write_bytes(content)


@pytest.mark.parametrize("read", [all_texts, all_talks])
def test_a_table_that_unpacks_to_thousands_of_times_its_size_is_refused(
    read: Callable[[Path], int], tmp_path: Path
) -> None:
    zeros = pa.table({"text": pa.array(["\0" * (1 << 20)] * 20)})
    pq.write_table(zeros, path := tmp_path / "a.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(MissingError, match="times its own size"):
        read(path)


@pytest.mark.parametrize("is_prefix", [False, True], ids=["one value", "prefixes"])
def test_values_that_are_stored_once_take_memory_for_few_rows(is_prefix: bool, tmp_path: Path) -> None:
    """A thousand rows of a mebibyte each are a GiB, and the file says two thousandths of that."""
    texts = [str(number) * (1 << 20) for number in (1, 1, 1)] if is_prefix else ["1" * (1 << 20)]
    if is_prefix:
        table, how = pa.table({"text": texts * 300}), {"column_encoding": {"text": "DELTA_BYTE_ARRAY"}}
    else:
        values = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), pa.array(texts))
        table, how = pa.table({"text": values}), {"store_schema": False}
    pq.write_table(table, path := tmp_path / "a.parquet", use_dictionary=not is_prefix, **how)
    del table
    before, most = pa.total_allocated_bytes(), 0
    for _ in zip(_parquet(path, "text"), range(700), strict=False):
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 300 << 20
