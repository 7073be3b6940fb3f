"""Everything that only a GPU can show, checked and timed by one command.

    make gpu-check
    python3 -m benchmarks.gpu_check [PART...] [--device auto] [--out FILE] [--text FOLDER]

A rented machine has torch, numpy and minutes: nothing else is asked for, nothing is installed, and what a part has
found is written when it ends. Each is a process of its own with a time limit: one that fails or hangs is reported, and
the next goes on. The figures go to --out as JSON and to stdout as Markdown; progress goes to stderr. With `--device
cpu` every part runs at a small size or says why not, so that the command itself is tested where there is no GPU. Exit
code 1: some part failed.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = Path(__file__).parent
LIMIT_S = 240
Figures = dict[str, Any]


def run_script(name: str, *arguments: str) -> Callable[[argparse.Namespace], Figures]:
    """A part that is another benchmark: the JSON objects that it prints."""

    def part(options: argparse.Namespace) -> Figures:
        more = ["--text", str(options.text)] if options.text and "compare" in arguments else []
        if options.device == "cpu" and arguments[-1:] in (("compare",), ("loop",)):
            more += ["--steps", "4"]
        command = [sys.executable, str(BENCHMARKS / name), *arguments, "--device", options.device, *more]
        lines = [json.loads(line) for line in _output(command, options).splitlines() if line.startswith("{")]
        return lines[0] if len(lines) == 1 else {"lines": lines}

    return part


DECODE = """
import json, sys, torch
from benchmarks.decode import BenchConfig, bench_decode
asked = json.loads(sys.argv[2])
torch.set_num_threads(1)
config = BenchConfig(**{**asked, "variants": tuple(asked["variants"])})
print(json.dumps(bench_decode(config, device=torch.device(sys.argv[1]))))
"""


def decode(options: argparse.Namespace) -> Figures:
    """Decoding with captured graphs, alone and in a batch."""
    is_small = options.device == "cpu"
    size = {"depth": 2, "new_tokens": 4, "num_repeats": 1} if is_small else {"depth": 24}
    lines = []
    for rows in (1,) if is_small else (1, 32):
        asked = {**size, "num_rows": rows, "variants": ["reference", "bf16"]}
        lines.append(json.loads(_output([sys.executable, "-c", DECODE, options.device, json.dumps(asked)], options)))
    return {"lines": lines}


def run_tests(options: argparse.Namespace) -> Figures:
    """Every test file that asks for a CUDA device."""
    if importlib.util.find_spec("pytest") is None:
        return {"left_out": "pytest is not installed here"}
    marker = "cuda.is_" + "available()"
    files = sorted(str(path) for path in (ROOT / "tests/core").rglob("test_*.py") if marker in path.read_text())
    with tempfile.TemporaryDirectory() as work:
        report = Path(work) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", f"--junitxml={report}", *files]
        hidden = {} if options.device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(command, cwd=ROOT, env={**os.environ, **hidden}, capture_output=True, text=True)
        if not report.is_file():
            raise RuntimeError(result.stdout[-2000:] + result.stderr[-2000:])
        suite = ET.parse(report).getroot().find("testsuite")
    assert suite is not None
    counts = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    failed = [f"{case.get('classname')}::{case.get('name')}" for case in suite if case.find("failure") is not None]
    return {**counts, "failed": failed, "files": [str(Path(name).relative_to(ROOT)) for name in files]}


def _output(command: list[str], options: argparse.Namespace) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=options.limit_s)
    if result.returncode != 0:
        raise RuntimeError(result.stderr.strip()[-3000:] or f"exit code {result.returncode}")
    return result.stdout


PARTS: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "tests": run_tests,
    "products": run_script("fp8.py", "products"),
    "casts": run_script("fp8.py", "casts"),
    "attention": run_script("attention.py"),
    "steps": run_script("gpu_steps.py", "steps"),
    "compare": run_script("gpu_steps.py", "compare"),
    "loop": run_script("gpu_steps.py", "loop"),
    "decode": decode,
}


def run_part(name: str, options: argparse.Namespace) -> Figures:
    """The part's figures, or why there are none; never an exception."""
    print(f"{name} ...", file=sys.stderr, flush=True)
    started = time.monotonic()
    try:
        figures = PARTS[name](options)
        problem = f"tests failed: {', '.join(figures['failed'])}" if figures.get("failed") else None
    except subprocess.TimeoutExpired:
        figures, problem = {}, f"not finished within {options.limit_s} s"
    except (RuntimeError, OSError, ValueError) as error:
        figures, problem = {}, str(error)
    took = round(time.monotonic() - started, 1)
    print(f"{name}: {'ok' if problem is None else 'FAILED'}, {took} s", file=sys.stderr, flush=True)
    return {"part": name, "problem": problem, "took_s": took, "figures": figures}


def table(rows: list[dict[str, Any]]) -> str:
    """Flat rows as a Markdown table; a column that only some have stays empty elsewhere."""
    columns = list(
        dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, dict | list))
    )
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(column)) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else str(value).replace("|", "/")


def markdown(parts: list[Figures], device: str) -> str:
    """The report of all parts."""
    blocks = [f"# GPU check: {device}, torch {torch.__version__}"]
    for part in parts:
        blocks.append(f"## {part['part']} ({part['took_s']} s)")
        if part["problem"]:
            blocks.append("FAILED\n\n```\n" + part["problem"] + "\n```")
        blocks += list(_tables(part["part"], part["figures"]))
    return "\n\n".join(blocks)


def _tables(name: str, figures: Figures) -> list[str]:
    if not figures:
        return []
    if name == "attention":
        return [
            f"window {case['window']}: {case['chosen']} ({case['reason']})\n\n{table(case['rungs'])}"
            for case in figures["cases"]
        ]
    if name == "steps":
        kernels = [
            f"depth {model['depth']}, fp8 {model['fp8'] or 'off'}, one micro-step, ms by kind of kernel\n\n"
            + table([model["micro_step_kernels"]["by_kind_ms"]])
            for model in figures["models"]
        ]
        rate = f"one large bf16 product: {figures['matrix_rate_tflops']:.4g} TFLOP/s"
        return [rate, table(figures["models"]), *kernels]
    if name == "decode":
        rows = [
            {"rows": line["config"]["num_rows"], "weights": variant, **line["variants"][variant]}
            for line in figures.get("lines", [figures])
            for variant in line["variants"]
        ]
        return [table(rows)]
    rows = figures.get("rows") or figures.get("runs") or [figures]
    return [table(rows)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["auto", "cuda", "cpu"], default="auto")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"some of: {', '.join(PARTS)}; none: all")
    parser.add_argument("--text", type=Path, help="a folder of .parquet shards for `compare`")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="of one part")
    options = parser.parse_args()
    names = options.parts or list(PARTS)
    if unknown := sorted(set(names) - set(PARTS)):
        parser.error(f"there is no part {unknown[0]}: {', '.join(PARTS)}")
    has_gpu = torch.cuda.is_available()
    if options.device == "auto":
        options.device = "cuda" if has_gpu else "cpu"
    if options.device == "cuda" and not has_gpu:
        parser.error("torch sees no CUDA GPU: --device cpu runs the small sizes")
    device = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, small sizes"
    parts = list[Figures]()
    for name in names:
        parts.append(run_part(name, options))
        if options.out:  # now: the machine may be taken away
            options.out.parent.mkdir(parents=True, exist_ok=True)
            options.out.write_text(json.dumps({"device": device, "torch": torch.__version__, "parts": parts}, indent=1))
    print(markdown(parts, device))
    return 1 if any(part["problem"] for part in parts) else 0


if __name__ == "__main__":
    sys.exit(main())
