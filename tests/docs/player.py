"""Runs the blocks of one document in their order, as somebody would who pastes them into one terminal.

Each block is a shell of its own that begins with the variables and the folder in which the one before ended. `nanochat`
and `./nanochat` are this checkout's, with what `args` adds; `make` is the checkout's too, and hands them on as ARGS.
README's runs are Prefect's; those of the other documents leave it out, which takes half of the time.
"""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from blocks import Block, missing_lines
from conftest import MICRO, MICRO_RL, ROOT
from flow_runs import free_port

BLOCK_S, STOP_S = 1800, 300  # on a machine that is busy with other things
BIN = Path(sys.executable).parent
PRELUDE = f"""set -eo pipefail
nanochat() {{ local plain=; [ "$1" != run ] || plain=$PLAIN; $NANOCHAT "$@" $plain $ARGS; }}
make() {{ command make -C {ROOT} "$@"; }}
export -f nanochat make
[ ! -f "$STATE" ] || . "$STATE"
cd "$(cat "$STATE.folder" 2> /dev/null || pwd)"
"""
EPILOGUE = 'declare -px | grep -vE " (ARGS|STATE|NANOCHAT|PLAIN)=" > "$STATE"; pwd > "$STATE.folder"\n'


def _cpu_s() -> float:
    """What processes that have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    """Whether nothing is left of it and of what it started, waited for."""
    until = time.monotonic() + STOP_S
    while time.monotonic() < until:
        try:
            process.poll()
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


class Player:
    """A document's home, folder and shell; `counts` says what became of its blocks."""

    def __init__(self, folder: Path, home: Path, corpus: Path, *, is_long: bool, is_active: bool) -> None:
        self.folder, self.home, self.is_long = folder, home, is_long
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._printed = ""
        self._staying: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._corpus, self._port, self._program = corpus, free_port(), f"{BIN}/nanochat"
        others = ":".join(part for part in os.environ["PATH"].split(":") if part != str(BIN))
        self._path = f"{BIN}:{others}" if is_active else others
        self._plain = "--no-prefect" if is_active else ""
        for path in ROOT.iterdir():
            if path.name not in (".git", "nanochat"):
                (folder / path.name).symlink_to(path)
        (folder / "nanochat").write_text(f'#!/bin/sh\nexec {ROOT}/nanochat "$@" $ARGS\n')
        (folder / "nanochat").chmod(0o755)

    def play(self, block: Block) -> None:
        """Run one block, or say why not; what is wrong with it goes to `failures`."""
        if reason := block.marks.get("not here"):
            self.counts[f"not here: {reason}"] += 1
            self._printed = ""
        elif block.language == "output":
            self._compare(block)
        elif block.language in ("sh", "python"):
            self._run(block)
        else:
            self.counts["read only"] += 1

    def close(self) -> None:
        """Stop what stays, the shells and what they started: each ends when it is told to."""
        for place, process in self._staying:
            if process.poll() is not None:
                continue
            os.killpg(process.pid, signal.SIGTERM)
            if not _has_ended(process):
                self.failures.append(f"{place}: goes on after SIGTERM")
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def _copy_the_source(self) -> None:
        """From here on the document has a copy of the source, which it may change, and runs that."""
        for name in ("flows", "tasks", "nanochat_core"):
            (self.folder / name).unlink()
            shutil.copytree(ROOT / name, self.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self._program = f"env PYTHONPATH={self.folder} {sys.executable} -P -m flows"

    def _compare(self, block: Block) -> None:
        if not self._printed:
            self.counts["output of what was not run"] += 1
            return
        self.counts["compared"] += 1
        if missing := missing_lines(block.text, self._printed, block.marks):
            self.failures.append(f"{block.place}: did not come: {missing[0]!r}, of\n{self._printed}")

    def _run(self, block: Block) -> None:
        self._printed = ""
        if "long" in block.marks and not self.is_long:
            self.counts["left to make docs"] += 1
            return
        if "copied" in block.marks:
            self._copy_the_source()
        self.counts["run"] += 1
        self.counts["shrunk"] += "args" in block.marks
        code = block.text.replace("127.0.0.1:8000", f"127.0.0.1:{self._port}")
        code = code if block.language == "sh" else f"{sys.executable} - << 'END'\n{code}END\n"
        script = self.folder / f".block-{block.line}"
        script.write_text(f"{PRELUDE}{block.marks.get('before', '')}\n{code}{EPILOGUE}", encoding="utf-8")
        log, began, cpu = script.with_suffix(".log"), time.monotonic(), _cpu_s()
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", str(script)], cwd=self.folder, env=self._environment(block),
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        if "stays" in block.marks:
            self._staying.append((block.place, process))
            self._wait_for(block, process, log)
        else:
            self._wait(block, process)
        print(f"{time.monotonic() - began:6.0f} s, {_cpu_s() - cpu:4.0f} s of CPU  {block.place}", flush=True)
        self._printed = log.read_text(encoding="utf-8", errors="replace") or "\n"
        wanted = int(block.marks.get("exit", 0))
        if process.poll() not in (None, wanted):
            self.failures.append(f"{block.place}: ended with {process.returncode}, printed\n{self._printed}")

    def _wait(self, block: Block, process: subprocess.Popen[bytes]) -> None:
        try:
            process.wait(timeout=BLOCK_S)
        except subprocess.TimeoutExpired:
            self.failures.append(f"{block.place}: not over after {BLOCK_S} s")
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _wait_for(self, block: Block, process: subprocess.Popen[bytes], log: Path) -> None:
        until = time.monotonic() + BLOCK_S
        while block.marks["stays"] not in log.read_text(encoding="utf-8", errors="replace"):
            if process.poll() is not None or time.monotonic() > until:
                self.failures.append(f"{block.place}: never printed {block.marks['stays']!r}")
                return
            time.sleep(0.1)

    def _environment(self, block: Block) -> dict[str, str]:
        small = " ".join(f"--set {one}" for one in (*MICRO, *MICRO_RL))
        micro = f"{small} --set corpus.source=path --set corpus.path={self._corpus}"
        args = block.marks.get("args", "").replace("$PORT", str(self._port))
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NANOCHAT_", "PREFECT_"))}
        return {
            **kept,
            "HOME": str(self.home),
            "PATH": self._path,
            "COLUMNS": "80",
            "STATE": str(self.folder / ".state"),
            "NANOCHAT": self._program,
            "PLAIN": self._plain,
            "ARGS": args.replace("$MICRO", micro).replace("$SMALL", small),
        }
