"""Bundles of strangers: each is judged, none raises, and none costs more than its size allows."""

import contextlib
import io
import json
import os
import random
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from core.record import hostile
from core.record.synthetic import Runs, plan_with, step_records
from fuzz_lane import LIMIT_CPU_S, LIMIT_MIB, LONG_S, Lane

from nanochat_core.base import foreign
from nanochat_core.cli.records_view import show_verdict
from nanochat_core.record.bundle import make_bundle
from nanochat_core.record.verify import verify
from nanochat_core.store.store import Store

SHORT_S = 6
FORBIDDEN = "\x1b\x07\x9b\u202e\u2066\x7f"


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound zip of one run."""
    folder = tmp_path_factory.mktemp("sound")
    made = Runs(Store.open(str(folder / "store"), cache_folder=folder / "cache"), folder / "scratch")
    plan = plan_with()
    make_bundle(made.store, [made.add(plan, step_records(plan, starts=(0, 17)))], folder / "sound.zip")
    return folder / "sound.zip"


def judged(path: Path) -> str:
    """What `nanochat verify` shows; nothing may be raised, and nothing of it may move a terminal."""
    verdict = verify(path)
    with contextlib.redirect_stdout(io.StringIO()) as out:
        show_verdict(verdict)
    assert not set(FORBIDDEN) & set(out.getvalue())
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("sound:" if verdict.is_sound else "refused:")
    assert not any(line.startswith("sound:") for line in lines[1:])
    json.dumps([str(problem) for problem in verdict.problems]).encode()
    assert not any("cannot be checked" in problem.text for problem in verdict.problems), verdict.problems
    return out.getvalue()


def fuzz(sound: Path, tmp_path: Path, *, seed: int, seconds: float) -> Lane:
    lane, path = Lane(), tmp_path / "mutant.zip"
    for what, content in hostile.mutants(sound, random.Random(seed)):
        path.write_bytes(content)
        try:
            with lane.case(what):
                judged(path)
        except BaseException:
            shutil.copyfile(path, tmp_path / "found.zip")
            print(f"after {lane.num} mutants, seed {seed}: {what}; kept as {tmp_path / 'found.zip'}")
            raise
        if not lane.goes_on(seconds):
            break
    return lane


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_changed_bundles_are_judged_without_a_traceback(sound: Path, tmp_path: Path) -> None:
    assert fuzz(sound, tmp_path, seed=14, seconds=SHORT_S).num > 5


@pytest.mark.torture
@pytest.mark.timeout(LONG_S + 600)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_tens_of_thousands_of_changed_bundles_are_judged(sound: Path, tmp_path: Path) -> None:
    print(fuzz(sound, tmp_path, seed=20261129, seconds=LONG_S))


COST = """
import json, re, sys, time
from pathlib import Path
from nanochat_core.record.verify import verify
for path in sys.argv[1:]:
    begun = time.process_time()
    said = [str(problem) for problem in verify(Path(path)).problems]
    # not ru_maxrss: a process is born with its parent's
    peak_mib = int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10
    print(json.dumps([said, time.process_time() - begun, peak_mib]))
"""


def bomb(kind: str, sound: Path, path: Path) -> str:
    """Write a bundle that would cost a lot; what its refusal says."""
    files = hostile.read(sound)
    log = next(name for name in files if name.endswith("metrics.jsonl"))
    run = log.split("/")[1]
    if kind == "bzip2":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as target:
            target.writestr(f"evidence/{run}/x", b"\0" * (64 << 20))
        return "packed by method 12"
    if kind == "deflate":
        path.write_bytes(hostile.packed({**files, f"evidence/{run}/x": b"\0" * (30 << 20)}))
        return "unpacks to"
    if kind == "lines":
        path.write_bytes(hostile.packed({**files, log: b"\n" * (2 << 20)}))
        return "1,000,000 lines"
    if kind == "values":
        path.write_bytes(hostile.packed({**files, "record.json": b"[" + b"{}," * (2 << 20) + b"0]"}))
        return "more than 500,000 values"
    if kind == "depth":
        path.write_bytes(hostile.packed({**files, "record.json": b"[" * (3 << 20)}))
        return "record.json: is not JSON"
    if kind == "entries":
        path.write_bytes(hostile.packed({**files, **{f"evidence/{run}/{n}": b"" for n in range(20_000)}}))
        return "entries, more than"
    if kind == "runs":
        path.write_bytes(hostile.packed({**files, **{f"evidence/{n}/run.json": files[f"evidence/{run}/run.json"]
                                                     for n in range(300)}}))  # fmt: skip
        return "301 runs"
    assert kind == "steps"
    settings = json.loads(files[f"evidence/{run}/run.json"])["record"]
    settings["config"]["pretrain"] |= {"max_tokens": None, "tokens_per_param": 1e9, "validate_every_steps": 1}
    files[f"evidence/{run}/run.json"] = hostile.seal_json({"run_id": run, "record": settings})
    path.write_bytes(hostile.packed(hostile.resealed(files)))
    return "the validation of step"


BOMBS = ("bzip2", "deflate", "lines", "values", "depth", "entries", "runs", "steps")


def test_small_bundles_cost_little_memory_and_time(sound: Path, tmp_path: Path) -> None:
    expected = {kind: bomb(kind, sound, tmp_path / f"{kind}.zip") for kind in BOMBS}
    paths = [str(tmp_path / f"{kind}.zip") for kind in BOMBS]
    done = subprocess.run([sys.executable, "-c", COST, *paths], capture_output=True, text=True, check=True)
    for kind, line in zip(BOMBS, done.stdout.splitlines(), strict=True):
        said, cpu_s, peak_mib = json.loads(line)
        assert any(expected[kind] in problem for problem in said), (kind, said[:5])
        assert cpu_s < LIMIT_CPU_S, kind
        assert peak_mib < LIMIT_MIB, kind


def test_what_an_entry_says_of_itself_is_not_believed(sound: Path, tmp_path: Path) -> None:
    """Sizes that lie, entries over each other, and a table of contents of other entries than the file's."""
    content = sound.read_bytes()
    for field, said in (
        (20, ("overlap", "beyond its end", "cannot be unpacked")),
        (24, ("cannot be unpacked", "shorter")),
    ):
        at = content.find(b"PK\1\2") + field
        for size in (0, 10, 100_000, 0xFFFFFFFE):
            changed = content[:at] + struct.pack("<I", size) + content[at + 4 :]
            (tmp_path / "lying.zip").write_bytes(changed)
            shown = judged(tmp_path / "lying.zip")
            assert shown.startswith("refused"), (field, size)
            assert any(part in shown for part in (*said, "unpacks to", "longer", "no whole zip", "promises")), shown
    [first, second] = hostile.places(content, b"PK\1\2")[:2]
    one_place = bytearray(content)
    one_place[second + 42 : second + 46] = content[first + 42 : first + 46]
    (tmp_path / "shared.zip").write_bytes(one_place)
    assert "overlap" in judged(tmp_path / "shared.zip")


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a\\b", "evidence//x", "evidence/" * 20 + "x", hostile.ESCAPES, "x" * 1100]
)
def test_names_that_lead_elsewhere_are_refused(name: str, sound: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shutil.copyfile(sound, tmp_path / "odd.zip"), "a") as target:
        target.writestr(name, b"x")
    assert "is no plain file" in judged(tmp_path / "odd.zip")


@pytest.mark.parametrize("kind", ["link", "fifo", "deep", "many", "holes"])
def test_a_folder_is_held_to_the_same(kind: str, sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(sound) as packed:
        packed.extractall(tmp_path / "bundle")
    folder = tmp_path / "bundle/evidence"
    if kind == "link":
        (folder / "link").symlink_to(tmp_path)
    elif kind == "fifo":
        os.mkfifo(folder / "fifo")
    elif kind == "holes":
        (folder / "r/pretrain").mkdir(parents=True)
        with (folder / "r/pretrain/model.safetensors").open("wb") as weights:
            weights.truncate(16 << 30)  # of which a digest takes half a minute
    elif kind == "deep":
        (folder / "/".join("d" * 30)).mkdir(parents=True)
        (folder / "/".join("d" * 30) / "x").touch()
    else:
        monkeypatch.setattr(foreign, "MAX_ENTRIES", 10)
    said = judged(tmp_path / "bundle")
    assert {
        "link": "no plain file",
        "fifo": "no plain file",
        "deep": "levels",
        "many": "more than 10 files",
        "holes": "holes",
    }[kind] in said


def test_escape_sequences_of_a_bundle_are_spelt_out_and_forge_no_line(sound: Path, tmp_path: Path) -> None:
    forged = "x\nsound: record.zip, every claim follows\x1b[2J\u202e[green]sound[/green]"
    files = hostile.read(sound)
    record = hostile.unsealed(files["record.json"])
    files["record.json"] = hostile.seal_json({**record, forged: 1, "description": forged})
    (tmp_path / "forged.zip").write_bytes(hostile.packed(files))
    said = judged(tmp_path / "forged.zip")
    assert r"x\nsound: record.zip, every claim follows\u001b[2J\u202e[green]sound[/green] is unknown" in said


@pytest.mark.parametrize("value", [{}, [], "12", None, True, -1, 1.5], ids=json.dumps)
def test_a_metric_of_another_kind_is_a_problem_and_no_error(sound: Path, tmp_path: Path, value: object) -> None:
    """Every metric of every manifest in turn, and every field of bpb.json."""
    with zipfile.ZipFile(sound) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for name, content in files.items():
        if not name.endswith(".json") or "/evidence/" not in f"/{name}":
            continue
        told = json.loads(content)
        fields = told.get("metrics", told if name.endswith("bpb.json") else {})
        for field in list(fields):
            before, fields[field] = fields[field], value
            with zipfile.ZipFile(tmp_path / "changed.zip", "w") as archive:
                for each, old in files.items():
                    archive.writestr(each, json.dumps(told) if each == name else old)
            fields[field] = before
            judged(tmp_path / "changed.zip")
