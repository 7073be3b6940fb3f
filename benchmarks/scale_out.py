"""Tokenizing shards on Dask workers: python benchmarks/scale_out.py --text FOLDER [--shards 20] -> JSON.

The same corpus with one process, and as Prefect tasks on one and on two workers of a cluster on this machine. Seconds
are wall time of the encoding alone, the start of the cluster left out; digests are of the finished `tokens` artifact.
"""

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from flows.server import prefect_server


def measure(text: Path, num_shards: int, num_workers: int | None, home: Path) -> dict[str, Any]:
    """Corpus and tokenizer first; then the shards, with `num_workers` Dask workers (None: this process)."""
    os.environ |= {"NANOCHAT_HOME": str(home), "NANOCHAT_STORE": str(home / "store")}
    from nanochat_core.data import shards
    from nanochat_core.pipeline.execute import make
    from nanochat_core.pipeline.table import STEPS
    from nanochat_core.plan import plan_run
    from nanochat_core.presets import load_config

    total = sum(path.stat().st_size for path in text.glob("*.parquet"))
    shards.SHARD_TEXT_BYTES = max(1, 3 * total // num_shards)  # the text is about three times its zstd
    sets = ["corpus.source=path", f"corpus.path={text}", "tokenizer.vocab_size=8192", "runtime.num_workers=1"]
    plan = plan_run(load_config("tiny", sets))
    corpus = make(STEPS["corpus"], plan)
    tokenizer = make(STEPS["tokenizer"], plan, corpus, None)
    seconds, num_parts = 0.0, 0
    if num_workers is not None:
        seconds, num_parts = encode(plan, corpus, tokenizer, num_workers)
    started = time.perf_counter()
    tokens = make(STEPS["tokens"], plan, corpus, tokenizer)
    joined_s = time.perf_counter() - started
    return {
        "workers": num_workers, "shards": num_parts, "encode_s": seconds, "tokens_step_s": joined_s,
        "digest": tokens.digest,
    }  # fmt: skip


def encode(plan: Any, corpus: Any, tokenizer: Any, num_workers: int) -> tuple[float, int]:
    """Seconds of the mapped tasks, and how many there were."""
    from distributed import Client, LocalCluster
    from prefect_dask import DaskTaskRunner

    from tasks.scale_out import encode_shards

    with LocalCluster(n_workers=num_workers, threads_per_worker=1, dashboard_address=None) as cluster:
        with Client(cluster) as client:
            client.wait_for_workers(num_workers)
            client.run(warm_up)
        runner: Any = DaskTaskRunner(address=cluster.scheduler_address)
        started = time.perf_counter()
        refs = encode_shards.with_options(task_runner=runner)(plan, {"corpus": corpus, "tokenizer": tokenizer})
        return time.perf_counter() - started, len(refs)


def warm_up() -> None:
    """What a worker of a standing cluster has imported long ago."""
    import tasks  # noqa: F401


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, required=True, help="folder of parquet files")
    parser.add_argument("--shards", type=int, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NANOCHAT_HOME"] = folder
        with prefect_server() as server:
            if server is not None:
                server.wait_until_ready()
            rows = [
                measure(given.text, given.shards, workers, Path(folder) / f"with-{workers}") for workers in (None, 1, 2)
            ]
    print(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
