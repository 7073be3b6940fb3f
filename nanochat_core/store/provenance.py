"""Who made an artifact: commit and uncommitted changes, arguments, packages, machine, time.

For reading and for making it again, never part of an identity. No host name and no user name: manifests travel. The
arguments and the uncommitted changes come without secrets (base/redaction.py).
"""

import functools
import hashlib
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import MissingError
from nanochat_core.base.fingerprint import PACKAGE_ROOT
from nanochat_core.base.git import git
from nanochat_core.base.redaction import redact, redact_arguments

PACKAGES = (
    "nanochat-prefect", "torch", "numpy", "prefect", "tiktoken", "gigatoken", "ffbpe", "rustbpe", "datasets",
    "pyarrow", "safetensors", "fsspec", "s3fs",
)  # fmt: skip
PACKAGE = __name__.partition(".")[0]
STEPS_BY_CODE = "steps_by_code"
"""Where a manifest says which steps of a training were made by which code; it is there where that were several."""


def collect(*, arguments: list[str], started_at: float) -> dict[str, Any]:
    """Facts about this process for a manifest; `started_at` is a `time.time()`."""
    finished_at = time.time()
    return {
        **git_state(PACKAGE_ROOT),
        "arguments": redact_arguments(arguments),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        **hardware(),
        "started_at": _utc(started_at),
        "finished_at": _utc(finished_at),
        "seconds": round(finished_at - started_at, 3),
    }


def versions() -> list[str]:
    """What a report of a fault needs besides our version, read without importing: commit, Python, torch, Prefect."""
    commit = git_state(PACKAGE_ROOT)["git_commit"]
    parts = [f"commit {commit[:12]}"] if commit else []
    found = {"Python": platform.python_version(), "torch": _version("torch"), "Prefect": _version("prefect")}
    return [*parts, *(f"{name} {version or 'missing'}" for name, version in found.items())]


def steps_by_code(made: Mapping[str, Any]) -> list[str]:
    """Of a manifest's provenance: which steps were made by which code, a line each; none where one code made all."""
    segments: Sequence[Mapping[str, Any]] = made.get(STEPS_BY_CODE) or ()
    return [
        f"steps {each['first_step']:,} to {each['last_step']:,} by "
        + (f"commit {str(each['git_commit'])[:12]}" if each.get("git_commit") else "code")
        + f" (fingerprint {str(each['fingerprint'])[:12]})"
        for each in segments
    ]


def hardware() -> dict[str, Any]:
    """Processor, cores and memory; the GPU's name is among the metrics of the step that used it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    return {
        "cpu": model or platform.processor() or None,
        "cpu_has_bf16": "avx512_bf16" in flags or "amx_bf16" in flags,
        "num_cpus": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def git_state(root: Path) -> dict[str, Any]:
    """Commit of the checkout at `root`, and a digest of what differs from it.

    Only when `root` is the top of the checkout: a package installed below somebody else's repository is not part of it.
    """
    top = _git(root, "rev-parse", "--show-toplevel")
    if top is None or Path(top.strip()).resolve() != root.resolve() or _is_guest(root):
        return {"is_git_checkout": False, "git_commit": None, "git_patch_sha256": None, "num_untracked_files": 0}
    commit = _git(root, "rev-parse", "HEAD")  # None before the first commit
    patch = git_patch(root) if commit else None
    untracked = _git(root, "ls-files", "--others", "--exclude-standard") or ""
    return {
        "is_git_checkout": True,
        "git_commit": commit.strip() if commit else None,
        "git_patch_sha256": hashlib.sha256(patch.encode("utf-8", "surrogateescape")).hexdigest() if patch else None,
        "num_untracked_files": len(untracked.splitlines()),
    }


def _is_guest(root: Path) -> bool:
    """Whether this package only lies in the checkout (`pip install --target .`), which does not know it."""
    return (root / PACKAGE).is_dir() and not _git(root, "ls-files", "--", PACKAGE)


def git_patch(root: Path) -> str | None:
    """What differs from the last commit in the files that git knows; bytes that are no text as surrogates.

    Without secrets, for it is shown: where one was taken out the patch makes another file than the one that ran.
    """
    patch = _git(root, "diff", "HEAD", "--binary", "--no-ext-diff", "--no-textconv")
    return None if patch is None else _redacted_patch(patch)


@functools.lru_cache(maxsize=2)
def _redacted_patch(patch: str) -> str:
    """A patch with the same lines, each without its secrets; those of a binary file are no text to look at."""
    pieces = re.split(r"(?ms)(^GIT binary patch\n.*?(?=^diff --git |\Z))", patch)
    return "".join(piece if number % 2 else redact(piece) for number, piece in enumerate(pieces))


def _git(root: Path, *arguments: str) -> str | None:
    """What git prints; None when it fails or is not installed."""
    try:
        done = git(*arguments, checkout=root, timeout_s=60)
    except (MissingError, OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")
