"""Installs what a run needs into the environment of the Python that runs it, with the build of torch for this machine.

PyPI's torch for Linux is the CUDA build, of no use without an NVIDIA GPU and 4 GB larger than the CPU build. So
torch comes first, from an index that has the build that fits, and the lock then finds it there. Whoever told pip where
packages are (an index, a folder of wheels, no index) is asked nothing more: there pip decides, and says which build it
will be. Only where its places are beside PyPI, and PyPI's CUDA would come, the index of the CPU's builds is tried.
`make setup` calls it; TORCH_INDEX names an index, HASHES=1 checks digests. Standard library only: nothing is installed.
"""

import ast
import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PIP = (sys.executable, "-m", "pip")
SOURCES = {"index-url", "extra-index-url", "find-links", "no-index"}
BESIDE_PYPI = {"extra-index-url", "find-links"}
PYPI = ("https://pypi.org/simple", "https://pypi.org/simple/")
PYTORCH = "https://download.pytorch.org/whl"
PYPI_CUDA = 13  # of torch 2.13 on PyPI; drivers before 580 know no more than 12
CUDA_12 = ("cu129", "cu128", "cu126")  # any driver of CUDA 12 runs each: the newest that has this torch
PROBE_S = 60
SIZES = {
    "cpu": "CPU build: 0.4 GB to download, 1.7 GB on the disk, two to three minutes",
    "cuda": "CUDA build: 5.7 GB on the disk, five minutes and more",
    "unknown": "1.7 GB on the disk and three minutes if that is the CPU build, 5.7 GB and five if it is CUDA's",
}


@dataclass(frozen=True)
class Machine:
    """What decides which build of torch is of use."""

    system: str
    """As platform.system() says it."""
    has_nvidia: bool = False
    cuda: int | None = None
    """The newest major version of CUDA that the driver knows; None: it does not say."""


@dataclass(frozen=True)
class Source:
    """Where torch may come from: by uv, from an index (tried before it is used), or as pip is configured."""

    kind: str
    """uv, index or pip."""
    size: str
    why: str
    index: str | None = None
    is_a_must: bool = False


def choose(
    machine: Machine, *, configured: Iterable[str] = (), pips: str = "unknown", index: str = "", has_uv: bool = False
) -> list[Source]:
    """Where to take torch from, best first; the last is what pip does by itself.

    `configured`: which options of SOURCES pip was given; `pips`: the build that it would take so. `index`: the one that
    was named, which is taken or nothing.
    """
    if index:
        return [Source("index", "unknown", "as TORCH_INDEX says", index, is_a_must=True)]
    if names := sorted(configured):
        told = Source("pip", pips, f"from where pip is told to look ({', '.join(names)})")
        if pips != "cuda" or machine.has_nvidia or not BESIDE_PYPI.issuperset(names):
            return [told]
        return [Source("index", "cpu", "as there is no NVIDIA GPU, and pip would take CUDA's", f"{PYTORCH}/cpu"), told]
    plain = Source("pip", "cuda" if machine.system == "Linux" else "cpu", "from PyPI")
    if machine.system != "Linux":
        return [plain]
    if not machine.has_nvidia:
        found = [Source("index", "cpu", "as there is no NVIDIA GPU", f"{PYTORCH}/cpu")]
        last = Source("pip", "cuda", "from PyPI, although there is no NVIDIA GPU")
    elif machine.cuda is None or machine.cuda >= PYPI_CUDA:
        found, last = [], plain
    else:
        old = f"for a driver that knows CUDA {machine.cuda}"
        found = [Source("index", "cuda", old, f"{PYTORCH}/{name}") for name in CUDA_12 if machine.cuda == 12]
        last = Source("pip", "cuda", f"from PyPI; CUDA {PYPI_CUDA}, so the GPU needs a driver of 580 or newer")
    by_uv = [Source("uv", "cuda" if machine.has_nvidia else "cpu", "chosen by uv (--torch-backend auto)")]
    return [*(by_uv if has_uv else []), *found, last]


def told_to_pip(listing: str) -> set[str]:
    """Which options of SOURCES are set, by `pip config list`; PyPI itself, and an option that is off, say nothing."""
    found = set()
    for line in listing.splitlines():
        name, _, text = line.partition("=")
        option = name.rpartition(".")[2]
        value = ast.literal_eval(text) if text[:1] in "'\"" else text
        if option in SOURCES and value.strip() and value not in PYPI and value not in ("0", "false", "no", "off"):
            found.add(option)
    return found


def build_of(version: str, url: str) -> str:
    """The build that a wheel is: cpu, cuda or unknown. PyPI's, which has no local version, is CUDA's on Linux."""
    local = version.partition("+")[2]
    if local.startswith(("cpu", "cu")):
        return "cpu" if local == "cpu" else "cuda"
    return "cuda" if not local and "files.pythonhosted.org" in url and "linux" in url else "unknown"


def pips_build(pin: str) -> str:
    """The build that pip would take by itself: it is asked without a download."""
    asked = [*PIP, "install", "--dry-run", "--quiet", "--no-deps", "--ignore-installed", "--report", "-", pin]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PROBE_S)
        found = json.loads(done.stdout)["install"][0]
        return build_of(found["metadata"]["version"], found["download_info"]["url"])
    except (subprocess.TimeoutExpired, ValueError, LookupError):
        return "unknown"


def cuda_of(smi: str) -> int | None:
    """The major version that nvidia-smi's heading names."""
    found = re.search(r"CUDA (?:UMD )?Version: *(\d+)", smi)
    return int(found[1]) if found else None


def this_machine() -> Machine:
    """Asks nvidia-smi; where it is not on the path, whether the driver is loaded."""
    system, smi = platform.system(), shutil.which("nvidia-smi")
    if smi is None:
        return Machine(system, has_nvidia=Path("/proc/driver/nvidia/version").exists())
    try:
        done = subprocess.run([smi], capture_output=True, text=True, timeout=PROBE_S)
    except (OSError, subprocess.TimeoutExpired):
        return Machine(system)
    return Machine(system, done.returncode == 0, cuda_of(done.stdout)) if done.returncode == 0 else Machine(system)


def locked_torch(lock: str) -> str:
    """torch's line of the lock."""
    return next(line for line in lock.splitlines() if line.startswith("torch=="))


def is_there(pin: str) -> bool:
    """Whether torch is installed in the locked version, whatever its build."""
    try:
        return importlib.metadata.version("torch").partition("+")[0] == pin.partition("==")[2]
    except importlib.metadata.PackageNotFoundError:
        return False


def offers(index: str, pin: str) -> bool:
    """Whether pip reaches an index, and finds this torch for this Python there; seconds, where nobody answers."""
    asked = [*PIP, "index", "versions", "torch", "--index-url", index, "--retries", "0", "--timeout", "15"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=PROBE_S)
    except subprocess.TimeoutExpired:
        return False
    return re.search(rf"\b{re.escape(pin.partition('==')[2])}(?![\w.])", done.stdout) is not None


def command(source: Source, pin: str) -> list[str]:
    """What installs torch from there: alone, since the lock has what it needs."""
    if source.kind == "uv":
        chosen = [] if os.environ.get("UV_TORCH_BACKEND") else ["--torch-backend", "auto"]
        return ["uv", "pip", "install", "--quiet", "--python", sys.executable, "--no-deps", *chosen, pin]
    again = ["--force-reinstall"] if source.is_a_must else []  # another build of the version that is there
    return [*PIP, "install", "--quiet", "--no-deps", *again, "--index-url", str(source.index), pin]


def install_torch(pin: str) -> None:
    """Torch from the first source that has it, said before it is fetched; from pip's own it comes with the lock."""
    listing = subprocess.run([*PIP, "config", "list"], capture_output=True, text=True, timeout=PROBE_S).stdout
    index, has_uv = os.environ.get("TORCH_INDEX", ""), shutil.which("uv") is not None
    told = told_to_pip(listing)
    pips = pips_build(pin) if told and not index else "unknown"
    for source in choose(this_machine(), configured=told, pips=pips, index=index, has_uv=has_uv):
        where = f" ({source.index})" if source.index else ""
        if source.kind == "index" and not source.is_a_must and not offers(str(source.index), pin):
            print(f"{source.index} cannot be reached, or has no {pin} for this Python", flush=True)
            continue
        print(f"installing the locked packages, once; {pin} {source.why}{where}. {SIZES[source.size]}", flush=True)
        if source.kind == "pip" or subprocess.run(command(source, pin)).returncode == 0:
            return
        if source.is_a_must:
            sys.exit(f"{source.index} gave no {pin}: name another as TORCH_INDEX, or leave it out")


def install() -> None:
    """The locked packages, the project itself, and its start-up line for proxies."""
    started, lock = time.monotonic(), ROOT / "requirements.lock"
    pin = locked_torch(lock.read_text(encoding="utf-8"))
    if os.environ.get("TORCH_INDEX") or not is_there(pin):
        install_torch(pin)
    quietly = (*PIP, "install", "--quiet")
    if os.environ.get("HASHES"):
        subprocess.run([*quietly, "--no-deps", "--require-hashes", "-r", ROOT / "requirements.hashes"], check=True)
    subprocess.run([*quietly, "-r", lock], check=True)
    subprocess.run([*quietly, "--no-deps", "--no-build-isolation", "-e", ROOT], check=True)
    subprocess.run([sys.executable, "-m", "nanochat_core.base.proxies"], check=True, cwd=ROOT)
    held = sum(path.lstat().st_size for path in Path(sys.prefix).rglob("*"))
    importlib.invalidate_caches()
    build = importlib.metadata.version("torch")
    print(f"installed in {time.monotonic() - started:.0f} s: torch {build}, {held / 1e9:.1f} GB in {sys.prefix}")


if __name__ == "__main__":
    try:
        install()
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
