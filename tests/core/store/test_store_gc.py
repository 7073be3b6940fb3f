"""Nothing that anybody needs is ever deleted, and nothing else stays: beside publishers, and through crashes."""

import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nanochat_core.base.errors import CorruptError, MissingError
from nanochat_core.store import Artifact, LeaseHeldError, Store
from nanochat_core.store import gc as collector
from nanochat_core.store.filesystem import Files, FolderFiles, Location
from nanochat_core.store.gc import clean, collect
from nanochat_core.store.intent import Intent, collector_book
from nanochat_core.store.lease import Claim, acquire
from nanochat_core.store.reach import DAY_S, Policy, make_plan

NOW = Policy(keep_runs=0, keep_days=0, grace_s=0)
NOTHING: dict[str, Any] = {"inputs": {}, "config": {}, "code": {}, "packages": {}, "metrics": {}, "provenance": {}}


def kinds(store: Store, policy: Policy = NOW) -> list[str]:
    return [item.kind for item in collect(store, policy, ttl_s=1.0).items]


def make_older(bench, seconds: float, *, below: str = "") -> None:
    for path in Path(bench.url, below).rglob("*"):
        if path.is_file():
            os.utime(path, (time.time() - seconds, time.time() - seconds))


def chain(bench, length: int = 3) -> list[Artifact]:
    """Artifacts that are each made from the one before."""
    made: list[Artifact] = []
    for number in range(length):
        inputs = {"before": made[-1].result_digest} if made else {}
        made.append(bench.publish({"own": b"%d" % number}, fingerprint=f"f{number}", inputs=inputs))
    return made


def test_the_digest_of_results_is_the_one_that_steps_know_their_inputs_by(memory_bench):
    artifact = memory_bench.publish({"model": b"m", "log/output.log": b"o", "logs": b"no log"})
    assert memory_bench.publish({"model": b"m", "logs": b"no log"}).result_digest == artifact.result_digest


def test_a_mix_that_stays_keeps_the_sources_that_it_was_put_together_from(bench):
    source = bench.publish({"own": b"own"}, fingerprint="own")
    other = bench.publish({"web": b"web"}, fingerprint="web")
    mix = bench.publish({"all": b"all"}, fingerprint="mix", metrics={"parts": {"own": source.result_digest}})
    bench.store.set_ref("kept", "1", mix)
    assert kinds(bench.store) == ["manifest", "blob"]
    assert bench.store.find("tokens", "own") is not None
    assert bench.store.find("tokens", other.fingerprint) is None


def test_what_nothing_names_goes_with_its_blobs(bench):
    bench.publish({"a": b"a", "b": b"b"})
    assert kinds(bench.store) == ["manifest", "blob", "blob"]
    left = [key for key in bench.objects() if not key.startswith("leases/gc/")]
    assert left == []


@pytest.mark.parametrize("root", ["ref", "run", "pin of a ref", "pin of a run", "lease"])
def test_whatever_holds_the_last_artifact_holds_all_that_it_was_made_from(folder_bench, root):
    made, store = chain(folder_bench), folder_bench.store
    record = {"steps": [{"step": "tokens", "fingerprint": "f2", "digest": made[2].result_digest}]}
    with ExitStack() as stack:
        if root == "ref":
            store.set_ref("model", "1", made[2])
        elif root == "run":
            store.put_run("r1", record)
        elif root == "pin of a ref":
            store.set_ref("model", "1", made[2])
            store.pin("model")
            store.remove_ref("model")
        elif root == "pin of a run":
            store.put_run("r1", record)
            store.pin("r1")
        else:
            stack.enter_context(store.lease("next", "n", owner="me", inputs={"before": made[2].result_digest}))
        policy = Policy(keep_runs=1 if root == "run" else 0, keep_days=0, grace_s=0)
        assert kinds(store, policy) == []
        assert all(store.find("tokens", artifact.fingerprint) for artifact in made)
    if root == "ref":
        store.remove_ref("model", "1")
    elif root.startswith("pin"):
        [pin] = store.pins()
        store.unpin(pin.target)
    gone = kinds(store)
    assert gone.count("manifest") == 3
    assert store.artifacts() == []


def test_an_input_known_by_all_of_its_files_is_kept_as_well(memory_bench):
    source = memory_bench.publish({"model": b"m", "log/x": b"x"}, fingerprint="source")
    report = memory_bench.publish({"page": b"p"}, fingerprint="report", inputs={"base": source.digest})
    memory_bench.store.set_ref("page", "1", report)
    assert kinds(memory_bench.store) == []


def test_the_newest_runs_and_the_young_ones_are_kept(folder_bench):
    for number in range(6):
        folder_bench.publish({"own": b"%d" % number}, fingerprint=f"f{number}")
        folder_bench.store.put_run(f"r{number}", {"steps": [{"step": "tokens", "fingerprint": f"f{number}"}]})
    make_older(folder_bench, 10 * DAY_S)
    for number in range(6):
        path = Path(folder_bench.url, f"runs/r{number}.json")
        age_s = (6 - number) * DAY_S
        os.utime(path, (time.time() - age_s, time.time() - age_s))
    collect(folder_bench.store, Policy(keep_runs=2, keep_days=3.5, grace_s=0))
    assert sorted(artifact.fingerprint for artifact in folder_bench.store.artifacts()) == ["f3", "f4", "f5"]
    collect(folder_bench.store, Policy(keep_runs=2, keep_days=0, grace_s=0))
    assert sorted(artifact.fingerprint for artifact in folder_bench.store.artifacts()) == ["f4", "f5"]
    assert folder_bench.store.runs() == [f"r{number}" for number in range(6)], "what a run came to stays known"


def test_refs_of_runs_hold_the_newest_only_and_go_with_their_artifact(folder_bench):
    store = folder_bench.store
    for number in range(3):
        artifact = folder_bench.publish({"own": b"%d" % number}, fingerprint=f"f{number}")
        store.set_ref("tiny-chat", artifact.fingerprint, artifact, expires=True)
    store.set_ref("baseline", "f0", store.find("tokens", "f0"))
    assert kinds(store) == ["ref", "manifest", "blob"]
    assert [(ref.name, ref.version) for ref in store.refs()] == [
        ("baseline", "f0"),
        ("tiny-chat", "f0"),
        ("tiny-chat", "f2"),
    ]


def test_what_is_young_stays_and_an_unfinished_run_can_go_on(folder_bench):
    store = folder_bench.store
    chain(folder_bench, 2)
    store.partial("pretrain", "p").put_folder(folder_bench.folder({"w": b"w"}), "last")
    week = Policy(keep_runs=0, keep_days=7, grace_s=60)
    make_older(folder_bench, 6 * DAY_S)
    assert kinds(store, week) == []
    make_older(folder_bench, 8 * DAY_S)
    assert store.reuse("tokens", "f1") is not None, "a run that works with it makes it young again"
    assert kinds(store, week) == ["partial"]
    make_older(folder_bench, 8 * DAY_S)
    assert kinds(store, week) == ["manifest", "manifest", "blob", "blob"]


def test_an_unfinished_step_keeps_what_it_reads_as_long_as_its_checkpoints(folder_bench):
    source, store = folder_bench.publish({"t": b"t"}), folder_bench.store
    with store.lease("pretrain", "p", owner="me", inputs={"tokens": source.result_digest}) as lease:
        store.partial("pretrain", "p", lease=lease).put_folder(folder_bench.folder({"w": b"w"}), "last")
    make_older(folder_bench, 8 * DAY_S)
    make_older(folder_bench, 1 * DAY_S, below="partial")
    assert kinds(store, Policy(keep_runs=0, keep_days=7)) == []
    make_older(folder_bench, 8 * DAY_S)
    assert sorted(kinds(store, Policy(keep_runs=0, keep_days=7))) == ["blob", "lease", "manifest", "partial"]


def test_a_running_step_keeps_its_checkpoints_whatever_their_age(folder_bench):
    store = folder_bench.store
    with store.lease("pretrain", "p", owner="me") as lease:
        store.partial("pretrain", "p", lease=lease).put_folder(folder_bench.folder({"w": b"w"}), "last")
        make_older(folder_bench, 1000 * DAY_S)
        assert kinds(store) == []
    assert sorted(kinds(store)) == ["lease", "partial"]


def test_a_holder_elsewhere_whose_clock_is_wrong_is_alive(folder_bench, monkeypatch):
    """It looks a thousand days silent, and renews all the same."""
    from nanochat_core.store.holder import Holder

    monkeypatch.setattr(Holder, "current", classmethod(lambda cls: Holder(machine=None, pid=1, started=None)))
    store = folder_bench.store
    with store.lease("pretrain", "p", owner="me", ttl_s=0.4) as lease:
        store.partial("pretrain", "p", lease=lease).put_folder(folder_bench.folder({"w": b"w"}), "last")
        make_older(folder_bench, 1000 * DAY_S)
        assert not [item for item in make_plan(store, NOW).items if item.kind in ("partial", "lease")]


def test_leftovers_of_a_finished_step_go_after_the_grace_time(folder_bench):
    store = folder_bench.store
    artifact = folder_bench.publish({"w": b"w"}, step="pretrain")
    store.set_ref("model", "1", artifact)
    store.partial("pretrain", "f1").put_folder(folder_bench.folder({"w": b"w"}), "last")
    make_older(folder_bench, 2 * DAY_S)
    assert kinds(store, Policy(keep_runs=0, keep_days=30)) == ["partial"]


@pytest.mark.parametrize(
    "victim", ["refs/model/1.json", "runs/r1.json", "pins/refs/model/1.json", "steps/tokens/f0.json"]
)
def test_what_cannot_be_read_might_protect_anything_so_nothing_goes(folder_bench, victim):
    made, store = chain(folder_bench, 2), folder_bench.store
    store.set_ref("model", "1", made[0])
    store.put_run("r1", {"steps": []})
    store.pin("model")
    before = folder_bench.objects()
    folder_bench.overwrite(victim, b"{")
    with pytest.raises(CorruptError, match=victim):
        collect(store, Policy(keep_runs=1, keep_days=0, grace_s=0))
    assert [key for key in folder_bench.objects() if not key.startswith(("leases/gc", "gc/"))] == before


def test_the_dry_run_says_exactly_what_the_real_one_deletes_and_writes_nothing(bench, tmp_path):
    made = chain(bench, 4)
    bench.store.set_ref("model", "1", made[1])
    bench.store.partial("pretrain", "p").put_folder(bench.folder({"w": b"w"}), "last")
    bench.store.lease("pretrain", "p", owner="me").release()
    (tmp_path / "home/work/pretrain-x").mkdir(parents=True)
    before = bench.objects()
    dry = clean(bench.store, tmp_path / "home", NOW, dry_run=True)
    assert bench.objects() == before
    told: list[Any] = []
    real = clean(bench.store, tmp_path / "home", NOW, on_deleted=told.append)
    assert dry.items == real.items == tuple(told)
    assert {"manifest", "partial", "lease", "blob", "work"} == {item.kind for item in real.items}
    gone = set(before) - set(bench.objects())
    assert gone == {key for item in real.items for key in before if key == item.key or key.startswith(f"{item.key}/")}


def test_one_gc_at_a_time(memory_bench):
    with (
        acquire(collector_book(memory_bench.store.files), Claim(owner="another gc", ttl_s=0.5)),
        pytest.raises(LeaseHeldError, match="another gc"),
    ):
        collect(memory_bench.store, NOW, ttl_s=0.1)


def test_a_gc_that_was_killed_elsewhere_does_not_stop_the_next(memory_bench):
    dead = acquire(collector_book(memory_bench.store.files), Claim(owner="gc", ttl_s=0.2))
    dead._released.set()
    Intent(memory_bench.store.files).announce(["blobs/x"])
    memory_bench.publish({"a": b"a"})
    assert kinds(memory_bench.store) == ["manifest", "blob"]


@pytest.mark.slow
def test_a_bucket_is_rid_of_uploads_that_were_never_completed(s3_bench, s3_server):
    bucket, _, prefix = s3_bench.url.removeprefix("s3://").partition("/")
    keys = [f"{prefix}/blobs/sha256/ab/x", "other/y"]
    for key in keys:
        s3_server.client.create_multipart_upload(Bucket=bucket, Key=key)
    assert kinds(s3_bench.store, Policy(keep_runs=0, keep_days=0)) == [], "it may be under way"
    assert kinds(s3_bench.store) == ["upload"]
    left = s3_server.client.list_multipart_uploads(Bucket=bucket).get("Uploads", [])
    assert [upload["Key"] for upload in left] == ["other/y"], "not below our prefix: not ours"


class Server(Files):
    """A folder with a server's manners: it is not one that the store could write into, and equal blobs are not sent."""

    def __init__(self, folder: Path) -> None:
        location = Location(url=f"server://{folder}", protocol="file", path=str(folder))
        super().__init__(location, fsspec.filesystem("file"))
        self.within = FolderFiles(location, self.fs)
        for name in (
            "read",
            "write",
            "create",
            "keys",
            "stamps",
            "remove",
            "remove_below",
            "num_bytes",
            "put",
            "touch",
        ):
            setattr(self, name, getattr(self.within, name))

    has_atomic_create = True


@pytest.fixture
def server(tmp_path) -> Store:
    """A store that does not send equal blobs again, with an old artifact that nothing reaches."""
    store = Store(Server(tmp_path / "store"), cache_folder=tmp_path / "cache", cache_max_bytes=0)
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shared").write_bytes(b"in both")
    store.publish(tmp_path / "old", step="s", fingerprint="old", **NOTHING)
    return store


def publish_new(store: Store, tmp_path: Path) -> None:
    store.publish(tmp_path / "new", step="s", fingerprint="new", **NOTHING)


def test_a_blob_that_goes_between_its_upload_and_its_manifest_is_sent_again(server, tmp_path, monkeypatch):
    write = Store._write_manifest

    def gc_comes_first(self: Store, *arguments: Any) -> None:
        assert [item.kind for item in collect(server, NOW).items] == ["manifest", "blob"]
        write(self, *arguments)

    monkeypatch.setattr(Store, "_write_manifest", gc_comes_first)
    publish_new(server, tmp_path)
    assert server.find("s", "new") is not None


def test_a_ref_that_is_set_between_the_plan_and_its_announcement_holds(server, monkeypatch):
    announce = Intent.announce

    def ref_comes_first(self: Intent, keys: Any) -> None:
        server.set_ref("model", "1", server.find("s", "old"))
        announce(self, keys)

    monkeypatch.setattr(Intent, "announce", ref_comes_first)
    assert collect(server, NOW).items == ()
    assert server.ref("model").fingerprint == "old"


def test_a_publisher_waits_for_a_gc_that_is_about_to_delete_its_blob(server, tmp_path, monkeypatch):
    delete, reached, go_on = collector._delete, threading.Event(), threading.Event()

    def slowly(store: Store, item: Any) -> None:
        if item.kind == "blob":
            reached.set()
            assert go_on.wait(20)
        delete(store, item)

    monkeypatch.setattr(collector, "_delete", slowly)
    lease = server.lease("s", "new", owner="publisher")  # so that its artifact is reachable
    gc = threading.Thread(target=collect, args=(server, NOW), daemon=True)
    publisher = threading.Thread(target=publish_new, args=(server, tmp_path), daemon=True)
    gc.start()
    assert reached.wait(20), "after its look at the list, before the deletion"
    publisher.start()
    publisher.join(0.5)
    assert publisher.is_alive()
    go_on.set()
    for thread in (publisher, gc):
        thread.join(20)
    assert server.find("s", "new") is not None
    lease.release()


def test_a_publisher_does_not_wait_for_a_gc_that_crashed(server, tmp_path):
    Intent(server.files).announce(server.files.keys("blobs"))
    publish_new(server, tmp_path)
    assert server.files.read("gc/intent.json") is None


CONTENTS = [b"alpha", b"beta", b"gamma", b"delta"]


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """A random store, what others do to it meanwhile, and where gc crashes."""
    size = draw(st.integers(1, 6))
    one = st.integers(0, size - 1)
    some = st.lists(one, max_size=2)
    act = st.tuples(st.integers(0, 5), st.sampled_from(["publish", "ref"]), one)
    return {
        "contents": [draw(st.lists(st.integers(0, 3), max_size=2, unique=True)) for _ in range(size)],
        "inputs": [draw(st.lists(st.integers(0, n - 1), max_size=2)) if n else [] for n in range(size)],
        "refs": draw(some),
        "runs": draw(st.lists(some, max_size=3)),
        "keep_runs": draw(st.integers(0, 2)),
        "pins": draw(some),
        "leases": draw(some),
        "acts": draw(st.lists(act, max_size=2)),
        "crash": draw(st.none() | st.integers(0, 6)),
    }


class World:
    """The store of an example, and an own account of what has to stay."""

    def __init__(self, folder: Path, drawn: dict[str, Any], stack: ExitStack) -> None:
        self.store = Store(Server(folder / "store"), cache_folder=folder / "cache", cache_max_bytes=0)
        self.folder, self.drawn, self.stack = folder, drawn, stack
        self.needed: set[str] = set()
        self.counter = itertools.count()
        self.made: list[Artifact] = []
        for contents, inputs in zip(drawn["contents"], drawn["inputs"], strict=True):
            digests = {f"in{n}": self.made[n].result_digest for n in inputs}
            self.made.append(self.publish(self.store, f"f{len(self.made)}", contents, digests))
        for n in drawn["refs"]:
            self.store.set_ref("model", f"v{n}", self.made[n])
        for number, run in enumerate(drawn["runs"]):
            self.store.put_run(f"r{number}", {"steps": [{"step": "s", "fingerprint": f"f{n}"} for n in run]})
            moment = 1e9 + number
            os.utime(folder / f"store/runs/r{number}.json", (moment, moment))
        for n in drawn["pins"]:
            self.store.set_ref("pinned", f"v{n}", self.made[n])
            self.store.pin(f"pinned@v{n}")
            self.store.remove_ref("pinned", f"v{n}")
        for number, n in enumerate(drawn["leases"]):
            options = {"owner": "me", "inputs": {"x": self.made[n].result_digest}}
            stack.enter_context(self.store.lease("t", f"l{number}", **options))
        kept_runs = drawn["runs"][len(drawn["runs"]) - drawn["keep_runs"] :] if drawn["keep_runs"] else []
        roots = {*drawn["refs"], *drawn["pins"], *drawn["leases"], *(n for run in kept_runs for n in run)}
        self.needed |= {f"f{n}" for n in roots}

    def publish(
        self, store: Store, fingerprint: str, contents: list[int], inputs: dict[str, str], **more: Any
    ) -> Artifact:
        out = self.folder / f"out-{next(self.counter)}"
        out.mkdir()
        (out / "own").write_text(fingerprint)
        for n in contents:
            (out / f"{n}").write_bytes(CONTENTS[n])
        return store.publish(out, step="s", fingerprint=fingerprint, **(NOTHING | {"inputs": inputs}), **more)

    def act(self, kind: str, n: int) -> None:
        """What another process does at the same moment; from its return on, what it needs is needed."""
        if kind == "ref":
            try:
                self.store.set_ref("later", f"v{n}", self.made[n])
                self.needed.add(f"f{n}")
            except MissingError:
                self.store.remove_ref("later", f"v{n}")
            return
        source = self.store.reuse("s", f"f{n}")
        if source is None:
            return
        fingerprint = f"new{next(self.counter)}"
        inputs = {"source": source.result_digest}
        lease = self.stack.enter_context(self.store.lease("s", fingerprint, owner="other", inputs=inputs))
        if self.store.reuse("s", f"f{n}") is None:
            return
        self.needed.add(f"f{n}")
        self.publish(self.store, fingerprint, self.drawn["contents"][n], inputs, lease=lease)
        self.needed.add(fingerprint)

    def reachable(self) -> set[str]:
        """Fingerprints that have to stay, by a plain search over everything that there ever was."""
        known = {artifact.fingerprint: artifact for artifact in [*self.made, *self.store.artifacts("s")]}
        reached, waiting = set(), list(self.needed)
        while waiting:
            name = waiting.pop()
            if name in reached or name not in known:
                continue
            reached.add(name)
            for digest in known[name].inputs.values():
                waiting += [other for other, artifact in known.items() if artifact.result_digest == digest]
        return reached


class Crash(Exception):
    """gc ends here."""


def interfering(world: World, drawn: dict[str, Any], threads: list[threading.Thread]) -> Iterator[None]:
    """Before a plan is announced and before each deletion: who acts now gets a moment, and may go on beside gc."""
    for number in itertools.count():
        for when, kind, n in drawn["acts"]:
            if when == number:
                thread = threading.Thread(target=world.act, args=(kind, n), daemon=True)
                thread.start()
                thread.join(0.01)
                threads.append(thread)
        if number == drawn["crash"]:
            raise Crash
        yield


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(drawn=worlds())
def test_nothing_reachable_goes_and_nothing_unreachable_stays(tmp_path_factory, drawn):
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        world = World(tmp_path_factory.mktemp("gc"), drawn, stack)
        policy = Policy(keep_runs=drawn["keep_runs"], keep_days=0, grace_s=0)
        threads: list[threading.Thread] = []
        errors: list[Any] = []
        patch.setattr(threading, "excepthook", errors.append)
        patch.setattr(collector, "BATCH", 2)
        moments, guard = interfering(world, drawn, threads), threading.Lock()

        def check(self: Intent) -> None:
            with guard:
                next(moments, None)
            checked(self)

        def announce(self: Intent, keys: Any) -> None:
            with guard:
                next(moments, None)
            announced(self, keys)

        checked, announced = Intent.check, Intent.announce
        patch.setattr(Intent, "check", check)
        patch.setattr(Intent, "announce", announce)
        with suppress(Crash):
            collect(world.store, policy)
        patch.setattr(Intent, "check", checked)
        patch.setattr(Intent, "announce", announced)
        for thread in threads:
            thread.join(20)
            assert not thread.is_alive()
        assert errors == []
        for fingerprint in world.reachable():
            assert world.store.find("s", fingerprint) is not None, "gone or without its blobs"
        collect(world.store, policy)
        found = {artifact.fingerprint: artifact for artifact in world.store.artifacts("s")}
        assert set(found) == world.reachable()
        blobs = {entry.sha256 for artifact in found.values() for entry in artifact.files.values()}
        assert {key.rpartition("/")[2] for key in world.store.files.keys("blobs")} == blobs
        assert all(world.store.verify(artifact) == [] for artifact in found.values())
