"""What a program must not reach: secrets, files, sockets, other processes. Each attack works where nothing stops it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from nanochat_core.base.errors import HardwareError
from nanochat_core.sandbox import Sandbox, landlock

ROOT = Path(__file__).resolve().parents[3]
SECRET = "hunter2-from-the-environment"
# A caller with a secret in its real environment (monkeypatch does not change /proc/<pid>/environ).
CALLER = """
import json, sys
from nanochat_core.base.errors import NanochatError
from nanochat_core.sandbox import Sandbox, landlock
seen = {}
for mode in ("namespaces", "landlock", "unsafe"):
    try:
        with Sandbox(num_workers=1, modes=[mode]) as sandbox:
            seen[mode] = sandbox.run(sys.argv[1]).stdout
    except NanochatError as error:
        seen[mode] = "skipped: " + error.message
print(json.dumps(seen))
"""
READ_ENVIRONMENTS = """
import glob, os
print(sorted(os.environ))
for path in glob.glob("/proc/[0-9]*/environ") + [f"/proc/{n}/environ" for n in ("self", "1", os.getppid())]:
    try:
        found = open(path, "rb").read().partition(b"SECRET_TOKEN=")[2]
        print(found[:40] if found else "")
    except OSError:
        pass
"""


def test_no_environment_is_inherited_or_readable() -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "SECRET_TOKEN": SECRET}
    done = subprocess.run(
        [sys.executable, "-c", CALLER, READ_ENVIRONMENTS], env=environment, capture_output=True, text=True, check=True
    )
    seen = json.loads(done.stdout)
    assert SECRET in seen["unsafe"]  # the program does find it where nothing hides it
    for mode in ("namespaces", "landlock"):
        assert SECRET not in seen[mode]
        assert seen[mode].startswith(("['HOME', 'LANG', 'PATH', 'TMPDIR']", "skipped"))


def test_files_outside_can_be_neither_read_nor_written_nor_deleted(run, bare, open_folder: Path) -> None:
    home = open_folder / "home/.ssh"
    home.mkdir(parents=True)
    (home / "id_rsa").write_text("a private key")
    for path in (open_folder / "home", home):
        path.chmod(0o777)
    (home / "id_rsa").chmod(0o666)
    attack = f"""
import os
def attempt(what):
    try:
        print(what())
    except OSError as error:
        print("refused", type(error).__name__)
key = {str(home / "id_rsa")!r}
attempt(lambda: open(key).read())
attempt(lambda: os.listdir({str(home)!r}))
attempt(lambda: open({str(home / "new")!r}, "w").write("x"))
attempt(lambda: os.symlink(key, "link") or open("link").read())
attempt(lambda: os.link(key, "hard") or open("hard").read())
attempt(lambda: os.truncate(key, 0))
attempt(lambda: os.unlink(key))
"""
    said = run(attack).stdout.splitlines()
    assert len(said) == 7
    assert all(line.startswith("refused") for line in said), said
    assert (home / "id_rsa").read_text() == "a private key"
    assert bare(attack).stdout.startswith("a private key")
    assert not (home / "id_rsa").exists()


def test_the_interpreters_own_files_cannot_be_changed(run) -> None:
    outcome = run("import os\nopen(os.path.join(os.path.dirname(os.__file__), 'planted.py'), 'w')")
    assert outcome.error.startswith(("PermissionError", "OSError: [Errno 30]")), outcome


def test_no_socket_reaches_out(run, bare, open_folder: Path) -> None:
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with udp, socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        udp.bind(("127.0.0.1", 0))
        unix.bind(str(open_folder / "socket"))
        (open_folder / "socket").chmod(0o777)
        unix.listen()
        for one in (tcp, udp, unix):
            one.settimeout(0.2)
        attack = f"""
import socket
for kind, style, address in (
    (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", {tcp.getsockname()[1]})),
    (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", {udp.getsockname()[1]})),
    (socket.AF_UNIX, socket.SOCK_STREAM, {str(open_folder / "socket")!r}),
):
    try:
        line = socket.socket(kind, style)
        line.connect(address)
        line.send(b"secret")
        print("sent")
    except OSError as error:
        print("refused")
"""
        assert run(attack).stdout == "refused\n" * 3
        for accept in (tcp.accept, unix.accept, lambda: udp.recv(10)):
            with pytest.raises(TimeoutError):
                accept()
        assert bare(attack).stdout == "sent\n" * 3
        assert udp.recv(10) == b"secret"
        tcp.accept()[0].close()


def test_no_descriptor_is_inherited_and_stdin_is_empty(sandbox: Sandbox, open_folder: Path) -> None:
    with (open_folder / "opened-by-the-caller").open("w+") as file:
        file.write("inherited")
        file.flush()
        os.set_inheritable(file.fileno(), True)
        with Sandbox(num_workers=1, modes=[sandbox.capabilities()["isolation"]]) as one:
            attack = (
                "import os\nopen_ones = []\nfor fd in range(4096):\n try:\n  os.fstat(fd); open_ones.append(fd)\n"
                " except OSError: pass\nprint(open_ones, os.stat('/dev/null').st_ino == os.fstat(0).st_ino)\ninput()"
            )
            outcome = one.run(attack)
    assert outcome.stdout == "[0, 1, 2, 3] True\n"  # 3 is the line of the verdict
    assert outcome.error.startswith("EOFError")


def test_other_processes_cannot_be_killed_or_changed(run) -> None:
    with subprocess.Popen(["sleep", "60"]) as victim:
        attack = f"""
import os, resource, signal
for pid in ({victim.pid}, {os.getpid()}, os.getppid(), 1, -1):
    try:
        os.kill(pid, 9)
        print(pid, "sent")
    except OSError as error:
        print(pid, "refused")
for attempt in (lambda: resource.prlimit({victim.pid}, resource.RLIMIT_CPU, (1, 1)),
                lambda: os.sched_setaffinity({victim.pid}, [0]), lambda: os.setpriority(0, {victim.pid}, 19)):
    try:
        print(attempt())
    except OSError:
        print("refused")
"""
        outcome = run(attack)
        assert outcome.status == "passed"
        assert outcome.stdout.splitlines()[:2] == [f"{victim.pid} refused", f"{os.getpid()} refused"]
        assert outcome.stdout.splitlines()[-3:] == ["refused"] * 3
        assert victim.poll() is None
        victim.kill()


def test_new_namespaces_and_chroots_are_refused(run) -> None:
    assert run("import os; os.chroot('.')").error.startswith("PermissionError")
    if hasattr(os, "unshare"):  # Python 3.12
        assert run("import os; os.unshare(os.CLONE_NEWUSER)").error.startswith("PermissionError")


def test_this_machine_can_shut_programs_in_and_says_how() -> None:
    with Sandbox(num_workers=1) as one:
        assert set(one.capabilities()) == {"isolation", "network", "files", "kill", "user"}
        assert "seccomp" in one.capabilities()["network"]


def test_without_isolation_it_refuses_and_names_the_way_around() -> None:
    with pytest.raises(HardwareError) as refused, Sandbox(modes=[]):
        pass
    assert "runtime.allow_unsafe_code=true" in refused.value.hint
    with Sandbox(num_workers=1, modes=[], allow_unsafe=True) as one:
        assert one.capabilities()["files"] == "none"
        assert one.run("pass").has_passed


@pytest.mark.parametrize("version", [0, 1, 2])
def test_a_landlock_that_lets_files_be_cut_off_is_refused(version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock, "version", lambda: version)
    with pytest.raises(OSError, match="from version 3 on"):
        landlock.restrict(readable=[], writable=[], is_all=True)


def test_no_capability_is_kept(sandbox: Sandbox) -> None:
    (launcher,) = {one.pid for one in psutil.Process().children() if one.pid == sandbox._idle.queue[0]._launcher.pid}
    (zygote,) = psutil.Process(launcher).children()
    status = Path(f"/proc/{zygote.pid}/status").read_text()
    assert [
        line.split()[1] for line in status.splitlines() if line.startswith(("CapEff", "CapPrm", "CapInh", "CapAmb"))
    ] == ["0" * 16] * 4


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's programs are another user's")
def test_where_roots_programs_cannot_reach_their_folder_it_lies_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = tempfile.mkdtemp()
    monkeypatch.setattr(tempfile, "tempdir", closed)
    with contextlib.ExitStack() as stack:
        try:
            one = stack.enter_context(Sandbox(num_workers=1, modes=["landlock"]))
        except HardwareError as error:
            if "use a Python outside of it" not in str(error):
                raise
            pytest.skip(f"root's Python is in a closed folder: {sys.executable}")
        assert one.run("open('f', 'w').write('x')").has_passed
        assert os.listdir(closed) == []
    os.rmdir(closed)
