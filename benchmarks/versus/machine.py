"""An environment for nanochat, and what is said of the machine above a table."""

import datetime
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from benchmarks.versus.harness import Failed

INFRA = Path(__file__).resolve().parents[2] / "infra"


def environment_of(peer: Path, folder: Path) -> Path:
    """The Python of an environment with what nanochat's pyproject asks for, made where there is none.

    Of torch our own version, in the build that our own setup takes, so that the sides differ in what they do with it.
    """
    python = folder / "environment/bin/python"
    if not (folder / "environment/done").is_file():
        print(f"an environment for nanochat is made in {folder}", file=sys.stderr, flush=True)
        if not (peer / "pyproject.toml").is_file():
            raise Failed(f"{peer} is no checkout of nanochat: git clone https://github.com/karpathy/nanochat")
        project = tomllib.loads((peer / "pyproject.toml").read_text())["project"]
        wanted = [name for name in project["dependencies"] if re.match(r"[\w-]+", name)[0] != "torch"]  # type: ignore[index]
        pin = f"torch=={plain(version('torch'))}"
        fitting = (
            f"import sys; sys.path.insert(0, {str(INFRA)!r}); from install import install_torch; install_torch({pin!r})"
        )
        for command in (
            [sys.executable, "-m", "venv", "--clear", str(folder / "environment")],
            [str(python), "-c", fitting],
            [str(python), "-m", "pip", "install", "-q", pin, "setuptools", *wanted],
        ):
            if subprocess.run(command, stdout=sys.stderr).returncode:
                raise Failed(f"{' '.join(command)} failed; --peer-python PATH takes an environment that is there")
        (folder / "environment/done").touch()
    return python


def plain(number: str) -> str:
    """A version without the build after its plus sign, which an index may not know."""
    return number.partition("+")[0]


def section(
    peer: Path, types: Mapping[str, Mapping[str, str]], *, depth: int, repeats: int, threads: int | None
) -> str:
    """The heading of a machine's tables: what was measured, on what, and how the columns are meant."""
    ours, theirs = _commit(Path(__file__).parent), _commit(peer)
    a, b = types["ours"], types["nanochat"]
    many = f", {threads} thread(s) a process" if threads else ""
    flash = "" if a["device"] != "cuda" else " (without network nanochat finds no FlashAttention 3 and uses SDPA)"
    sides = f"{a['device']} in {a['type']} (ours) and {b['device']} in {b['type']} (nanochat)"
    return (
        f"## Beside nanochat, {datetime.date.today()}, {_processor()}\n\n"
        f"`python -m benchmarks.versus`: {ours} and nanochat {theirs}{flash}, depth {depth}, context 2,048, {sides}, "
        f"torch {a['torch']} and {b['torch']}, Python {platform.python_version()}, {repeats} pair(s) in turn{many}.\n"
        "Medians; ratios are nanochat's over ours, in brackets the least and the largest of a pair. Seconds are of the "
        "work, without imports and loading;\nmemory is the most of the process tree: the sum of PSS, on a GPU what "
        "torch had of it.\n"
    )


def _commit(folder: Path) -> str:
    told = subprocess.run(["git", "-C", str(folder), "describe", "--always", "--dirty"], capture_output=True, text=True)
    return told.stdout.strip() or "of no commit"


def _processor() -> str:
    import os

    import torch

    path = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", path.read_text()) if path.is_file() else []
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return ", ".join([f"{os.cpu_count()} cores ({names[0] if names else platform.processor()})", *gpus])
