"""Make a run again from what the store knows of it, somewhere else, and compare the digests.

A fresh clone at the recorded commit with the recorded patch, the locked environment built in it, an empty store. Before
anything runs, every ingredient is compared with the recorded one, and the first that is another refuses the whole;
another processor or operating system is said, and not refused.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError, NanochatError
from nanochat_core.base.fingerprint import PACKAGE_ROOT
from nanochat_core.base.git import git
from nanochat_core.pipeline.ingredients import Evidence, evidence, machine_differences, toml_of
from nanochat_core.pipeline.steps import STEPS
from nanochat_core.presets import config_from_record
from nanochat_core.store.manifest import check_key
from nanochat_core.store.store import Store

EVIDENCE = "evidence.json"
COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
SHOWN = 5  # differences in an error message


@dataclass(frozen=True)
class Compared:
    """One step of the run, then and now."""

    step: str
    recorded: str
    reproduced: str | None
    """None: the step did not run."""

    @property
    def is_equal(self) -> bool:
        return self.recorded == self.reproduced


def reproduce(
    store: Store,
    run_id: str,
    folder: Path,
    *,
    python: Path | None,
    note: Callable[[str], None],
    agree: Callable[[Evidence], None],
) -> list[Compared]:
    """Make `run_id` again below the new `folder`; `python`: use this environment instead of building the locked one.

    `agree` is called with all that the record says before anything of it is written or run, and raises to stop it:
    a record does not show whose it is, and its patch and settings are a program that would run here.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty", hint="name a new folder")
    gathered = evidence(store, run_id)
    _check_plain(gathered)
    agree(gathered)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / EVIDENCE).write_text(json.dumps(gathered), encoding="utf-8")
    checkout = _check_out(gathered, folder / "checkout", note=note)
    python = python or _build_environment(checkout, note=note)
    note("comparing settings, inputs, code and packages with the recorded ones")
    _refuse_differences(_python(python, checkout, "-m", "nanochat_core.pipeline.ingredients", str(folder / EVIDENCE)))
    for difference in machine_differences(gathered):
        note(f"{difference}; another machine may round differently, and digests then differ from the training on")
    again = Store.open(str(folder / "home/store"), cache_folder=folder / "home/cache")
    first, last = gathered["steps"][0]["step"], gathered["steps"][-1]["step"]
    note(f"running {first}")
    _run(gathered, python, checkout, folder, until=first)
    [data] = _compare(gathered, again)[:1]
    if not data.is_equal:  # data from elsewhere may have changed; nothing is trained on other data
        raise NanochatError(
            f"{first}: its data are other ones: {data.recorded[:12]} -> {str(data.reproduced)[:12]}",
            hint="put the data back, or make a new run",
        )
    note("running the rest")
    _run(gathered, python, checkout, folder, until=last)
    return _compare(gathered, again)


def _check_plain(gathered: Evidence) -> None:
    """Raise for a record whose names would be read as something else: as a path, as an option, as another setting."""
    run_id, commit = gathered["run_id"], gathered["source"].get("git_commit")
    try:
        check_key(config_from_record(gathered["config"], is_foreign=True).preset, what="the preset")
    except (TypeError, ValueError, AttributeError, LookupError) as error:
        raise CorruptError(f"the settings of {run_id} are none: {error}") from error
    if commit is not None and not COMMIT.fullmatch(str(commit)):
        raise CorruptError(f"{run_id} names the commit {commit!r}, which is none")
    if unknown := [line["step"] for line in gathered["steps"] if line["step"] not in STEPS]:
        raise MissingError(f"this version has no step {unknown[0]!r}", hint="use the version that made the run")
    if not gathered["steps"]:
        raise MissingError(f"{run_id} made nothing")


def plan_of(gathered: Evidence, folder: Path, python: Path | None) -> list[str]:
    """What `reproduce` will do with a record, in order."""
    source, steps = gathered["source"], [line["step"] for line in gathered["steps"]]
    patch = source.get("git_patch")
    changes = f", with {len(patch.splitlines()):,} lines of uncommitted changes" if patch else ""
    build = f"use {python}" if python else "make setup, as that checkout's Makefile says"
    return [
        f"in {folder}:",
        f"check out {str(source.get('git_commit'))[:12]} of {PACKAGE_ROOT}{changes}",
        build,
        f"run {', '.join(steps)} with its settings and that code, as you and without a sandbox",
    ]


def _check_out(gathered: Evidence, checkout: Path, *, note: Callable[[str], None]) -> Path:
    """A clone of this repository at the run's commit, with the run's patch."""
    source = gathered["source"]
    commit, patch = source.get("git_commit"), source.get("git_patch")
    if not commit:
        raise MissingError(
            f"{gathered['run_id']} was not made from a git checkout, so its code is not known",
            hint="runs from a clone of the repository can be reproduced",
        )
    note(f"checking out {commit[:12]}" + (" with its uncommitted changes" if patch else ""))
    digest = hashlib.sha256(patch.encode("utf-8", "surrogateescape")).hexdigest() if patch else None
    if digest != source.get("git_patch_sha256"):
        raise NanochatError(
            f"git_patch: the run was made with the patch {source.get('git_patch_sha256')}, the record holds {digest}",
            hint="the uncommitted changes are not the recorded ones; the run cannot be made again",
        )
    _git("clone", "--quiet", "--no-checkout", str(PACKAGE_ROOT), str(checkout))
    try:
        _git("-C", str(checkout), "checkout", "--quiet", commit)
    except NanochatError as error:
        raise MissingError(f"commit {commit} is not in {PACKAGE_ROOT}", hint="git fetch the branch it is on") from error
    if patch:
        _git("-C", str(checkout), "apply", "--whitespace=nowarn", "-", given=patch)
    return checkout


def _git(*arguments: str, given: str | None = None) -> None:
    done = git(*arguments, given=given.encode("utf-8", "surrogateescape") if given else None)
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise NanochatError(f"git {arguments[0]} failed: {said[-1] if said else done.returncode}")


def _build_environment(checkout: Path, *, note: Callable[[str], None]) -> Path:
    note("building the locked environment")
    done = subprocess.run(["make", "setup", f"PYTHON={sys.executable}"], cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        raise NanochatError(f"make setup failed: {done.stderr.strip()[-300:]}", hint=f"see what it says in {checkout}")
    return checkout / ".venv/bin/python"


def _refuse_differences(said: str) -> None:
    found = json.loads(said)
    if found:
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise NanochatError(
            f"not the ingredients of the run: {'; '.join(found[:SHOWN])}{more}",
            hint="each line is recorded -> here; put back what changed, or make a new run",
        )


def _run(gathered: Evidence, python: Path, checkout: Path, folder: Path, *, until: str) -> None:
    text, sets = toml_of(gathered["config"])
    preset = folder / f"{gathered['config']['preset']}.toml"
    preset.write_text(text, encoding="utf-8")
    options = [part for value in sets for part in ("--set", value)]
    _python(
        python, checkout, "-m", "flows.cli", "run", str(preset), *options, "--no-prefect", "--yes", "--until", until,
        home=folder / "home",
    )  # fmt: skip


def _python(python: Path, checkout: Path, *arguments: str, home: Path | None = None) -> str:
    """What a command of the checkout prints; its own errors are passed on."""
    environment = {name: value for name, value in os.environ.items() if name != "NANOCHAT_STORE"}
    environment |= {"PYTHONPATH": str(checkout)} | ({"NANOCHAT_HOME": str(home)} if home else {})
    done = subprocess.run([str(python), *arguments], cwd=checkout, env=environment, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise NanochatError(f"the rebuilt run failed: {' / '.join(said[-2:])}", hint=f"look into {checkout.parent}")
    return done.stdout


def _compare(gathered: Evidence, made: Store) -> list[Compared]:
    """Digests by step. A step that reads logs holds times, and is left out: it cannot be the same twice."""
    newest = max((made.run(run_id) for run_id in made.runs()), key=lambda record: record["started_at"])
    now = {line["step"]: line["digest"] for line in newest["steps"]}
    return [
        Compared(line["step"], line["digest"], now.get(line["step"]))
        for line in gathered["steps"]
        if not STEPS[line["step"]].reads_logs
    ]
