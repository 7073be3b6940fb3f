"""What breaks with the newest packages, while it is still others' news: `make newest`, weekly by `.ci/weekly`.

    .venv/bin/python tests/newest.py [--packages prefect,torch] [--parts tests/flows,tests/tasks] [--out table.md]

An environment of its own below build/newest has the locked packages and then the newest of each that pyproject.toml
names, past our upper limits; those that packages set each other hold. In it the tests run, part by part. What fails
there runs again with the locked packages: so the table tells what the newest broke from what was broken before. Exits
with 1 when something failed with the newest.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from matrix import COMMAND_S, PART_S, ROOT, locks, make_environment

PARTS = ("tests/tasks", "tests/flows", "tests/faults", "tests/pipeline", "tests/core", "tests/clients")
PARALLEL = ("-n", "2", "--dist", "loadfile")
SHOWN = 3  # failures of a part in the table; all of them are on stderr


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", default="", help="take the newest of these only (default: all that are named)")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--out", type=Path, help="write the table there too")
    options = parser.parse_args()
    torch = next(line for line in locks() if line.startswith("torch=="))
    newest = make_environment(Path(sys.executable), ROOT / "build/newest", torch)
    names = set(filter(None, options.packages.split(",")))
    wanted = [each for each in unlimited() if not names or re.match(r"[\w.-]+", each)[0] in names]
    pip = [newest / "bin/python", "-m", "pip", "install", "--quiet", "--upgrade"]
    subprocess.run([*pip, *wanted], check=True, timeout=PART_S)
    rows = [packages(newest)]
    is_broken = False
    for part in options.parts.split(","):
        cell, failed = tried(newest, *PARALLEL, part)
        before = tried(Path(sys.prefix), *failed)[0] if failed else "–"
        told = "<br>".join(failed[:SHOWN]) + (f"<br>and {len(failed) - SHOWN} more" if len(failed) > SHOWN else "")
        rows.append(f"| {part} | {cell} | {before} | {told} |")
        is_broken |= not cell.startswith("ok")
        print(rows[-1], file=sys.stderr, flush=True)
    table = "\n".join(rows)
    print(table)
    if options.out:
        options.out.write_text(table + "\n")
    return int(is_broken)


def unlimited() -> list[str]:
    """What pyproject.toml wants for a run, without upper limits."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return [re.sub(r",?<[\w.]+|==[\w.]+", "", each) for each in wanted]


def packages(newest: Path) -> str:
    """The head of the table: what differs from the lock."""
    code = [newest / "bin/python", "-m", "pip", "list", "--format", "json"]
    done = subprocess.run(code, check=True, capture_output=True, timeout=COMMAND_S)
    there = {_plain(one["name"]): one["version"] for one in json.loads(done.stdout)}
    locked = {_plain(name): version for name, _, version in (line.partition("==") for line in locks())}
    other = [f"{name} {old} → {there[name]}" for name, old in locked.items() if there.get(name, old) != old]
    head = "| tests | newest | the same with the lock | failed |\n|---|---|---|---|"
    return f"Newest, where it differs from the lock: {', '.join(other) or 'nothing'}.\n\n{head}"


def _plain(name: str) -> str:
    return re.sub(r"[._-]+", "-", name).lower()


def tried(environment: Path, *arguments: str) -> tuple[str, list[str]]:
    """`ok: 45 passed`, or what is wrong, and the names of the tests that failed."""
    command = [environment / "bin/python", "-m", "pytest", "-m", "not torture", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=PART_S)
    except subprocess.TimeoutExpired:
        return f"no end within {PART_S} s", []
    lines = re.findall(r"^(?:FAILED|ERROR) (.*)", done.stdout, re.MULTILINE)
    print("\n".join(lines), file=sys.stderr, end="\n" * bool(lines))
    counts = re.findall(r"\d+ (?:passed|failed|errors?)", done.stdout.strip().rpartition("\n")[2])
    says = ", ".join(counts) or f"exit {done.returncode}: {(done.stdout + done.stderr).strip()[-200:]!r}"
    return ("ok: " if done.returncode == 0 else "") + says, [line.split(" - ")[0] for line in lines]


if __name__ == "__main__":
    sys.exit(main())
