"""Which commit made it worse: a search over worktrees that believes no single measurement.

Versions are the commits of the first-parent line whose recipe differs from the one before; what a commit changes that
decides nothing (words, tests) cannot be the culprit and costs nothing. Each training is a measurement of one version,
and gate/posterior.py says which version to train next, and when one change, or none, is likely enough. Trainings of
nights that were green and of earlier searches count; those of red nights do not: they were looked at because they
looked bad. A search that was killed goes on from what the store has; the working tree (dirty or not) is not touched.
A version that does not train is skipped, as `git bisect skip` does; one whose training diverges is bad without noise.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError, MissingError, TrainingError
from nanochat_core.base.git import git
from nanochat_core.base.process import die_with_parent
from nanochat_core.gate import baseline
from nanochat_core.gate.level import Level, estimate_level, known_sd_frac
from nanochat_core.gate.metrics import PRIMARY, NightRun
from nanochat_core.gate.night import FAILURES, Asked, has_diverged, measured, nights, runs_of, seed_of, with_seed
from nanochat_core.gate.posterior import MAX_TRAININGS, Posterior
from nanochat_core.gate.verdict import looks_of
from nanochat_core.pipeline.execute import ref_of
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import plan_run
from nanochat_core.presets import load_config

CANDIDATE = Path(__file__).with_name("candidate.py")
FOLDER = "bisect"
TAIL_CHARS = 200  # of what a commit that does not train said last
Tell = Callable[[str], None]


class UnfitError(TrainingError):
    """A commit's training diverged: that is bad, not untried."""


@dataclass(frozen=True, kw_only=True)
class Version:
    """Commits of one recipe; the first of them made it what it is."""

    recipe: str
    commits: tuple[str, ...]
    subject: str
    """Of the first commit."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One version and what became of it."""

    commit: str
    subject: str
    outcome: str
    """measured, diverged or skipped."""
    values: tuple[float, ...]
    """Bits per byte of each training that counted."""
    num_trained: int
    """Trainings that this search ran for it, found in the store or not; the others were known."""
    bad: float | None
    """Probability that it is worse than the good commit."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to."""

    culprits: list[str]
    """The commit that made it worse; several where it is one of them; none where nothing did."""
    probability: float
    """Of that answer."""
    may_be_none: bool
    """Whether "none of them" is among what it may be."""
    num_trained: int
    is_decided: bool
    log: list[Tried]


@dataclass
class Search:
    """One search in one repository."""

    repository: Path
    asked: Asked
    tell: Tell
    baseline_seeds: int = 3
    """Trainings of the good commit where there is no baseline that can be compared with."""
    max_trainings: int = MAX_TRAININGS
    baseline_runs: list[NightRun] = field(default_factory=list)
    known: dict[str, list[NightRun]] = field(default_factory=dict)
    """Runs by recipe, of one set of conditions once the baseline is known."""
    conditions: dict[str, Any] | None = None
    """Of every comparison: a run with another number of processes or on another device is not compared."""
    versions: list[Version] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    """Versions that do not train, and what they said."""
    trained: Counter[int] = field(default_factory=Counter)

    def run(self, good: str, bad: str) -> Found:
        """The change between a good commit and a bad one that made it worse, or that none did."""
        good, bad = self._commit(good), self._commit(bad)
        if good == bad or self._git("merge-base", good, bad).strip() != good:
            raise ConfigError(f"{good[:12]} is no ancestor of {bad[:12]}", hint="give an older --good")
        self._clear_leftovers()
        for night in nights(workspace.current().store):
            for run in runs_of(night) if night["state"] != "red" else ():
                self.known.setdefault(run.recipe, []).append(run)
        self._find_baseline(good)
        self.versions = self._find_versions(good, bad)
        if len(self.versions) == 1:
            raise ConfigError(
                f"nothing between {good[:12]} and {bad[:12]} decides what a training makes",
                hint="look at the data, the packages and the machine",
            )
        return self._narrow(self._level())

    def _narrow(self, level: Level) -> Found:
        posterior = Posterior(len(self.versions), level)
        used = {run.fingerprint for run in self.baseline_runs}
        for number, version in enumerate(self.versions):
            for run in self.known.get(version.recipe, []):
                if run.fingerprint not in used:
                    posterior.add(number, run.metrics[PRIMARY])
        self.tell(f"{len(self.versions) - 1} changes that decide something")
        while not (found := self._answer(posterior)).is_decided and found.num_trained < self.max_trainings:
            number = posterior.upcoming(frozenset(self.skipped))
            self._try(posterior, number)
        return found

    def _answer(self, posterior: Posterior) -> Found:
        chances, likeliest = posterior.probabilities(), posterior.likeliest()
        places = [self.versions[number].commits[0] for number in likeliest if number]
        blocked = len(likeliest) > 1 and not self._tellable(posterior, likeliest)
        ends = {version for version, _ in posterior.values} | posterior.diverged | self.skipped.keys()
        is_decided = (len(likeliest) == 1 or blocked) and {0, len(self.versions) - 1} <= ends
        return Found(
            culprits=places,
            probability=float(sum(chances[number - 1] for number in likeliest)),
            may_be_none=0 in likeliest,
            num_trained=self.trained.total(),
            is_decided=is_decided,
            log=[self._tried(posterior, number) for number in range(len(self.versions))],
        )

    def _tellable(self, posterior: Posterior, likeliest: list[int]) -> bool:
        """Whether a training can still tell these apart: not where only skipped versions lie between them."""
        low, high = min(likeliest), max(likeliest)
        if low == 0:  # none is among them
            return True
        return any(number not in self.skipped and number not in posterior.diverged for number in range(low, high))

    def _tried(self, posterior: Posterior, number: int) -> Tried:
        version, chances = self.versions[number], posterior.probabilities()
        values = tuple(level for place, level in posterior.values if place == number)
        outcome = "diverged" if number in posterior.diverged else "measured" if values else "skipped"
        measured_values = tuple(value * posterior.level.scale + posterior.level.location for value in values)
        return Tried(
            commit=version.commits[0], subject=version.subject, outcome=outcome, values=measured_values,
            num_trained=self.trained[number], bad=float(chances[:number].sum()),
        )  # fmt: skip

    def _try(self, posterior: Posterior, number: int) -> None:
        """One training of a version."""
        version = self.versions[number]
        self.trained[number] += 1
        try:
            with self._worktree(version.commits[0]) as tree:
                self._train(tree, version.recipe)
        except UnfitError as error:
            posterior.diverged.add(number)
            told = error.message
        except TrainingError as error:
            self.skipped[number] = told = error.message
        else:
            value = self.known[version.recipe][-1].metrics[PRIMARY]
            posterior.add(number, value)
            told = f"{value:.5f} bits per byte"
        likeliest = posterior.likeliest()
        left = (
            "none"
            if likeliest == [0]
            else ", ".join(self.versions[each].commits[0][:12] for each in likeliest[:3] if each)
        )
        self.tell(
            f"{version.commits[0][:12]} {version.subject}: {told}; likeliest: {left or 'none'} of {len(likeliest)}"
        )

    def _find_versions(self, good: str, bad: str) -> list[Version]:
        """The recipes along the first-parent line, each with its commits; a commit that tells none is left out."""
        listed = self._git("rev-list", "--first-parent", "--reverse", f"{good}..{bad}").split()
        found: list[Version] = []
        for commit in [good, *listed]:
            subject = self._git("show", "-s", "--format=%s", commit).strip()
            try:
                with self._worktree(commit) as tree:
                    recipe = self._recipe(tree)
            except TrainingError as error:
                self.tell(f"{commit[:12]} {subject}: skipped, {error.message}")
                recipe = f"none of {commit}"
            if found and found[-1].recipe == recipe:
                found[-1] = replace(found[-1], commits=(*found[-1].commits, commit))
            else:
                if recipe.startswith("none of"):
                    self.skipped[len(found)] = "does not run"
                found.append(Version(recipe=recipe, commits=(commit,), subject=subject))
        return found

    def _level(self) -> Level:
        depth = load_config(self.asked.preset, self.asked.overrides).pretrain.depth
        level = estimate_level(looks_of(self.baseline_runs), prior_frac=known_sd_frac(depth))
        assert level is not None, "there are two runs or more"
        return level

    def _find_baseline(self, good: str) -> None:
        """The pinned baseline under the good commit's conditions, else runs of the good commit."""
        with self._worktree(good) as tree:
            recipe = self._recipe(tree)
            if not self._as_asked(recipe):
                self._train(tree, recipe)
            self._keep_comparable((self._as_asked(recipe) or self.known[recipe])[-1].conditions)
            chosen = baseline.find(workspace.current().store, self.known[recipe][0].conditions)
            if chosen.runs is not None:
                self.baseline_runs = chosen.runs
                self.tell(f"compared with {chosen.name}, {len(chosen.runs)} runs")
                return
            while len(self.known[recipe]) < max(2, self.baseline_seeds):
                self._train(tree, recipe)
        self.baseline_runs = list(self.known[recipe])
        self.tell(f"compared with {len(self.baseline_runs)} runs of {good[:12]}: {chosen.reason}")

    def _as_asked(self, recipe: str) -> list[NightRun]:
        """What is known of a recipe from as many processes as this search trains with."""
        runtime = load_config(self.asked.preset, self.asked.overrides).runtime
        processes = runtime.num_processes * runtime.num_nodes
        return [run for run in self.known.get(recipe, []) if run.conditions.get("processes") == processes]

    def _keep_comparable(self, conditions: dict[str, Any]) -> None:
        """Leave out what was measured under other conditions, in a line."""
        self.conditions = conditions
        every = [run for runs in self.known.values() for run in runs]
        others = [run for run in every if run.conditions != conditions]
        if others:
            told = "; ".join(baseline.differences(others[-1].conditions, conditions))
            self.tell(f"{len(others)} of {len(every)} runs are of other conditions and left out ({told})")
        self.known = {
            recipe: kept
            for recipe, runs in self.known.items()
            if (kept := [run for run in runs if run.conditions == conditions])
        }

    def _train(self, tree: Path, recipe: str) -> None:
        """One more seed of the commit in `tree`; what the store has of it is not done again."""
        runs = self.known.setdefault(recipe, [])
        seed = seed_of(f"bisect-{recipe}", len(runs))  # of what is known: the same again where a search goes on
        answer = self._candidate(tree, seed)
        store, refs = workspace.current().store, list[Ref]()
        for step, fingerprint in answer["refs"]:
            artifact = store.find(step, fingerprint)
            if artifact is None:
                raise MissingError(
                    f"{step}/{fingerprint[:12]} is not in {store.url}", hint="run the same command again"
                )
            refs.append(ref_of(artifact, {}))
        plan = with_seed(plan_run(load_config(self.asked.preset, self.asked.overrides)), seed)
        try:
            run = measured(store, refs, plan, self.asked)
        except FAILURES as error:
            raise UnfitError(error.message) from error
        if self.conditions is not None and run.conditions != self.conditions:
            told = "; ".join(baseline.differences(self.conditions, run.conditions))
            raise ConfigError(f"a training here cannot be compared: {told}", hint="search with the baseline's settings")
        runs.append(run)

    def _recipe(self, tree: Path) -> str:
        return str(self._candidate(tree, None)["recipe"])

    def _candidate(self, tree: Path, seed: int | None) -> dict[str, list[list[str]]]:
        """Run gate/candidate.py with the code of `tree`; -P keeps this file's own folder off the path."""
        wanted = {"preset": self.asked.preset, "overrides": list(self.asked.overrides), "seed": seed}
        done = subprocess.run(
            [sys.executable, "-P", str(CANDIDATE), json.dumps(wanted)],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            preexec_fn=die_with_parent,
        )
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if "Error" in line] or done.stderr.splitlines()[-1:]
            told = " ".join(lines[-1:])
            is_unfit = any(kind.__name__ in told and has_diverged(kind.__name__, told) for kind in FAILURES)
            raise (UnfitError if is_unfit else TrainingError)(f"exit code {done.returncode}: {told[:TAIL_CHARS]}")
        answer: dict[str, list[list[str]]] = json.loads(done.stdout.splitlines()[-1])
        return answer

    @contextlib.contextmanager
    def _worktree(self, commit: str) -> Iterator[Path]:
        """A checkout of its own for the block."""
        tree = workspace.current().home / FOLDER / f"{commit[:16]}-{os.getpid()}"
        tree.parent.mkdir(parents=True, exist_ok=True)
        self._git("worktree", "add", "--force", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            self._git("worktree", "remove", "--force", str(tree))

    def _clear_leftovers(self) -> None:
        """Remove the worktrees of searches that were killed."""
        for tree in (workspace.current().home / FOLDER).glob("*-*"):
            if not Path(f"/proc/{tree.name.rpartition('-')[2]}").exists():
                shutil.rmtree(tree, ignore_errors=True)
        self._git("worktree", "prune")

    def _commit(self, name: str) -> str:
        return self._git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", what=f"the commit {name}").strip()

    def _git(self, *arguments: str, what: str | None = None) -> str:
        done = git(*arguments, checkout=self.repository)
        if done.returncode:
            raise MissingError(
                f"{what or 'git ' + arguments[0]}: {done.stderr.decode(errors='replace').strip() or 'not found'}",
                hint=f"run it in a checkout of the repository (here: {self.repository})",
            )
        return done.stdout.decode("utf-8", "surrogateescape")


def bisect(
    repository: Path, good: str, bad: str, *, asked: Asked, tell: Tell, baseline_seeds: int = 3,
    max_trainings: int = MAX_TRAININGS,
) -> Found:  # fmt: skip
    """Find the commit; `tell` gets a line per training."""
    search = Search(
        repository=repository, asked=asked, tell=tell, baseline_seeds=baseline_seeds, max_trainings=max_trainings
    )
    return search.run(good, bad)
