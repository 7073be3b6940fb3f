"""A finished run's store under damage: every object, in every way; all of it is found, none served, the run heals it.

First each blob, manifest, ref, run record and view is damaged alone and everything is read that could show it. Then
many are damaged at once and the run is repeated: it must end with the digests that it had. Counts are printed
(pytest -s); the longer versions, and an S3 server, are for `make faults`.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pytest
from damage import KINDS, damage, damage_view, damaged, damaged_content, objects

from flows.speedrun import run_until
from nanochat_core import workspace
from nanochat_core.base.errors import MissingError
from nanochat_core.pipeline.execute import make
from nanochat_core.pipeline.finish import finish_run
from nanochat_core.pipeline.step import Ref
from nanochat_core.plan import RunPlan, plan_run
from nanochat_core.presets import load_config
from nanochat_core.store.manifest import Artifact

pytestmark = pytest.mark.slow
EVERYTHING = ("blobs", "steps", "refs", "runs")


@pytest.fixture(scope="module")
def finished(prepared_module: Path, small_corpus: Path) -> Path:
    """A home with a finished run, its refs and its record."""
    from conftest import MICRO

    plan = plan_run(load_config("tiny", [*MICRO, "corpus.source=path", f"corpus.path={small_corpus}"]))
    for started_at in (0.0, 1.0):  # two records, so that they can change places
        finish_run(plan, run_until(make, plan, "conversations"), started_at=started_at)
    store = workspace.current().store
    base, tokenizer = store.artifacts("pretrain")[0], store.artifacts("tokenizer")[0]
    store.set_ref("best", "v1", base)
    store.set_ref("best", "v2", tokenizer)
    return prepared_module


class Truth:
    """What a whole store says, to compare with what it says when something is damaged."""

    def __init__(self, home: Path, run: Collection[Ref] | None = None) -> None:
        """Of the artifacts of a run, or of all."""
        self.home, self.space = home, workspace.current()
        store, made = self.space.store, {ref.fingerprint for ref in run or ()}
        self.artifacts = [found for found in store.artifacts() if run is None or found.fingerprint in made]
        self.refs = {(ref.name, ref.version): store.ref(ref.name, ref.version) for ref in store.refs()}
        self.runs = {run_id: store.run(run_id) for run_id in store.runs()}

    def lies(self) -> list[str]:
        """Everything that the store now says and that is not so; what it refuses to say is no lie."""
        return [*self._wrong_files(), *self._wrong_names()]

    def _wrong_files(self) -> list[str]:
        store, wrong = self.space.store, []
        for artifact in self.artifacts:
            if (found := store.find(artifact.step, artifact.fingerprint)) is None:
                continue
            if found != artifact:
                wrong.append(f"manifest of {artifact.step}")
            try:
                folder = store.fetch(artifact)
            except MissingError:
                continue
            wrong += [f"{artifact.step}/{name}" for name in artifact.files if not is_served(folder, artifact, name)]
        return wrong

    def _wrong_names(self) -> list[str]:
        store, wrong = self.space.store, []
        for (name, version), artifact in self.refs.items():
            try:
                wrong += [f"ref {name}@{version}"] if store.ref(name, version) != artifact else []
            except MissingError:
                continue
        for run_id, record in self.runs.items():
            try:
                wrong += [f"run {run_id}"] if store.run(run_id) != record else []
            except MissingError:
                continue
        return wrong

    def is_noticed(self) -> bool:
        """Whether anything is refused, or said to be damaged."""
        store = self.space.store
        found = [store.find(artifact.step, artifact.fingerprint) for artifact in self.artifacts]
        if None in found or any(store.verify(artifact) for artifact in self.artifacts):
            return True
        return len(store.refs()) < len(self.refs) or any(not readable(store.run, run_id) for run_id in self.runs)


def readable(read, *names: str) -> bool:
    try:
        read(*names)
    except MissingError:
        return False
    return True


def is_served(folder: Path, artifact: Artifact, name: str) -> bool:
    return hashlib.sha256((folder / name).read_bytes()).hexdigest() == artifact.files[name].sha256


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.torture)])
def test_no_damage_to_any_object_is_served(finished: Path, every: int) -> None:
    truth, draw, counts = Truth(finished), random.Random(1), Counter()
    assert truth.lies() == []
    assert not truth.is_noticed()
    for kind in EVERYTHING:
        paths = objects(finished / "store", kind)
        assert len(paths) >= 2, kind
        for path in paths[::every]:
            for blow in KINDS:
                with damaged(path, blow, paths, draw):
                    assert truth.lies() == [], f"{blow} of {path}"
                    assert truth.is_noticed(), f"{blow} of {path} went unnoticed"
                counts[kind] += 1
    assert truth.lies() == []
    assert not truth.is_noticed()
    print(f"\n{dict(counts)}: 0 served, 0 unnoticed")


def test_a_damaged_view_is_built_again(finished: Path) -> None:
    truth, draw, number = Truth(finished), random.Random(2), 0
    for artifact in truth.artifacts:
        for blow in KINDS:
            view = truth.space.store.fetch(artifact)
            damage_view(view, blow, draw)
            folder = truth.space.store.fetch(artifact)
            assert all(is_served(folder, artifact, name) for name in artifact.files), f"{blow} of {artifact.step}"
            number += 1
    print(f"\n{number} damaged views: 0 served")


def digests(refs: list[Ref]) -> dict[str, str]:
    """By step; a report shows times, so no two are alike."""
    return {ref.step: ref.digest for ref in refs if ref.step != "report"}


def run_over_damage(
    home: Path, plan: RunPlan, until: str | None, *, share: float, draw: random.Random, folders: tuple[str, ...]
) -> Counter[str]:
    """Damage a share of the objects in ways drawn at random, run again, and compare.

    What no step of the run had to read may stay damaged: later steps than `until`, a report of other times.
    """
    before = digests(run_until(make, plan, until))
    paths, counts = objects(home / "store", *folders), Counter[str]()
    for path in draw.sample(paths, max(1, round(share * len(paths)))):
        alike = [other for other in paths if other.parts[-3] == path.parts[-3] or "blobs" in other.parts]
        kind = draw.choice(KINDS)
        if path.exists():
            damage(path, kind, [other for other in alike if other.exists()], draw)
            counts[kind] += 1
    assert digests(again := run_until(make, plan, until)) == before
    assert not Truth(home, again).is_noticed()
    return counts


def test_a_run_over_a_damaged_store_ends_with_the_digests_it_had(prepared_home: Path, micro_plan: RunPlan) -> None:
    draw = random.Random(3)
    counts = run_over_damage(prepared_home, micro_plan, "tokens", share=0.4, draw=draw, folders=("blobs", "steps"))
    assert sum(counts.values()) > 5


@pytest.mark.torture
@pytest.mark.timeout(3000)
def test_many_runs_over_damaged_stores_end_with_the_digests_they_had(prepared_home: Path, micro_plan: RunPlan) -> None:
    """The whole pipeline, with a few, half or all of its objects damaged; leases too."""
    draw, counts = random.Random(4), Counter[str]()
    finish_run(micro_plan, run_until(make, micro_plan, None), started_at=0.0)
    for share in (0.02, 0.02, 0.05, 0.1, 0.3, 0.5, 1.0):
        counts += run_over_damage(
            prepared_home, micro_plan, None, share=share, draw=draw, folders=(*EVERYTHING, "leases")
        )
    print(f"\n| damaged objects before 7 runs | {dict(counts)} | other digests: 0 | damage left: 0 |")


@pytest.mark.torture
@pytest.mark.timeout(3000)
def test_a_run_over_damage_in_an_object_store_ends_with_the_digests_it_had(
    s3_url: str, s3_server, tmp_path: Path, micro_plan: RunPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each kind of damage to each manifest and blob of the first steps, read from a home with nothing cached."""
    bucket = s3_url.removeprefix("s3://")
    monkeypatch.setenv("NANOCHAT_STORE", s3_url)
    monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / "home"))
    before, draw, number = digests(run_until(make, micro_plan, "tokens")), random.Random(5), 0
    client = s3_server.client
    keys = [found["Key"] for found in client.list_objects_v2(Bucket=bucket)["Contents"]]
    keys = [key for key in keys if key.startswith(("blobs/", "steps/"))]
    whole = {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}
    for blow in KINDS:
        for key in keys:
            other = draw.choice([value for name, value in whole.items() if value != whole[key]])
            content = damaged_content(blow, whole[key], other, draw)
            if content is None:
                client.delete_object(Bucket=bucket, Key=key)
            else:
                client.put_object(Bucket=bucket, Key=key, Body=content)
            number += 1
            monkeypatch.setenv("NANOCHAT_HOME", str(tmp_path / f"home-{number}"))
            refs = run_until(make, micro_plan, "tokens")
            assert digests(refs) == before, f"{blow} of {key}"
            store = workspace.current().store
            for artifact in store.artifacts():  # what nobody had to read may be damaged still, and is not served
                try:
                    folder = store.fetch(artifact)
                except MissingError:
                    store.discard(artifact)
                    continue
                assert all(is_served(folder, artifact, name) for name in artifact.files), f"{blow} of {key}"
            assert digests(run_until(make, micro_plan, "tokens")) == before
    print(f"\n| {number} damaged objects in S3 | served: 0 | other digests: 0 |")
