"""The same call for many files, by threads: hashing releases the interpreter's lock, and transfers wait."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def in_parallel(function: Callable[[T], R], items: Iterable[T], *, workers: int | None = None) -> list[R]:
    """`function` of each item, in order; the first error ends it."""
    executor = ThreadPoolExecutor(workers or max(4, min(16, os.cpu_count() or 1)))
    try:
        return list(executor.map(function, items))
    finally:
        executor.shutdown(cancel_futures=True)
