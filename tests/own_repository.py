"""A repository with the product's code, to which a test commits changes."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from conftest import ROOT

IDENTITY = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
CODE = ("nanochat_core", "flows", "tasks")
DEPLOYED = (*CODE, "deployments", "infra", "prefect.yaml", "pyproject.toml")


class Repository:
    """Of one commit at first; `names` of the checkout's top level are in it."""

    def __init__(self, folder: Path, names: Sequence[str] = CODE) -> None:
        self.folder = folder
        folder.mkdir()
        for name in names:
            if (ROOT / name).is_file():
                shutil.copyfile(ROOT / name, folder / name)
            else:
                shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        self.git("init", "-q")
        self.git("add", "-A")
        self.git("commit", "-qm", "The beginning")

    def git(self, *arguments: str) -> str:
        command = ["git", *IDENTITY, *arguments]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=True).stdout.strip()

    def commit(self, subject: str, file: str, before: str, after: str) -> str:
        """Replace what stands there once; returns the commit."""
        path = self.folder / file
        text = path.read_text()
        assert text.count(before) == 1
        path.write_text(text.replace(before, after))
        self.git("commit", "-qam", subject)
        return self.git("rev-parse", "HEAD")
