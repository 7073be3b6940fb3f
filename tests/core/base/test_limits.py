"""What a limit says is told as what it is, wherever it is met: exit code 4, the limit's name, what raises it."""

import errno
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nanochat_core.base import child, files, limits
from nanochat_core.base.errors import HardwareError, MissingError, NanochatError
from nanochat_core.base.limits import limit_error, limit_in_text
from nanochat_core.base.records import failure, told

ROOT = Path(__file__).resolve().parents[3]


def met(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))


def caused(by: BaseException, error: Exception) -> Exception:
    error.__cause__ = by
    return error


class ByRank(RuntimeError):
    """As torch's checkpoints fail: what happened on each rank, and a word for all."""

    failures = {0: (met(errno.ENOSPC), "traceback")}  # noqa: RUF012


EXCEPTIONS = [
    (met(errno.ENOSPC, "/data/x"), "the disk is full: /data/x", "free some space"),
    (met(errno.EDQUOT, "/data/x"), "quota is used up: /data/x", "remove files"),
    (met(errno.EMFILE), "`ulimit -n` is", "raise `ulimit -n`"),
    (met(errno.ENFILE), "on this machine", "fs.file-max"),
    (met(errno.EFBIG, "/data/x"), "larger than is allowed", "ulimit -f unlimited"),
    (met(errno.ENOMEM), "no memory left", "end other programs"),
    (met(errno.EACCES, "/home/of/ann"), "no permission: /home/of/ann", "NANOCHAT_HOME"),
    (met(errno.EROFS, "/read/only"), "no permission: /read/only", "NANOCHAT_HOME"),
    (MemoryError(), "no memory left", "end other programs"),
    (BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)), "`ulimit -u` is", "raise `ulimit -u`"),
    (RuntimeError("can't start new thread"), "`ulimit -u` is", "raise `ulimit -u`"),
    (sqlite3.OperationalError("database or disk is full"), "the disk is full", "free some space"),
    (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "full", "free"),
    (RuntimeError("unable to write to file </torch_7>: No space left on device (28)"), "full", "free"),
    (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "temporary", "TMPDIR"),
    (ImportError("libtorch.so: failed to map segment from shared object"), "no memory left", "end other"),
    (caused(met(errno.EMFILE), MissingError("x cannot be read: Too many open files")), "ulimit -n", "4096"),
    (caused(caused(met(errno.ENOSPC, "/y"), ValueError("?")), KeyError("z")), "the disk is full: /y", "free"),
    (ExceptionGroup("two", [ValueError("?"), met(errno.ENOSPC)]), "the disk is full", "free"),
    (ByRank("failed"), "the disk is full", "free"),
]  # fmt: skip


@pytest.mark.parametrize(("error", "said", "cure"), EXCEPTIONS, ids=lambda value: str(value)[:40])
def test_a_limit_is_named_whoever_met_it(error, said, cure):
    limit = limit_error(error)
    assert limit is not None
    assert limit.exit_code == 4
    assert said in limit.message
    assert cure in (limit.hint or "")
    assert "\n" not in limit.message


@pytest.mark.parametrize(
    "error",
    [
        ValueError("5 is no number"), met(errno.ENOENT, "/x"), met(errno.EACCES), ConnectionResetError("x"),
        BlockingIOError(errno.EAGAIN, "write could not complete without blocking"),
        HardwareError("port 80 is in use"), NanochatError("a text about: No space left on device"),
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_limit_stays_what_it_is(error):
    assert limit_error(error) is None


def test_a_limit_that_names_no_file_says_where_to_look():
    limit = limit_error(met(errno.ENOSPC), doing="writing records", near=Path("/a/home"))
    assert limit is not None
    assert limit.message == "the disk is full while writing records: near /a/home"


def test_a_child_tells_its_limit_as_a_typed_error_that_the_parent_raises_again(tmp_path, capsys):
    result = told(met(errno.EMFILE, "/x"))
    assert result == failure(limits.told(limits.OPEN, where="/x"))
    assert "Too many open files" in capsys.readouterr().err  # its own words stay in the log
    assert told(ValueError("a\nb")) == {"status": "crashed", "message": "ValueError: a"}


CHILD = """
import resource, os, sys, threading
{body}
"""
BODIES = {
    "file size": "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); open({where!r}, 'wb').write(bytes(9000))",
    "file size, by its signal": (
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_DFL)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)); os.write(os.open({where!r}, 65), bytes(9000))\n"
        "os.write(os.open({where!r}, 1025), bytes(9000))"
    ),
    "open files": "resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32)); x = [open('/dev/null') for _ in range(99)]",
    "address space": "resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28)); x = bytearray(1 << 29)",
}  # fmt: skip


@pytest.mark.parametrize(("limit", "said"), zip(BODIES, ["allowed", "allowed", "open files", "memory"], strict=True))
def test_a_child_that_only_dies_has_its_limit_found_in_its_log_or_its_signal(tmp_path, limit, said):
    body = BODIES[limit].format(where=str(tmp_path / "big"))
    with pytest.raises(HardwareError, match=said):
        child.run_child(
            [sys.executable, "-c", CHILD.format(body=body)], tmp_path, on_record=lambda record: None, environment={}
        )


def test_a_child_that_could_not_even_write_is_explained_by_looking_at_the_disk(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda folder: 0 if folder == tmp_path else 1 << 40)
    with pytest.raises(HardwareError, match=f"the disk is full: {tmp_path}"):
        child.run_child(
            [sys.executable, "-c", "raise SystemExit(1)"], tmp_path, on_record=lambda record: None, environment={}
        )


def test_the_soft_limit_of_open_files_is_raised_to_the_hard_one():
    code = (
        "import resource; from nanochat_core.base.limits import raise_open_files\n"
        "hard = min(resource.getrlimit(7)[1], 900); resource.setrlimit(7, (64, hard)); raise_open_files()\n"
        "assert resource.getrlimit(7) == (hard, hard), resource.getrlimit(7)"
    )
    assert resource.RLIMIT_NOFILE == 7
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


def test_texts_of_logs():
    assert limit_in_text("...\nOSError: [Errno 28] No space left on device\n") is not None
    assert limit_in_text("", returncode=-signal.SIGXFSZ) is not None
    assert limit_in_text("ValueError: 5", returncode=1) is None


def nano(tmp_path: Path, *arguments: str, before: Callable[[], None]) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "NANOCHAT_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    environment.pop("NANOCHAT_STORE", None)
    command = [sys.executable, "-m", "flows.cli", "run", "tiny", "--no-prefect", "--until", "corpus", *arguments]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, preexec_fn=before, cwd=tmp_path
    )


def test_a_run_that_meets_a_limit_ends_with_one_line_and_goes_on_without_it(tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text/a.jsonl").write_text("".join(json.dumps({"text": f"line {n} " * 90}) + "\n" for n in range(300)))
    settings = ("--set", "corpus.source=path", "--set", f"corpus.path={tmp_path / 'text'}")
    limited = nano(
        tmp_path, *settings, before=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))
    )
    assert limited.returncode == 4, limited.stderr
    assert "Traceback" not in limited.stderr
    lines = limited.stderr.strip().splitlines()
    assert any(line.startswith("error: a file would be larger than is allowed") for line in lines), lines
    assert any(line.startswith("hint: `ulimit -f unlimited`") for line in lines), lines
    free = nano(tmp_path, *settings, before=lambda: None)
    assert free.returncode == 0, free.stderr
