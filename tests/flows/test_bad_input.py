"""What people get wrong: one line, a hint, the right exit code, no traceback, and nothing lost."""

import gzip
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import first_home
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import MICRO, ROOT

from nanochat_core.base.errors import NanochatError
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.table import STEPS
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config

pytestmark = pytest.mark.slow
USAGE, MISSING, HARDWARE = 2, 3, 4


def run(home: Path, *sets: str, until: str = "conversations", **environment: str) -> subprocess.CompletedProcess[str]:
    if not (home.parent.is_file() or home.exists()):
        first_home.seed_digests(home)
    options = [part for value in (*MICRO, *sets) for part in ("--set", value)]
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "tiny", "--no-prefect", "--until", until, *options],
        cwd=ROOT, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL,
        env={**os.environ, "NANOCHAT_HOME": str(home), "NANOCHAT_STORE": str(home / "store"), **environment},
    )  # fmt: skip


def check(done: subprocess.CompletedProcess[str], code: int, *seen: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    for text in seen:
        assert text in done.stderr


def empty(folder: Path) -> None:
    return None


def no_documents(folder: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), folder / "0.parquet")


def one_document(folder: Path) -> None:
    (folder / "only.txt").write_text("just this one")


def cut_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"text": ["some text"] * 1000}), folder / "0.parquet")
    whole = (folder / "0.parquet").read_bytes()
    (folder / "0.parquet").write_bytes(whole[: len(whole) // 2])
    (folder / "1.parquet").write_bytes(whole)


def missing_column(folder: Path) -> None:
    pq.write_table(pa.table({"body": ["some text"] * 50}), folder / "0.parquet")


def not_utf8(folder: Path) -> None:
    (folder / "0.txt").write_bytes(b"caf\xe9")
    (folder / "1.txt").write_text("fine")


def not_json(folder: Path) -> None:
    (folder / "0.jsonl").write_text('{"text": "fine"}\n{"text": \n')
    (folder / "1.jsonl").write_text('{"text": "fine"}\n')


def cut_gzip(folder: Path) -> None:
    (folder / "0.jsonl.gz").write_bytes(gzip.compress(b'{"text": "fine"}\n' * 100)[:30])
    (folder / "1.jsonl").write_text('{"text": "fine"}\n')


@pytest.mark.parametrize(
    ("write", "seen"),
    [
        (empty, "holds no"),
        (no_documents, "0 training"),
        (one_document, "training"),
        (cut_parquet, "cannot be read as parquet"),
        (missing_column, "no column 'text'; it has body"),
        (not_utf8, "is not UTF-8: byte 0xe9"),
        (not_json, "line 2 is not JSON"),
        (cut_gzip, "cannot be read"),
    ],
)
def test_a_bad_corpus_is_named(write: Callable[[Path], None], seen: str, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    write(folder)
    with pytest.raises(NanochatError) as refused:
        make(STEPS["corpus"], planned("corpus.source=path", f"corpus.path={folder}"))
    assert refused.value.exit_code == MISSING
    assert seen in refused.value.message
    assert refused.value.hint


def planned(*sets: str) -> RunPlan:
    return plan_run(load_config("tiny", [*MICRO, *sets]))


def test_a_refusal_is_an_error_and_a_hint_on_the_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    cut_parquet(folder)
    done = run(tmp_path / "home", "corpus.source=path", f"corpus.path={folder}")
    check(done, MISSING, "cannot be read as parquet", "hint: ")
    check(run(tmp_path / "home", "corpus.source=path", until="sft"), USAGE, "needs corpus.path")


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        ("pretrain.depth=0", "a whole number, 1 to 128: The one dial"),
        ("pretrain.depth=200", "1 to 128"),
        ("tokenizer.vocab_size=200", "265 to 400,000"),
        ("pretrain.total_batch_tokens=500", "does not divide"),
        ("pretrain.head_dim=33", "not an even number"),
        ("pretrain.n_embd=65", "does not divide into heads"),
        ("pretrain.matrix_lr=nan", "out of range"),
        ("pretrain.validate_every_steps=0", "at least 1"),
        ("runtime.log_every_steps=0", "at least 1"),
        ("evaluate.sample_tokens=0", "at least 1"),
        ("pretrain.n_kv_head=3", "does not divide the 2 query heads"),
        ("pretrain.dpeth=3", "did you mean pretrain.depth?"),
        ("pretrain.depth=three", "expected a whole number"),
        ("corpus.source=web", "one of"),
        ("sft.epochs=0", "out of range"),
        ("nonsense", "not of the form"),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(setting: str, seen: str) -> None:
    with pytest.raises(NanochatError) as refused:
        planned(setting)
    assert refused.value.exit_code == USAGE
    assert seen in refused.value.message + (refused.value.hint or "")


def test_more_processes_than_rows_is_refused(tmp_path: Path, small_corpus: Path) -> None:
    sets = ("corpus.source=path", f"corpus.path={small_corpus}", "runtime.num_processes=3")
    check(run(tmp_path / "home", *sets, until="pretrain"), USAGE, "does not divide over 3 processes")


def test_a_corpus_too_small_for_its_vocabulary_is_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("0", "1"):
        (corpus / f"{name}.txt").write_text(f"{name} a b c d e f g h i j k l m n o p q r s t u v w x y z")
    done = run(tmp_path / "home", "corpus.source=path", f"corpus.path={corpus}", until="pretrain")
    check(done, MISSING, "merges")


def test_a_gpu_that_is_not_there_is_named(tmp_path: Path, small_corpus: Path) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    sets = ("corpus.source=path", f"corpus.path={small_corpus}", "runtime.device=cuda")
    check(run(tmp_path / "home", *sets, until="pretrain"), HARDWARE, "no CUDA GPU")


def test_a_bad_conversation_file_is_named(home: Path, tmp_path: Path, small_corpus: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text('{"messages": [{"role": "assistant", "content": "I speak first"}]}\n')
    plan = planned("corpus.source=path", f"corpus.path={small_corpus}", "sft.source=path", f"sft.path={chats}")
    tokenizer = make(STEPS["tokenizer"], plan, make(STEPS["corpus"], plan), None)
    with pytest.raises(NanochatError, match=r"chats\.jsonl, line 1") as refused:
        make(STEPS["conversations"], plan, tokenizer, None)
    assert refused.value.exit_code == MISSING


def test_an_unreachable_object_store_is_named(tmp_path: Path) -> None:
    store = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "y"}
    check(run(tmp_path / "home", NANOCHAT_STORE="s3://bucket/prefix", **store), MISSING, "hint: ")


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    check(run(tmp_path / "file" / "home", NANOCHAT_STORE=str(tmp_path / "store")), HARDWARE, "NANOCHAT_HOME")
