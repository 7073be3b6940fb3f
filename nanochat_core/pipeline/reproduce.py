"""Make a run again from what the store knows of it, somewhere else, and compare the digests.

A fresh clone at the recorded commit with the recorded patch, the locked environment built in it, an empty store. Before
anything runs, every ingredient is compared with the recorded one, and the first that is another refuses the whole;
another processor or operating system is said, and not refused. Each training is made with as many processes as it was.
Where that cannot be (fewer GPUs, a training that went on with another number), on another kind of device or in another
compute type, bits may differ: this is said, and the model judged by its bits per byte, to a stated tolerance.
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
from typing import Any

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError, NanochatError
from nanochat_core.base.fingerprint import PACKAGE_ROOT
from nanochat_core.base.git import git
from nanochat_core.pipeline.ingredients import Evidence, evidence, machine_differences, made_with, tolerance, toml_of
from nanochat_core.pipeline.table import STEPS
from nanochat_core.presets import config_from_record
from nanochat_core.store.manifest import check_key
from nanochat_core.store.provenance import STEPS_BY_CODE
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
    reason: str = ""
    """Why its bits may differ; empty where they may not."""
    apart: float | None = None
    """Where they may: by how much of the recorded bits per byte; None of a step that has no such figure."""
    tolerance: float = 0.0

    @property
    def is_equal(self) -> bool:
        return self.recorded == self.reproduced

    @property
    def is_good(self) -> bool:
        """Equal; or made, and near enough, where bits may differ."""
        may_differ = bool(self.reason) and self.reproduced is not None
        return self.is_equal or (may_differ and (self.apart is None or self.apart <= self.tolerance))


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
    first = gathered["steps"][0]["step"]
    note(f"running {first}")
    _run(gathered, python, checkout, folder, until=first)
    [data] = _compare(gathered, again)[:1]
    if not data.is_equal:  # data from elsewhere may have changed; nothing is trained on other data
        raise NanochatError(
            f"{first}: its data are other ones: {data.recorded[:12]} -> {str(data.reproduced)[:12]}",
            hint="put the data back, or make a new run",
        )
    note("running the rest")
    for until, processes in _legs(gathered, note=note):
        _run(gathered, python, checkout, folder, until=until, processes=processes)
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
    if mixed := [line["step"] for line in gathered["steps"] if STEPS_BY_CODE in line["provenance"]]:
        raise ConfigError(
            f"several codes made the steps of {mixed[0]} in {run_id}, and no commit makes it again",
            hint="nanochat runs show says which; make a new run of the code that you mean",
        )


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


def _legs(gathered: Evidence, *, note: Callable[[str], None]) -> list[tuple[str, int | None]]:
    """(last step, processes) of the commands that make the run: each training has as many as it was made with."""
    legs: list[tuple[str, int | None]] = []
    for line in gathered["steps"]:
        processes = _processes(line, gathered["config"]["runtime"], note=note)
        if legs and legs[-1][1] == processes:
            legs.pop()
        legs.append((line["step"], processes))
    return legs


def _processes(line: dict[str, Any], runtime: dict[str, Any], *, note: Callable[[str], None]) -> int | None:
    """Of a training; None: the run's own setting."""
    step, made = line["step"], made_with(line["metrics"])
    if not made or made["processes"] == str(runtime["num_processes"] * runtime["num_nodes"]):
        return None
    if not made["processes"].isdigit():
        note(f"{step} went on with another number of processes ({made['processes']}): its bits may differ")
        return None
    wanted = int(made["processes"])
    if (here := _num_devices(made["device"])) < wanted:
        note(f"{step} was made by {wanted} processes, and there are {here} GPUs here: its bits may differ")
        return max(1, here)
    note(f"{step} is made by {wanted} processes, as it was")
    return wanted


def _num_devices(device: str) -> int:
    """Of a kind: GPUs are counted, any number of processes shares the processors."""
    if device in ("cpu", "mps"):
        return sys.maxsize
    import torch

    return torch.cuda.device_count()


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


def _run(
    gathered: Evidence, python: Path, checkout: Path, folder: Path, *, until: str, processes: int | None = None
) -> None:
    text, sets = toml_of(gathered["config"])
    preset = folder / f"{gathered['config']['preset']}.toml"
    preset.write_text(text, encoding="utf-8")
    sets += [f"runtime.num_processes={processes}", "runtime.num_nodes=1"] if processes else []
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
    """Digests by step; reports of older versions are left out, since they hold times."""
    newest = max((made.run(run_id) for run_id in made.runs()), key=lambda record: record["started_at"])
    now = {line["step"]: line for line in newest["steps"]}
    compared: dict[str, Compared] = {}
    for line in gathered["steps"]:
        step, other = line["step"], now.get(line["step"], {"digest": None, "metrics": {}})
        sources = [compared[name] for name in line["inputs"] if name in compared and compared[name].reason]
        reason = _reason(line["metrics"], other["metrics"]) or next((one.reason for one in sources), "")
        own = tolerance(line["metrics"], other["metrics"]) if reason and made_with(line["metrics"]) else 0.0
        compared[step] = Compared(
            step,
            line["digest"],
            other["digest"],
            reason,
            _apart(line["metrics"], other["metrics"]) if reason else None,
            max([own, *(one.tolerance for one in sources)]),
        )
    old = [line["step"] for line in gathered["steps"] if STEPS[line["step"]].reads_logs and not line["has_log"]]
    return [one for step, one in compared.items() if step not in old]


def _reason(recorded: dict[str, Any], now: dict[str, Any]) -> str:
    """What made a training and is in no key, where that is another one now, or was several; by both's metrics."""
    then, here = made_with(recorded), made_with(now)
    own = [f"{name}: {then[name]} -> {here[name]}" for name in then if name in here and then[name] != here[name]]
    mixed = [f"processes: {then['processes']}"] if not then.get("processes", "1").isdigit() else []
    return "; ".join(own or mixed)


def _apart(recorded: dict[str, Any], now: dict[str, Any]) -> float | None:
    then, here = (metrics.get("bits_per_byte") for metrics in (recorded, now))
    return None if then is None or here is None else abs(here - then) / then
