"""An edited file of a package is told from the one that was installed."""

import base64
import hashlib
from pathlib import Path

import pytest

from nanochat_core.cli import doctor
from nanochat_core.cli.installed import altered

SOURCE, COMPILED = b"X = 1\n", b"\x7fELF"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with a RECORD, where Python looks first."""
    folder, about = tmp_path / "rustbpe", tmp_path / "rustbpe-9.0.dist-info"
    folder.mkdir()
    about.mkdir()
    lines = ["rustbpe-9.0.dist-info/RECORD,,"]
    for name, content in (("__init__.py", SOURCE), ("core.so", COMPILED)):
        (folder / name).write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"rustbpe/{name},sha256={digest},{len(content)}")
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: rustbpe\nVersion: 9.0\n")
    (about / "RECORD").write_text("\n".join(lines) + "\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def test_what_is_as_it_was_installed_is_good(package: Path) -> None:
    assert altered("rustbpe") == []
    assert altered("surely-not-installed") == []


@pytest.mark.parametrize(
    ("name", "content"),
    [("__init__.py", b"X = 2\n"), ("__init__.py", b"X = 10\n"), ("core.so", b"\x7fELFx"), ("core.so", None)],
)
def test_an_edited_or_missing_file_is_named(package: Path, name: str, content: bytes | None) -> None:
    (package / name).write_bytes(content) if content is not None else (package / name).unlink()
    assert altered("rustbpe") == [f"rustbpe/{name}"]
    finding = doctor._installed()
    assert not finding.is_good
    assert f"rustbpe/{name}" in finding.seen
    assert finding.mend is not None


def test_the_packages_of_this_environment_are_looked_at() -> None:
    finding = doctor._installed()
    assert finding.check == "installed files"
    assert finding.is_good, finding.seen
