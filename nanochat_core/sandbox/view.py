"""The files that a program can see: the interpreter's own, read-only, and one private folder.

Two ways to the same view. A file system of its own, built of bind mounts in a mount namespace: nothing else has a
name in it, there is no /proc, the private folder is a tmpfs with a size. Or Landlock rules over the real one.
"""

import os
import sys
import sysconfig
from pathlib import Path

from nanochat_core.sandbox import linux

DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", "/usr/share/zoneinfo")
MAX_INODES = 4096  # of the private folder: files cost kernel memory, however small
FOLDER = "/work"  # the private folder's name in a file system of its own


def interpreter() -> Path:
    """The interpreter behind a virtual environment's link: programs get the standard library on their path."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


def readable() -> tuple[list[Path], list[Path]]:
    """What programs may read: the trees themselves, and the links (/lib -> usr/lib) that lead to them."""
    named = [interpreter(), *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))]
    named += [Path(sys.base_prefix, folder) for folder in ("lib", "lib64")]
    named += [Path(folder) for folder in SYSTEM]
    links = [path for path in named if path.is_symlink()]
    trees = sorted({path.resolve() for path in named if path.exists()})
    return [path for path in trees if not any(path.is_relative_to(other) for other in trees if other != path)], links


def build(root: Path, *, folder_mib: int, user: int, group: int) -> None:
    """Mount the view at `root`, in a mount namespace of this process; pivot_root makes it the only one."""
    linux.mount(None, "/", None, linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("tmpfs", str(root), "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "size=1m,mode=755")
    trees, links = readable()
    for source in [*trees, *map(Path, DEVICES)]:
        target = root / source.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.touch()
        if str(source) in DEVICES:
            linux.mount(str(source), str(target), None, linux.MS_BIND)
        else:
            linux.bind_read_only(source, str(target))
    for link in links:
        shown = root / link.relative_to("/")
        shown.parent.mkdir(parents=True, exist_ok=True)
        if not shown.exists():
            shown.symlink_to(os.readlink(link))
    (root / FOLDER[1:]).mkdir()
    # noexec: a library or program that generated code writes there cannot be loaded or run.
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    options = f"size={folder_mib}m,nr_inodes={MAX_INODES},mode=700,uid={user},gid={group}"
    linux.mount("tmpfs", str(root / FOLDER[1:]), "tmpfs", flags, options)
    linux.mount(None, str(root), None, linux.MS_REMOUNT | linux.MS_RDONLY | linux.MS_NOSUID | linux.MS_NODEV)
