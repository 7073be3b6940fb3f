"""Memory does not grow with a file's size: the peak over files of 36 MB is that over files of 6 MB."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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
    said = subprocess.run(
        [sys.executable, "-c", PEAK, str(small), str(large)], check=True, capture_output=True, text=True, timeout=300
    )
    of_small, of_large = map(int, said.stdout.split())
    assert of_large - of_small < MOST_GROWTH_MIB
