"""Seconds of an all-cached `nanochat run tiny`: what orchestration costs when there is nothing to do.

    .venv/bin/python benchmarks/overhead.py [--repeats 3]

Needs a finished `make speedrun` in this NANOCHAT_HOME; prints JSON with medians of the whole command's wall time: with
the embedded server, with it on a new Prefect home, and without Prefect.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def seconds(*extra: str, prefect_home: Path | None = None) -> float:
    environment = {**os.environ, "PREFECT_HOME": str(prefect_home)} if prefect_home else None
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "tiny", *extra],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env=environment,
    )
    if done.returncode or " 0 made" not in done.stdout:
        sys.exit(f"not everything is cached; run `make speedrun` first\n{done.stdout[-500:]}{done.stderr[-500:]}")
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    repeats = range(parser.parse_args().repeats)
    with tempfile.TemporaryDirectory() as folder:
        new_home_s = statistics.median(seconds(prefect_home=Path(folder) / str(i)) for i in repeats)
    result = {
        "embedded_server_s": statistics.median(seconds() for _ in repeats),
        "new_prefect_home_s": new_home_s,
        "no_prefect_s": statistics.median(seconds("--no-prefect") for _ in repeats),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
