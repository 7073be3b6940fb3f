"""Programs per second: the sandbox's warm workers against a new interpreter per program, in the same run.

    .venv/bin/python benchmarks/sandbox.py [--programs 164] [--workers 2] [--rounds 5]

Three ways take turns, `rounds` times: warm workers; a bare new interpreter (no isolation, nothing imported but what
the program asks for); a new sandbox per program. Prints JSON with the median of each and the median of the ratios.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from nanochat_core.sandbox import Limits, Sandbox
from nanochat_core.sandbox.view import interpreter

# The shape of a HumanEval problem: imports, a function, a handful of assertions.
PROGRAM = """
from typing import List
import math, re, collections

def below_zero(operations: List[int]) -> bool:
    balance = 0
    for operation in operations:
        balance += operation
        if balance < 0:
            return True
    return False

def check(candidate):
    assert candidate([]) == False
    assert candidate([1, 2, -3, 1, 2, -3]) == False
    assert candidate([1, 2, -4, 5, 6]) == True
    assert candidate([1, -1, 2, -2, 5, -5, 4, -5]) == True

check(below_zero)
"""


def per_second(run: Callable[[str], bool], num_programs: int, workers: int) -> float:
    """Programs per second, `workers` at once; all of them must pass."""
    started = time.perf_counter()
    with ThreadPoolExecutor(workers) as threads:
        passed = list(threads.map(run, [PROGRAM] * num_programs))
    if not all(passed):
        sys.exit("a program that must pass did not")
    return num_programs / (time.perf_counter() - started)


def in_new_interpreter(program: str) -> bool:
    command = [str(interpreter()), "-I", "-S", "-c", program]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env={}).returncode == 0


def in_new_sandbox(program: str) -> bool:
    with Sandbox(Limits(), num_workers=1) as sandbox:
        return sandbox.run(program).has_passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=164)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    warm, bare, cold = [], [], []
    with Sandbox(Limits(), num_workers=options.workers) as sandbox:
        capabilities = sandbox.capabilities()
        sandbox.run_many([PROGRAM] * options.workers * 2)
        for _ in range(options.rounds):
            warm.append(per_second(lambda program: sandbox.run(program).has_passed, options.programs, options.workers))
            bare.append(per_second(in_new_interpreter, options.programs // 4, options.workers))
            cold.append(per_second(in_new_sandbox, max(options.programs // 16, 1), options.workers))
    result = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "workers": options.workers,
        "warm_programs_per_s": round(statistics.median(warm), 1),
        "new_interpreter_programs_per_s": round(statistics.median(bare), 1),
        "new_sandbox_programs_per_s": round(statistics.median(cold), 1),
        "times_a_new_interpreter": round(statistics.median(a / b for a, b in zip(warm, bare, strict=True)), 1),
        "times_a_new_sandbox": round(statistics.median(a / b for a, b in zip(warm, cold, strict=True)), 1),
        "capabilities": capabilities,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
