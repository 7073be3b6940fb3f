"""MB/s of the shard downloader over 1 and 8 connections, from a server on loopback that waits 20 ms before each answer.

    .venv/bin/python benchmarks/download.py [--shards 64] [--shard-mib 2] [--latency-ms 20]

The server is a process of its own, and the digests are checked as in a run. Prints JSON.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

from nanochat_core.config import CorpusConfig
from nanochat_core.data.corpora import fetch_shards

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))


def serve(pipe: Connection, num_shards: int, shard_bytes: int, latency_s: float) -> None:
    """Serve the same bytes under many names until the parent goes away."""
    from http_server import Fault, HttpServer

    content = os.urandom(shard_bytes)
    names = [f"{number:05d}.txt" for number in range(num_shards)]
    with HttpServer(latency_s=latency_s) as server:
        server.files.update({f"/{name}": content for name in names})
        server.always.update({f"/{name}": Fault(piece_bytes=1 << 20) for name in names})
        pipe.send((server.url, names, hashlib.sha256(content).hexdigest()))
        pipe.recv()


def measure(url: str, digests: Path, num_downloads: int) -> dict[str, float]:
    """Fetch everything once."""
    config = CorpusConfig(source="hub", dataset=url, dataset_files="*.txt", digests_file=str(digests))
    with tempfile.TemporaryDirectory() as folder:
        started, cpu_started = time.perf_counter(), time.process_time()
        fetched = fetch_shards(config, downloads=Path(folder), log=lambda text: None, num_downloads=num_downloads)
        seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    num_bytes = sum(shard.num_bytes for shard in fetched)
    return {"mb_per_s": num_bytes / seconds / 1e6, "cpu_s_per_gb": cpu_s / num_bytes * 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=64)
    parser.add_argument("--shard-mib", type=int, default=2)
    parser.add_argument("--latency-ms", type=float, default=20.0)
    options = parser.parse_args()
    ours, theirs = multiprocessing.Pipe()
    arguments = (theirs, options.shards, options.shard_mib << 20, options.latency_ms / 1000)
    process = multiprocessing.get_context("spawn").Process(target=serve, args=arguments, daemon=True)
    process.start()
    url, names, sha256 = ours.recv()
    with tempfile.TemporaryDirectory() as folder:
        digests = Path(folder) / "SHA256SUMS"
        digests.write_text("".join(f"{sha256}  {name}\n" for name in names))
        measure(url, digests, 8)  # imports and the first connections are not what is measured
        results = {num: measure(url, digests, num) for num in (1, 8)}
    ours.send(None)
    process.join()
    result: dict[str, float] = {"shards": options.shards, "shard_mib": options.shard_mib}
    result["latency_ms"] = options.latency_ms
    for num, values in results.items():
        result |= {f"{key}_{num}_connections": round(value, 2) for key, value in values.items()}
    result["speedup"] = round(results[8]["mb_per_s"] / results[1]["mb_per_s"], 2)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
