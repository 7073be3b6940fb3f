"""`nanochat curves`: TensorBoard on runs of the store, each by its name, and on what trains here now.

TensorBoard looks at a folder of links and follows what changes there: RUN/STEP is the log of a step that the run has,
running/STEP-FINGERPRINT that of a training of this home, which leads to the store once the training is done. A training
that starts later, or again, is linked as it comes.
"""

import logging
import secrets
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nanochat_core.base.errors import ConfigError, MissingError
from nanochat_core.base.locks import try_exclusive
from nanochat_core.base.stopping import stop_on_signals

if TYPE_CHECKING:
    from nanochat_core.store.manifest import Artifact
    from nanochat_core.workspace import Workspace

RUNNING = "running"
LOOK_S = 5.0
TOKEN_BYTES = 8
SHORT = 8  # of a fingerprint


def register(app: typer.Typer) -> None:
    """Add the verb of this module to the command line."""
    app.command()(curves)


def curves(
    runs: Annotated[
        list[str] | None, typer.Argument(help="Runs: an id, the beginning of one, latest. [default: latest]")
    ] = None,
    port: Annotated[int, typer.Option(help="0: a free one.")] = 6006,
) -> None:
    """Open TensorBoard on runs of the store, each by its name; what trains here now is shown as it goes on.

    nanochat curves

    nanochat curves latest tiny-20261122-101500-3f1c --port 0
    """
    from nanochat_core import workspace

    stop_on_signals()
    space = workspace.current()
    with tempfile.TemporaryDirectory(prefix="nanochat-curves-") as folder:
        shown = Shown(space, Path(folder))
        for run in _named(space, runs):
            shown.add_run(run)
        shown.look()
        if not any(shown.folder.iterdir()):
            raise MissingError(f"{space.store.url} has no run, and nothing trains here", hint="nanochat run tiny")
        print(_launch(shown.folder, port), flush=True)
        while True:
            time.sleep(LOOK_S)
            shown.look()


def _named(space: "Workspace", runs: list[str] | None) -> list[str]:
    """The ids of what was typed; without a word the latest run, if there is one."""
    from nanochat_core.record.runs import LATEST, resolve_run

    try:
        return list(dict.fromkeys(resolve_run(space.store, run) for run in runs or [LATEST]))
    except MissingError:
        if runs:
            raise
        return []


class Shown:
    """The folder that TensorBoard looks at."""

    def __init__(self, space: "Workspace", folder: Path) -> None:
        self.folder = folder
        self._space = space
        self._live: dict[str, Path] = {}

    def add_run(self, run_id: str) -> None:
        """The trainings of a run; MissingError where the store has the log of none."""
        from nanochat_core.store.store import run_artifacts

        named = list(dict.fromkeys(run_artifacts(self._space.store.run(run_id))))
        times = Counter(step for step, _ in named)  # a sweep has several trainings of a kind
        found = False
        for step, fingerprint in named:
            artifact = self._space.store.find(step, fingerprint)
            if artifact and (log := self._log(artifact)):
                self._link(f"{run_id}/{step if times[step] == 1 else _name(step, fingerprint)}", log)
                found = True
        if not found:
            raise MissingError(
                f"the store has no curves of {run_id}", hint="it trained nothing, or gc took it: nanochat runs show"
            )

    def look(self) -> None:
        """Link what trains now, by its newest attempt; what is done since the last look, by what the store has."""
        for name, log in _trainings(self._space.home):
            self._live[name] = log
            self._link(f"{RUNNING}/{_name(*name.rsplit('-', 1))}", log)
        for name in [name for name, log in self._live.items() if not log.exists()]:
            step, beginning = name.rsplit("-", 1)
            done = [each for each in self._space.store.artifacts(step) if each.fingerprint.startswith(beginning)]
            if done and (kept := self._log(done[0])):
                self._link(f"{RUNNING}/{_name(step, beginning)}", kept)
                del self._live[name]

    def _log(self, artifact: "Artifact") -> Path | None:
        from nanochat_core.pipeline.step import LOG_FOLDER
        from nanochat_core.pipeline.training import TENSORBOARD

        log = f"{LOG_FOLDER}/{TENSORBOARD}"
        names = [name for name in artifact.files if name.startswith(f"{log}/")]
        return self._space.store.fetch(artifact, names) / log if names else None

    def _link(self, name: str, log: Path) -> None:
        link = self.folder / name
        if not link.is_symlink() or link.readlink() != log:
            link.parent.mkdir(exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(log)


def _name(step: str, fingerprint: str) -> str:
    return f"{step}-{fingerprint[:SHORT]}"


def _trainings(home: Path) -> Iterator[tuple[str, Path]]:
    """The scratch folders of trainings that some process is at, and where each writes its curves."""
    from nanochat_core.pipeline.execute import ATTEMPT
    from nanochat_core.pipeline.training import TENSORBOARD

    for work in sorted((home / "work").glob("*-*")):
        logs = sorted(work.glob(f"{ATTEMPT}-*/{TENSORBOARD}"))
        with try_exclusive(home / "locks" / work.name) as is_ours:
            if logs and is_ours is False:
                yield work.name, logs[-1]


def _launch(folder: Path, port: int) -> str:
    """TensorBoard in a thread of its own, on this machine alone, below a path that others there cannot guess."""
    from tensorboard import default, program

    logging.getLogger("tensorboard").setLevel(logging.ERROR)
    board = program.TensorBoard(default.get_plugins())
    given: dict[str, Any] = {
        "logdir": str(folder), "host": "127.0.0.1", "port": port, "path_prefix": f"/{secrets.token_hex(TOKEN_BYTES)}",
        "reload_interval": LOOK_S, "load_fast": "false",  # the other loader is a program of its own, and not everywhere
    }  # fmt: skip
    board.configure(**given)
    try:
        return board.launch()
    except program.TensorBoardServerException as error:
        raise ConfigError(
            f"127.0.0.1:{port} cannot be listened on", hint="take another --port, or 0 for any"
        ) from error
