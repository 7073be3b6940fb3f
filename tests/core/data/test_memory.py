"""Memory does not grow with a file's size: the peak over files of 36 MB is that over files of 6 MB."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nanochat_core.data.shards import write_shards

MOST_GROWTH_MIB = 24  # of 30 MB more text; read whole, a file costs two to five times its size
PEAK = """
import resource, sys
from pathlib import Path
from nanochat_core.config import CorpusConfig
from nanochat_core.data.corpora import build_corpus

for path in map(Path, sys.argv[1:]):
    config = CorpusConfig(source="path", path=str(path), max_bytes=2_000_000)
    build_corpus(config, path.with_suffix(".out"), downloads=path.parent, log=lambda text: None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""

TOKENIZER = """
import resource, sys
from pathlib import Path
from nanochat_core.data.shards import read_documents
from nanochat_core.tokenizer.bpe import train_tokenizer
from nanochat_core.tokenizer.domains import bytes_per_token

for path in map(Path, sys.argv[1:]):
    trained = train_tokenizer(
        read_documents(path), vocab_size=320, max_train_bytes=1_000_000, max_doc_bytes=10_000
    )
    bytes_per_token(trained, read_documents(path))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
CONVERSATIONS = """
import resource, sys
from pathlib import Path
from nanochat_core.pipeline.mixture import _from_files

for path in map(Path, sys.argv[1:]):
    train, validation = _from_files(str(path), [], scratch=path.parent)
    assert sum(len(talk["messages"]) for part in (train, validation) for talk in part) > 1000
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def growth_mib(program: str, small: Path, large: Path) -> int:
    """How much more memory a program takes for a large file than for a small one."""
    said = subprocess.run(
        [sys.executable, "-c", program, str(small), str(large)], check=True, capture_output=True, text=True, timeout=300
    )
    of_small, of_large = map(int, said.stdout.split())
    return of_large - of_small


def _write(path: Path, num_bytes: int) -> None:
    words = " ".join(f"word{number}" for number in range(160))
    texts = [f"{number} {words}" for number in range(num_bytes // len(words))]
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"text": texts}), path)
    elif path.suffix == ".txt":
        path.write_text("\n\n".join(texts))
    else:
        path.write_text("\n".join(json.dumps({"text": text}) for text in texts))


@pytest.mark.parametrize("ending", ["jsonl", "json", "txt", "parquet"])
def test_the_peak_of_reading_does_not_grow_with_the_file(tmp_path, ending):
    small, large = tmp_path / f"small.{ending}", tmp_path / f"large.{ending}"
    _write(small, 6_000_000)
    _write(large, 36_000_000)
    assert growth_mib(PEAK, small, large) < MOST_GROWTH_MIB


def test_the_peak_of_learning_a_vocabulary_does_not_grow_with_the_corpus(tmp_path):
    words = " ".join(f"word{number}" for number in range(160))
    folders = [tmp_path / "small", tmp_path / "large"]
    for folder, num_bytes in zip(folders, (6_000_000, 36_000_000), strict=True):
        write_shards((f"{number} {words}" for number in range(num_bytes // len(words))), folder)
    assert growth_mib(TOKENIZER, *folders) < MOST_GROWTH_MIB


@pytest.mark.parametrize(
    "ending", ["jsonl", *(pytest.param(ending, marks=pytest.mark.torture) for ending in ("json", "parquet"))]
)
def test_the_peak_of_reading_conversations_does_not_grow_with_the_file(tmp_path, ending):
    words = " ".join(f"word{number}" for number in range(160))
    files = [tmp_path / f"small.{ending}", tmp_path / f"large.{ending}"]
    for file, num_bytes in zip(files, (6_000_000, 36_000_000), strict=True):
        talks = [
            [{"role": "user", "content": str(number)}, {"role": "assistant", "content": f"{number} {words}"}]
            for number in range(num_bytes // len(words))
        ]
        if ending == "parquet":
            pq.write_table(pa.table({"messages": talks}), file)
        else:
            file.write_text("\n".join(json.dumps({"messages": talk}) for talk in talks))
    assert growth_mib(CONVERSATIONS, *files) < MOST_GROWTH_MIB
