"""Arrays in files, mapped into memory; read whole where the file system maps nothing (some of FUSE, 9p)."""

import errno
from pathlib import Path
from typing import Any

import numpy as np

NO_MAPS = {errno.ENODEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EACCES, errno.EPERM}


def open_npy(path: Path) -> np.ndarray:
    """A .npy file, read-only."""
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except OSError as error:
        if error.errno not in NO_MAPS:
            raise
    return np.load(path, allow_pickle=False)  # type: ignore[no-any-return]


def open_raw(path: Path, dtype: Any) -> np.ndarray:
    """A file of nothing but numbers, read-only; it must not be empty."""
    try:
        return np.memmap(path, dtype=dtype, mode="r")
    except OSError as error:
        if error.errno not in NO_MAPS:
            raise
    return np.fromfile(path, dtype=dtype)
