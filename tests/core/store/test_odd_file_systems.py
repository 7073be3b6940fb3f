"""A store and its leases work on file systems that lack something, and on one that two people share."""

import errno
import fcntl
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nanochat_core.base import files, locks
from nanochat_core.base.arrays import open_npy, open_raw
from nanochat_core.store import Store
from nanochat_core.store.gc import clean
from nanochat_core.store.reach import Policy

ROOT = Path(__file__).resolve().parents[3]
NOTHING: dict[str, object] = {"inputs": {}, "config": {}, "code": {}, "packages": {}, "metrics": {}, "provenance": {}}


def refusing(number: int, *, when: Callable[..., bool] = lambda *_: True, real: Callable | None = None) -> Callable:
    def refuse(*arguments: object, **options: object) -> object:
        if when(*arguments):
            raise OSError(number, os.strerror(number))
        assert real is not None
        return real(*arguments, **options)

    return refuse


def is_folder(descriptor: int) -> bool:
    return stat.S_ISDIR(os.fstat(descriptor).st_mode)


LACKS = {
    **{f"flock {errno.errorcode[n]}": (("flock", n),) for n in sorted(locks.NO_LOCKS)},
    **{f"link {errno.errorcode[n]}": (("link", n),) for n in (errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV)},
    **{f"symlink {errno.errorcode[n]}": (("symlink", n),) for n in (errno.EPERM, errno.EOPNOTSUPP)},
    "no links at all": (("link", errno.EPERM), ("symlink", errno.EPERM)),
    **{f"fsync of folders {errno.errorcode[n]}": (("fsync", n),) for n in (errno.EINVAL, errno.EBADF, errno.EACCES)},
    **{f"chmod {errno.errorcode[n]}": (("chmod", n),) for n in (errno.EPERM, errno.EOPNOTSUPP)},
    "renames of folders": (("replace", errno.EXDEV),),
}  # fmt: skip


@pytest.fixture(params=list(LACKS))
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for call, number in LACKS[request.param]:
        if call == "flock":
            monkeypatch.setattr(fcntl, "flock", refusing(number))
        elif call == "fsync":
            monkeypatch.setattr(os, "fsync", refusing(number, when=is_folder, real=os.fsync))
        elif call == "chmod":
            monkeypatch.setattr(os, "chmod", refusing(number))
            monkeypatch.setattr(os, "fchmod", refusing(number))
        elif call == "replace":
            monkeypatch.setattr(os, "replace", refusing(number, when=_comes_from_elsewhere, real=os.replace))
        else:
            monkeypatch.setattr(os, call, refusing(number))
    return str(request.param)


def _comes_from_elsewhere(source: object, target: object) -> bool:
    """A folder of a lower layer of an overlay; its copy may be renamed."""
    return os.path.isdir(str(source)) and not os.path.basename(str(source)).startswith(".")


def use(folder: Path) -> None:
    """All that a run and a gc do with a store."""
    made = folder / "made"
    (made / "log").mkdir(parents=True)
    (made / "data").write_bytes(b"x" * 100_000)
    (made / "log/out").write_bytes(b"text")
    store = Store.open(str(folder / "store"), cache_folder=folder / "home/cache")
    for fingerprint in ("f1", "f2"):
        with store.lease("s", fingerprint, owner="me") as lease:
            partial = store.partial("s", fingerprint, lease=lease)
            partial.put_folder(made, "step-1")
            assert partial.get_folder("step-1", folder / f"back-{fingerprint}")
            artifact = store.publish(made, step="s", fingerprint=fingerprint, lease=lease, **NOTHING)
            partial.clear()
    for _ in range(2):
        view = store.fetch(artifact)
        assert (view / "data").read_bytes() == b"x" * 100_000
        assert sorted(path.name for path in view.rglob("*") if path.is_file()) == ["data", "out"]
    assert store.reuse("s", "f1") is not None
    store.set_ref("name", "v1", artifact)
    with store.lease("s", "f2", owner="again"):
        clean(store, folder / "home", Policy(keep_runs=0, keep_days=0, grace_s=0))
    store.put_run("r1", {})
    assert store.runs() == ["r1"]
    (view / "data").read_bytes()


def test_a_store_works_where_the_file_system_lacks(lacking, tmp_path):
    use(tmp_path)


@pytest.fixture
def fat(tmp_path: Path) -> Iterator[Path]:
    """A real file system without links and modes, with coarse times and names of any case."""
    image, folder = tmp_path / "fat.img", tmp_path / "fat"
    folder.mkdir()
    if shutil.which("mkfs.vfat") is None or os.geteuid() != 0:
        pytest.skip("a FAT image can be made with mkfs.vfat and mounted by root only")
    with image.open("wb") as file:
        file.truncate(40 << 20)
    subprocess.run(["mkfs.vfat", str(image)], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True).returncode:
        pytest.skip("this machine mounts no images")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_store_works_on_fat(fat):
    use(fat)


def test_without_locks_what_is_young_counts_as_in_use_and_that_is_said_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOSYS))
    monkeypatch.setattr(locks, "_told", set())
    young, old = tmp_path / "young", tmp_path / "old"
    for path in (young, old):
        path.touch()
    long_ago = time.time() - locks.UNLOCKED_KEPT_S - 60
    os.utime(old, (long_ago, long_ago))
    for _ in range(2):
        with locks.try_exclusive(young) as is_ours:
            assert is_ours is False
        with locks.try_exclusive(old) as is_ours:
            assert is_ours is True
    assert [record.getMessage() for record in caplog.records if "cannot be locked" in record.getMessage()] != []
    assert len(caplog.records) == 1


def test_a_fault_of_the_disk_is_no_lack_of_the_file_system(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    monkeypatch.setattr(os, "fsync", refusing(errno.EIO))
    for call in (lambda: files.sync(tmp_path / "a"), lambda: files.sync_folder(tmp_path)):
        with pytest.raises(OSError, match="Input/output error"):
            call()
    monkeypatch.setattr(os, "link", refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space left"):
        files.link_or_copy(tmp_path / "a", tmp_path / "b")


def test_files_and_folders_move_across_devices(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("file")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/inner").write_text("folder")
    sources = (str(tmp_path / "a"), str(tmp_path / "d"))
    monkeypatch.setattr(
        os, "replace", refusing(errno.EXDEV, when=lambda source, _: str(source) in sources, real=os.replace)
    )
    files.move(tmp_path / "a", tmp_path / "b")
    files.move(tmp_path / "d", tmp_path / "e")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "e"]
    assert (tmp_path / "b").read_text() + (tmp_path / "e/inner").read_text() == "filefolder"


def test_arrays_are_read_where_nothing_can_be_mapped(tmp_path, monkeypatch):
    import numpy as np

    values = np.arange(10, dtype=np.uint16)
    np.save(tmp_path / "a.npy", values)
    values.tofile(tmp_path / "a.bin")
    monkeypatch.setattr(np, "memmap", refusing(errno.ENODEV))
    monkeypatch.setattr(np, "load", refusing(errno.ENODEV, when=lambda path: False, real=_load_unmapped(np.load)))
    assert (open_npy(tmp_path / "a.npy") == values).all()
    assert (open_raw(tmp_path / "a.bin", np.uint16) == values).all()


def _load_unmapped(real: Callable) -> Callable:
    def load(path: Path, mmap_mode: str | None = None, **options: object) -> object:
        if mmap_mode:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        return real(path, **options)

    return load


def test_a_file_system_that_tells_no_free_space_is_not_full(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(0, 0, 0))
    assert files.free_bytes(tmp_path) is None


def test_half_a_file_of_a_full_disk_is_not_left(tmp_path, monkeypatch):
    target = tmp_path / "notes"
    target.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", refusing(errno.ENOSPC))
    with pytest.raises(OSError, match="No space"):
        files.write_whole(target, b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
    assert target.read_bytes() == b"old"


# --- a store that two people share ---

GROUP, ANN, BEN, EVE, OTHERS = 61000, 61001, 61002, 61003, 61009
AS_SOMEBODY = """
import os, sys
from pathlib import Path
from nanochat_core.base.errors import NanochatError
from nanochat_core.base import files
from nanochat_core.store import Store
from nanochat_core.store.gc import collect
from nanochat_core.store.reach import Policy

user, group, store_folder, own, doing = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], Path(sys.argv[4]), sys.argv[5]
os.setgroups([])
os.setgid(group)
os.setuid(user)
os.umask(0o077)
nothing = dict(inputs={}, config={}, code={}, packages={}, metrics={}, provenance={})
try:
    store = Store.open(store_folder, cache_folder=own / "cache")
    if doing == "make":
        (own / "made").mkdir()
        (own / "made/a").write_bytes(os.urandom(1000))
        with store.lease("s", "f1", owner=str(user)) as lease:
            partial = store.partial("s", "f1", lease=lease)
            partial.put_folder(own / "made", "step-1")
            inside = partial.folder / "step-2"
            partial.make_folder(inside)
            files.adopt_rights(partial.folder)
            (inside / "shard").write_text("of a rank")
            store.publish(own / "made", step="s", fingerprint=f"of{user}", lease=None, **nothing)
            store.put_run(f"r{user}", {})
    elif doing == "use":
        with store.lease("s", "f1", owner=str(user)) as lease:
            partial = store.partial("s", "f1", lease=lease)
            assert partial.get_folder("step-1", own / "back")
            assert (partial.folder / "step-2/shard").read_text() == "of a rank"
            partial.clear()
        found = store.reuse("s", sys.argv[6])
        assert (store.fetch(found) / "a").stat().st_size == 1000
        assert len(store.runs()) == 1
        collect(store, Policy(keep_runs=0, keep_days=0, grace_s=0))
        assert not [key for key in store.files.keys("") if key.startswith("blobs/")], store.files.keys("")
    else:
        store.put_run("x", {})
except NanochatError as error:
    print(type(error).__name__, error.message, "|", error.hint)
else:
    print("ok")
"""


@pytest.fixture(params=["store", "store/made/by the first"])
def shared_store(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that a group may write to, or one to be made in it, outside of what pytest keeps from other users."""
    if os.geteuid() != 0:
        pytest.skip("only root can be two people")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        store = folder / "store"
        store.mkdir()
        os.chown(store, ANN, GROUP)
        store.chmod(0o2770)
        yield folder / request.param


def as_somebody(user: int, group: int, store: Path, *arguments: str) -> str:
    own = store.parents[len(store.parts) - store.parts.index("store") - 1] / f"home-{user}"
    own.mkdir(exist_ok=True)
    os.chown(own, user, group)
    command = [sys.executable, "-c", AS_SOMEBODY, str(user), str(group), str(store), str(own), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(own)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    return (done.stdout + done.stderr).strip()


def test_what_one_makes_in_a_groups_store_the_other_reads_replaces_and_collects(shared_store):
    """Both with a umask of 077, which is for their own files."""
    assert as_somebody(ANN, GROUP, shared_store, "make") == "ok"
    assert as_somebody(BEN, GROUP, shared_store, "use", f"of{ANN}") == "ok"
    assert as_somebody(ANN, GROUP, shared_store, "put") == "ok"


def test_somebody_of_another_group_reads_whose_the_store_is_and_what_its_owner_can_do(shared_store):
    said = as_somebody(EVE, OTHERS, shared_store, "put")
    assert said.startswith("MissingError no permission"), said
    assert str(shared_store) in said
    assert "chmod -R g+rwX" in said


def test_a_store_of_one_person_stays_private(tmp_path):
    before = os.umask(0o077)
    try:
        store = Store.open(str(tmp_path / "store"), cache_folder=tmp_path / "cache")
        store.put_run("r1", {})
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "store").rglob("*")}
    assert modes == {0}
