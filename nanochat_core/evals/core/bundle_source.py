"""Where CORE's data come from: a folder, a zip or a URL of a zip, put into a folder as bundle.py reads it.

Apart from bundle.py so that the steps that read a bundle do not depend on the code that fetches one. The digest of a
bundle is of the content, so that a zip and the same files unpacked are one.
"""

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError
from nanochat_core.base.foreign import ForeignZip
from nanochat_core.config import CoreConfig
from nanochat_core.data.download import fetch_file
from nanochat_core.data.hub import Patience
from nanochat_core.evals.core.bundle import DATA, TABLE, TASKS, Bundle, file_sha256, read_bundle


def obtain_bundle(config: CoreConfig, out: Path, *, downloads: Path) -> dict[str, Any]:
    """Put the bundle that the settings name into `out`; what has to be fetched or unpacked goes through `downloads`."""
    bundle = bundle_of_config(config, downloads)
    for name in bundle.files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(bundle.root / name, out / name)
    return {
        "num_benchmarks": len(bundle.benchmarks),
        "missing": list(bundle.missing),
        "bundle_digest": bundle.digest,
        "archive_sha256": bundle.archive_sha256,
        "num_bytes": sum((out / name).stat().st_size for name in bundle.files),
    }


def bundle_of_config(config: CoreConfig, folder: Path) -> Bundle:
    """The bundle that the settings name; downloads and unpacked zips go into `folder`."""
    if config.source == "url":
        return open_bundle(config.url, folder, sha256=config.sha256)
    if config.source == "path" and config.path:
        return open_bundle(config.path, folder)
    raise ConfigError(
        f"core.source = {config.source!r} with core.path = {config.path!r} names no bundle",
        hint="set core.source=url, or core.source=path and core.path to a folder or a zip file",
    )


def open_bundle(
    source: str | Path, folder: Path, *, sha256: str | None = None, patience: Patience | None = None
) -> Bundle:
    """A bundle from a folder, a zip file or a URL of a zip; what has to be fetched or unpacked goes into `folder`."""
    if str(source).startswith("file://"):
        source = url2pathname(urlsplit(str(source)).path)
    elif "://" in str(source):
        source = _download(str(source), folder, sha256=sha256, patience=patience)
    path = Path(source).expanduser()
    if path.is_dir():
        return read_bundle(path)
    if not path.is_file():
        raise MissingError(f"there is no {path}", hint="core.path is a folder or a zip in the published layout")
    digest = file_sha256(path)
    if sha256 is not None and digest != sha256.lower():
        raise CorruptError(
            f"{path} has the digest {digest}, not {sha256}", hint="fetch it again, or correct core.sha256"
        )
    return read_bundle(_unpack(path, folder / f"bundle-{digest[:16]}"), archive_sha256=digest)


def _download(url: str, folder: Path, *, sha256: str | None, patience: Patience | None) -> Path:
    """Fetch a zip, going on where a download was broken off; one with the wanted digest that is there is used."""
    path = folder / "bundle.zip"
    if path.is_file() and (sha256 is None or file_sha256(path) != sha256.lower()):
        path.unlink()  # without a digest nobody can say that it is still the one that is published
    try:
        fetch_file([url], path, sha256=sha256.lower() if sha256 else None, patience=patience)
    except MissingError as error:
        if isinstance(error, CorruptError):
            raise
        raise MissingError(
            error.message, hint="fetch it by other means and set core.source=path, core.path=FILE"
        ) from error
    return path


def _unpack(path: Path, folder: Path) -> Path:
    """The tables and data files of a zip in a folder of their own, whole or not at all."""
    if folder.is_dir():
        return folder
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    with closing(ForeignZip(path)) as archive:
        for name in archive.entries:
            if name.endswith((TASKS, TABLE)) or (f"{DATA}/" in name and name.endswith(".jsonl")):
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                with (part / name).open("wb") as file:
                    file.writelines(archive.blocks(name))
    part.replace(folder)
    return folder
