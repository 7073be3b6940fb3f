"""Which commit made it worse: git's own bisection over worktrees, each commit judged by the nightly gate.

The order comes from `git rev-list --bisect-all`, which handles merges and keeps no state, so a search that was killed
goes on from what the store has, and the working tree (dirty or not) is not touched. A commit whose recipe was measured
before, by a night or by this search, is not trained again: equal recipes are equal up to the seed. A commit that does
not train is skipped, as `git bisect skip` does; one whose training diverges is bad.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nanochat_core import workspace
from nanochat_core.base.errors import ConfigError, MissingError, TrainingError
from nanochat_core.base.git import git
from nanochat_core.base.process import die_with_parent
from nanochat_core.gate import baseline
from nanochat_core.gate.night import FAILURES, Asked, has_diverged, measured, nights, runs_of, seed_of, with_seed
from nanochat_core.gate.verdict import NightRun, Verdict, judge
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
class Tried:
    """One commit and what became of it."""

    commit: str
    subject: str
    outcome: str
    """good, bad or skipped."""
    summary: str
    num_trained: int
    """Trainings that this search ran for it, found in the store or not; 0: known from runs of the same recipe."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a search came to."""

    culprits: list[str]
    """One commit, or several where those between could not be tried."""
    log: list[Tried]


@dataclass
class Search:
    """One search in one repository."""

    repository: Path
    asked: Asked
    tell: Tell
    baseline_seeds: int = 3
    """Trainings of the good commit where there is no baseline that can be compared with."""
    baseline_runs: list[NightRun] = field(default_factory=list)
    known: dict[str, list[NightRun]] = field(default_factory=dict)
    """Runs by recipe, of one set of conditions once the baseline is known."""
    conditions: dict[str, Any] | None = None
    """Of every comparison: a run with another number of processes or on another device is not compared."""
    log: list[Tried] = field(default_factory=list)

    def run(self, good: str, bad: str) -> Found:
        """The first bad commit between a good one and a bad one."""
        good, bad = self._commit(good), self._commit(bad)
        if good == bad or self._git("merge-base", good, bad).strip() != good:
            raise ConfigError(f"{good[:12]} is no ancestor of {bad[:12]}", hint="give an older --good")
        self._clear_leftovers()
        for night in nights(workspace.current().store):
            for run in runs_of(night):
                self.known.setdefault(run.recipe, []).append(run)
        self._find_baseline(good)
        self._expect(good, "good")
        self._expect(bad, "bad")
        return Found(culprits=self._narrow([good], bad), log=self.log)

    def _narrow(self, good: list[str], bad: str) -> list[str]:
        skipped: set[str] = set()
        while True:
            lines = self._git("rev-list", "--bisect-all", bad, *(f"^{commit}" for commit in good)).splitlines()
            left = [line.split()[0] for line in lines]
            untried = [commit for commit in left if commit != bad and commit not in skipped]
            self.tell(f"{len(left)} commit{'s' if len(left) != 1 else ''} left")
            if not untried:
                return [bad, *(commit for commit in left if commit in skipped)]
            commit = untried[0]
            outcome = self._try(commit)
            if outcome == "bad":
                bad = commit
            elif outcome == "good":
                good.append(commit)
            else:
                skipped.add(commit)

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

    def _expect(self, commit: str, wanted: str) -> None:
        outcome = self._try(commit)
        if outcome != wanted:
            tried = self.log[-1]
            raise ConfigError(f"{commit[:12]} is {outcome}, not {wanted}: {tried.summary}", hint="see docs/nightly.md")

    def _try(self, commit: str) -> str:
        subject = self._git("show", "-s", "--format=%s", commit).strip()
        try:
            verdict, num_trained = self._judge(commit)
        except UnfitError as error:
            outcome, summary, num_trained = "bad", error.message, 1
        except TrainingError as error:
            outcome, summary, num_trained = "skipped", error.message, 0
        else:
            outcome, summary = ("bad" if verdict.outcome == "red" else "good"), verdict.summary
        how = "" if num_trained or outcome == "skipped" else " (known: same recipe)"
        self.tell(f"{commit[:12]} {outcome:<7} {subject}: {summary}{how}")
        tried = Tried(commit=commit, subject=subject, outcome=outcome, summary=summary, num_trained=num_trained)
        self.log.append(tried)
        return outcome

    def _judge(self, commit: str) -> tuple[Verdict, int]:
        with self._worktree(commit) as tree:
            recipe = self._recipe(tree)
            num_trained = 0
            while True:
                looks = self.known.get(recipe, [])
                verdict = judge(looks, self.baseline_runs)
                if verdict.num_looks > 0 and verdict.outcome != "unsure":
                    return verdict, num_trained
                self._train(tree, recipe)
                num_trained += 1

    def _train(self, tree: Path, recipe: str) -> None:
        """One more seed of the commit in `tree`; what the store has of it is not done again."""
        runs = self.known.setdefault(recipe, [])
        seed = seed_of(f"bisect-{recipe}", len(runs))
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
        run = measured(store, refs, plan, self.asked)
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


def bisect(repository: Path, good: str, bad: str, *, asked: Asked, tell: Tell, baseline_seeds: int = 3) -> Found:
    """Find the commit; `tell` gets a line per commit."""
    return Search(repository=repository, asked=asked, tell=tell, baseline_seeds=baseline_seeds).run(good, bad)
