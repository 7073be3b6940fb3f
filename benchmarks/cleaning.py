"""Cleaning, what is planted and found, speed and memory: python -m benchmarks.cleaning --gb 1 [--steps near] -> JSON.

The text is generated: words by Zipf's law in sentences and paragraphs, a few hundred to a document, so that no two have
much in common by chance. Planted are exact copies, copies edited to a Jaccard index of about 0.8 and of about 0.5 (of
word 5-grams, computed), documents with a benchmark item in them and others with twelve words of one. Each step runs in
a process of its own; its processor seconds and the peak of its memory count all of its processes.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from nanochat_core.clean_config import CleanConfig
from nanochat_core.data import shards
from nanochat_core.data.placed import PlacedText

EXACT, NEAR, FAR, ITEM, TWELVE = "exact", "near at 0.8", "near at 0.5", "item", "twelve words of an item"
RATES = {EXACT: 0.01, NEAR: 0.01, FAR: 0.005, ITEM: 0.005, TWELVE: 0.002}
STOP = ["the", "of", "and", "to", "a", "in", "that", "is", "was", "he", "for", "it", "with", "as", "on", "be", "have"]
NUM_ITEMS, ITEM_WORDS, NGRAM = 2000, 30, 5
MB = 1_000_000


class Text:
    """Documents one after the other; `planted` says what each line is."""

    def __init__(self, num_bytes: int, *, num_known: int = 5000, num_words: int = 60_000, times: float = 1.0) -> None:
        """`num_known`: the first documents, of which there may be copies; `times` as many plants as RATES says."""
        self.num_known, self.times = num_known, times
        self.rng = np.random.default_rng(7)
        letters = np.array(list("etaoinshrdlucmfwypvbgk"))
        made = {"".join(self.rng.choice(letters, size)) for size in self.rng.integers(4, 11, 2 * num_words)}
        self.words = np.array([*STOP, *sorted(made - {*STOP})[: num_words - len(STOP)]], dtype=object)
        rank = np.arange(1, len(self.words) + 1)
        self.shares = np.cumsum(1 / rank) / np.sum(1 / rank)
        self.num_bytes, self.planted = num_bytes, dict[int, str]()
        self.items = [self.some(ITEM_WORDS) for _ in range(NUM_ITEMS)]

    def some(self, count: int) -> list[str]:
        """So many words by Zipf's law."""
        drawn = np.searchsorted(self.shares, self.rng.random(count))
        return list(self.words[np.minimum(drawn, len(self.words) - 1)])

    def edited(self, words: list[str], jaccard: float) -> list[str]:
        """Words in even distances replaced, until so much of the n-grams is in both."""
        grams = len(words) - NGRAM + 1
        count = max(1, round(grams * (1 - jaccard) / (1 + jaccard) / NGRAM))
        changed = list(words)
        for k in range(count):
            changed[(2 * k + 1) * len(words) // (2 * count)] = f"edit{self.rng.integers(1 << 40)}"
        return changed

    def documents(self) -> Iterator[PlacedText]:
        known: list[list[str]] = []
        size = line = 0
        kinds, rates = [*RATES], np.cumsum([*RATES.values()]) * self.times
        while size < self.num_bytes:
            line += 1
            words = self.some(int(self.rng.integers(200, 600)))
            at = int(np.searchsorted(rates, self.rng.random()))
            if at < len(kinds) and len(known) == self.num_known:
                self.planted[line] = kinds[at]
                words = self.plant(kinds[at], words, known[self.rng.integers(len(known))])
            elif len(known) < self.num_known:
                known.append(words)
            text = written(words)
            size += len(text)
            yield PlacedText(text, "text", line)

    def plant(self, kind: str, words: list[str], earlier: list[str]) -> list[str]:
        if kind == EXACT:
            return earlier
        if kind in (NEAR, FAR):
            return self.edited(earlier, 0.8 if kind == NEAR else 0.5)
        item = self.items[self.rng.integers(len(self.items))]
        middle = len(words) // 2
        return [*words[:middle], *(item if kind == ITEM else [*item[:12], "otherwise"]), *words[middle:]]


def written(words: list[str]) -> str:
    """Sentences of twelve words, paragraphs of five sentences."""
    sentences = [" ".join(words[at : at + 12]).capitalize() + "." for at in range(0, len(words), 12)]
    return "\n".join(" ".join(sentences[at : at + 5]) for at in range(0, len(sentences), 5))


def generate(folder: Path, text: Text) -> Text:
    """Write the text as a corpus."""
    shards.write_shards(text.documents(), folder / "train")
    shards.write_shards(
        (PlacedText(written(text.some(300)), "validation", n) for n in range(1, 101)), folder / "validation"
    )
    return text


def run_step(name: str, corpus: Path, out: Path, items: list[str], workers: int, sender: Any) -> None:
    """One step, in this process and its workers."""
    from nanochat_core.data.cleaning import judge_in_processes, write_cleaned
    from nanochat_core.data.duplicates import find_duplicates
    from nanochat_core.data.languages import language_judge
    from nanochat_core.data.quality import quality_judge
    from nanochat_core.evals.benchmarks.contaminated import item_judge, save_items
    from nanochat_core.evals.benchmarks.protocol import Item

    config = vars(CleanConfig(quality="gopher+c4", duplicates="exact" if name == "exact" else "near"))
    if name in ("exact", "near"):
        found = find_duplicates(corpus, out / "scratch", config, num_workers=workers, progress=lambda done, total: None)
    elif name == "items":
        asked = [
            Item(benchmark="planted", id=str(n), messages=[], expected="", solution="", question=item)
            for n, item in enumerate(items)
        ]
        save_items(asked, out / "scratch")
        found = judge_in_processes(item_judge, (out / "scratch",), corpus, num_workers=workers)
    elif name == "languages":
        found = judge_in_processes(language_judge, (("en",), 0.0), corpus, num_workers=workers)
    else:
        found = judge_in_processes(quality_judge, (config,), corpus, num_workers=workers)
    write_cleaned(corpus, out, found, progress=lambda done, total: None)
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    sender.send((sum(each.ru_utime + each.ru_stime for each in used), used[0].ru_maxrss * 1024))


def measure(name: str, corpus: Path, out: Path, text: Text, workers: int) -> dict[str, Any]:
    shutil.rmtree(out, ignore_errors=True)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    items = [" ".join(item) for item in text.items]
    process = multiprocessing.get_context("spawn").Process(
        target=run_step, args=(name, corpus, out, items, workers, sender)
    )
    started = time.perf_counter()
    process.start()
    sender.close()  # so that a process that failed is no wait
    peak = [0]
    watch = threading.Thread(target=_watch, args=(process, peak), daemon=True)
    watch.start()
    process.join()
    watch.join()
    cpu_s, parent_bytes = receiver.recv()
    scores = judged(name, out, text)
    return {
        "step": name, "cpu_s": round(cpu_s, 1), "wall_s": round(time.perf_counter() - started, 1),
        "mb_per_cpu_s": round(text.num_bytes / MB / cpu_s, 1), "parent_peak_mb": round(parent_bytes / MB),
        "all_processes_peak_mb": round(peak[0] / MB), **scores,
    }  # fmt: skip


def _watch(process: Any, peak: list[int]) -> None:
    """The most memory that the process and its workers have together, what they share counted once."""
    while process.is_alive():
        try:
            family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            peak[0] = max(peak[0], sum(each.memory_full_info().pss for each in family))
        except (psutil.Error, FileNotFoundError):
            pass
        time.sleep(0.5)


FOUND = {"exact": {EXACT}, "near": {EXACT, NEAR}, "items": {ITEM}}


def judged(name: str, out: Path, text: Text) -> dict[str, Any]:
    """Of what is planted for a step: how much was found, and what else was."""
    import pyarrow.parquet as pq

    if name not in FOUND:
        return {}
    rows = [
        row
        for path in (out / "removed").glob("*.parquet")
        for row in pq.read_table(path, columns=["file", "line"]).to_pylist()
    ]
    gone = Counter(text.planted.get(row["line"], "nothing") if row["file"] == "text" else "nothing" for row in rows)
    planted = Counter(text.planted.values())
    right = sum(gone[kind] for kind in FOUND[name])
    return {
        "recall": {kind: round(gone[kind] / planted[kind], 4) for kind in sorted(FOUND[name])},
        "precision": round(right / max(1, gone.total()), 4), "removed": dict(gone), "planted": dict(planted),
    }  # fmt: skip


def bench(num_bytes: int, steps: list[str], folder: Path, workers: int) -> list[dict[str, Any]]:
    """A line of figures for each step."""
    text = generate(folder / "corpus", Text(num_bytes))
    num_docs = sum(len(shards.read_row_group(*unit)) for unit in shards.row_groups(folder / "corpus/train"))
    results = []
    for step in steps:
        results.append(
            {
                "text_mb": num_bytes // MB,
                "documents": num_docs,
                **measure(step, folder / "corpus", folder / "out", text, workers),
            }
        )
        print(json.dumps(results[-1]), flush=True)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gb", type=float, default=1.0)
    parser.add_argument("--steps", default="exact,near,items,quality,languages")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--folder", type=Path, default=Path("/tmp/nanochat-cleaning"))
    told = parser.parse_args()
    shutil.rmtree(told.folder, ignore_errors=True)
    bench(int(told.gb * 1e9), told.steps.split(","), told.folder, told.workers)
    shutil.rmtree(told.folder)
