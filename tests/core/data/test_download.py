"""Single files over HTTP: whatever goes wrong on the way, the right bytes arrive or nothing does."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from http_server import HONEST, Fault, HttpServer

from nanochat_core.base.errors import CorruptError, HardwareError, MissingError
from nanochat_core.data.corpora import check_parquet
from nanochat_core.data.download import Downloader, Wanted, fetch_file
from nanochat_core.data.hub import Patience, Stopped, retry_after_s

ROOT = Path(__file__).resolve().parents[3]
QUICK = Patience(num_tries=6, backoff_base_s=0.001, connect_timeout_s=2.0, stall_timeout_s=0.2)
CONTENT = random.Random(0).randbytes(400_000)
OTHER = random.Random(1).randbytes(400_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
HALF = 200_000


@pytest.fixture
def server():
    with HttpServer() as server:
        server.files["/a.bin"] = CONTENT
        yield server


@pytest.fixture
def other_server():
    with HttpServer() as server:
        yield server


@pytest.fixture
def fetch(server, tmp_path):
    """Fetch a.bin and check that what is left is the file and nothing else."""

    def fetch(*urls, **options):
        target = tmp_path / "downloads" / "a.bin"
        fetched = fetch_file(urls or [f"{server.url}/a.bin"], target, **{"patience": QUICK, **options})
        assert (fetched.sha256, fetched.num_bytes) == (hashlib.sha256(target.read_bytes()).hexdigest(), 400_000)
        assert os.listdir(target.parent) == ["a.bin"]
        return target.read_bytes()

    return fetch


BREAKS = {
    "truncated": Fault(after_frac=0.5),
    "reset": Fault(after_frac=0.5, then="reset"),
    "reset before the first byte": Fault(after_frac=0.0, then="reset"),
    "stalled": Fault(after_frac=0.5, then="stall"),
    "said to be longer": Fault(lie_bytes=1000),
    "said to be shorter": Fault(lie_bytes=-1000),
    "408": Fault(status=408),
    "429": Fault(status=429),
    "500": Fault(status=500),
    "502": Fault(status=502),
    "503": Fault(status=503),
    "504": Fault(status=504),
    "a page with status 200": Fault(
        page=b"<html>try later</html>", headers={"Content-Type": "text/html; charset=utf-8"}
    ),
    "a page that says it is a file": Fault(page=b"<html>try later</html>"),
    "wrong bytes": Fault(wrong_bytes=True),
    "no bytes": Fault(page=b""),
}
WHOLE_AND_WRONG = ["said to be shorter", "a page that says it is a file", "wrong bytes", "no bytes"]


@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS)
def test_one_break_costs_one_more_request_at_most(server, fetch, fault):
    server.script("/a.bin", fault)
    assert fetch(sha256=SHA256) == CONTENT
    assert len(server.log) <= 2


@pytest.mark.parametrize("fault", BREAKS.values(), ids=BREAKS)
def test_a_break_in_the_middle_of_a_resumed_download_heals(server, fetch, fault):
    server.script("/a.bin", Fault(after_frac=0.3), fault)
    assert fetch(sha256=SHA256) == CONTENT
    assert server.log[1].range == "bytes=120000-"


@pytest.mark.parametrize("seed", range(6))
def test_every_break_one_after_the_other_in_any_order_gives_the_right_bytes(server, fetch, seed):
    names = [name for name in BREAKS if name not in ("stalled", "said to be longer", *WHOLE_AND_WRONG)]
    names.append(WHOLE_AND_WRONG[seed % len(WHOLE_AND_WRONG)])  # two of these in a row are taken for the truth
    random.Random(seed).shuffle(names)
    faults = [BREAKS[name] for name in names]
    server.script("/a.bin", *faults)
    patience = Patience(num_tries=40, backoff_base_s=0.0)
    assert fetch(sha256=SHA256, patience=patience) == CONTENT
    assert server.faults_left() == 0


@pytest.mark.parametrize("fault", [Fault(pause_s=0.01), Fault(pause_s=0.0005, piece_bytes=997)])
def test_a_slow_drip_is_no_break(server, fetch, fault):
    server.script("/a.bin", fault)
    assert fetch() == CONTENT
    assert len(server.log) == 1


def test_only_the_rest_is_asked_for_and_only_of_the_same_file(server, fetch):
    server.script("/a.bin", Fault(after_frac=0.5))
    assert fetch() == CONTENT
    first, rest = server.log
    assert (first.range, rest.range, rest.status) == (None, f"bytes={HALF}-", 206)
    assert rest.if_range == f'"{SHA256[:16]}"'
    assert first.num_sent + rest.num_sent == len(CONTENT)


@pytest.mark.parametrize("sha256", [None, hashlib.sha256(OTHER).hexdigest()], ids=["no digest", "digest"])
@pytest.mark.parametrize("has_etags", [True, False])
def test_a_file_that_changed_in_between_is_not_glued_together(server, fetch, sha256, has_etags):
    server.has_etags = has_etags
    server.script("/a.bin", Fault(after_frac=0.5), Fault(change_to=OTHER))
    assert fetch(sha256=sha256) == OTHER


def test_a_server_that_ignores_if_range_does_not_glue_two_files(server, fetch):
    server.script("/a.bin", Fault(after_frac=0.5))
    changed = {"ETag": '"another"', "Content-Range": f"bytes {HALF}-399999/400000"}
    server.script("/a.bin", Fault(status=206, page=OTHER[HALF:], headers=changed), Fault(change_to=OTHER))
    assert fetch() == OTHER


def test_a_server_that_sends_another_range_is_not_believed(server, fetch):
    server.script("/a.bin", Fault(after_frac=0.5))
    shifted = {"Content-Range": "bytes 100-399999/400000"}
    server.script("/a.bin", Fault(status=206, page=CONTENT[100:], headers=shifted))
    assert fetch() == CONTENT


def test_a_server_that_ignores_ranges_sends_it_all_again(server, fetch):
    server.script("/a.bin", Fault(after_frac=0.5), Fault(ignore_range=True))
    assert fetch() == CONTENT
    assert [request.status for request in server.log] == [200, 200]


def test_redirects_are_followed_and_what_they_carry_is_not_kept(server, fetch, tmp_path):
    server.redirects["/moved"] = f"{server.url}/a.bin?X-Signature=secret"
    server.script("/a.bin", Fault(after_frac=0.5))
    assert fetch(f"{server.url}/moved") == CONTENT
    server.always["/a.bin"] = Fault(status=404)
    with pytest.raises(MissingError) as error:
        fetch_file([f"{server.url}/moved?token=secret"], tmp_path / "b.bin", patience=QUICK)
    server.always["/a.bin"] = Fault(after_frac=0.5)
    with pytest.raises(MissingError) as failure:
        fetch_file([f"{server.url}/moved?token=secret"], tmp_path / "b.bin", patience=QUICK)
    kept = "".join(path.read_text() for path in tmp_path.rglob("*.json"))
    assert "secret" not in f"{error.value.message}{error.value.hint}{failure.value.message}{kept}"


def test_a_redirect_loop_ends(server, tmp_path):
    server.redirects["/loop"] = f"{server.url}/loop"
    with pytest.raises(MissingError, match="loop"):
        fetch_file([f"{server.url}/loop"], tmp_path / "a", patience=QUICK)


@pytest.mark.parametrize("has_digest", [True, False])
def test_a_download_that_was_killed_goes_on_where_it_was(server, tmp_path, has_digest):
    """SIGKILL, in a real process, in the middle of a body."""
    program = f"""
        from pathlib import Path
        from nanochat_core.data.download import fetch_file
        fetch_file(["{server.url}/a.bin"], Path("{tmp_path}/a.bin"), sha256={SHA256 if has_digest else None!r})
    """
    server.always["/a.bin"] = Fault(pause_s=0.02)
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT)
    part = tmp_path / "a.bin.part"
    while not (part.is_file() and part.stat().st_size >= 100_000):
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    here = part.stat().st_size
    assert 100_000 <= here < 400_000
    assert not (tmp_path / "a.bin").exists()
    server.always.clear()
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, check=True)
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    [_, rest] = server.log
    assert (rest.range, rest.status, rest.num_sent) == (f"bytes={here}-", 206, 400_000 - here)


@pytest.mark.parametrize("notes", [None, b"", b'{"base"', b"[]", b'{"base": 5}'])
def test_a_part_without_whole_notes_is_not_trusted(server, fetch, tmp_path, notes):
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/a.bin.part").write_bytes(OTHER[:1000])
    if notes is not None:
        (tmp_path / "downloads/a.bin.part.json").write_bytes(notes)
    assert fetch() == CONTENT
    assert server.log[0].range is None


def test_a_part_begun_for_another_digest_is_thrown_away(server, fetch):
    server.files["/a.bin"] = OTHER
    server.always["/a.bin"] = Fault(after_frac=0.5)
    with pytest.raises(MissingError):
        fetch(sha256=hashlib.sha256(OTHER).hexdigest(), patience=Patience(num_tries=1))
    server.always.clear()
    server.files["/a.bin"] = CONTENT
    assert fetch(sha256=SHA256) == CONTENT
    assert server.log[-1].range is None


def test_a_damaged_part_is_found_and_blamed_on_nobody(server, fetch, tmp_path):
    server.script("/a.bin", Fault(after_frac=0.5))
    with pytest.raises(MissingError):
        fetch(sha256=SHA256, patience=Patience(num_tries=1))
    part = tmp_path / "downloads/a.bin.part"
    part.write_bytes(OTHER[:HALF])
    notes = []
    assert fetch(f"{server.url}/a.bin", f"{server.url}/mirror", sha256=SHA256, note=notes.append) == CONTENT
    assert notes == []


def test_a_file_with_the_right_digest_is_not_asked_for_again(server, fetch):
    fetch(sha256=SHA256)
    fetch(sha256=SHA256)
    assert len(server.log) == 1


def test_without_a_digest_the_file_is_replaced_as_a_whole(server, fetch):
    fetch()
    server.files["/a.bin"] = OTHER
    assert fetch() == OTHER


@pytest.mark.parametrize(("status", "hint"), [(401, "HF_TOKEN"), (403, "HF_TOKEN"), (404, "address"), (410, "address")])
def test_a_refusal_is_not_tried_again(server, tmp_path, status, hint):
    server.always["/a.bin"] = Fault(status=status, headers={"X-Error-Message": "because of rain"})
    with pytest.raises(MissingError, match=rf"a\.bin was refused: {status} .*because of rain") as error:
        fetch_file([f"{server.url}/a.bin"], tmp_path / "a.bin", patience=QUICK)
    assert hint in error.value.hint
    assert len(server.log) == 1


def test_patience_ends_with_what_was_seen_last(server, tmp_path):
    server.always["/a.bin"] = Fault(status=503)
    with pytest.raises(MissingError, match="503 Service Unavailable"):
        fetch_file([f"{server.url}/a.bin"], tmp_path / "a.bin", patience=QUICK)
    assert len(server.log) == QUICK.num_tries


def test_a_large_file_may_break_more_often_than_patience_lasts(server, tmp_path):
    server.files["/large"] = random.Random(3).randbytes(24 << 20)
    server.script("/large", *[Fault(after_frac=0.1)] * 8)  # each attempt brings a tenth of the rest, 1 MiB and more
    patience = Patience(num_tries=5, backoff_base_s=0.0)
    assert fetch_file([f"{server.url}/large"], tmp_path / "large", patience=patience).num_bytes == 24 << 20
    assert len(server.log) == 9


def test_nobody_at_the_address_is_a_missing_file_and_no_traceback(tmp_path):
    with HttpServer() as server:
        url = server.url
    with pytest.raises(MissingError, match="refused") as error:
        fetch_file([f"{url}/a?key=secret"], tmp_path / "a", patience=QUICK)
    assert "secret" not in error.value.message


class _Limits(random.Random):
    """Records the upper limits that waits are drawn below."""

    def __init__(self):
        super().__init__(0)
        self.seen = []

    def uniform(self, a, b):
        assert a == 0.0
        self.seen.append(b)
        return 0.0


def test_waits_are_drawn_from_zero_to_a_doubling_limit_with_a_cap(server, tmp_path):
    server.always["/a.bin"] = Fault(status=500)
    limits = _Limits()
    patience = Patience(num_tries=7, backoff_base_s=1.0, backoff_cap_s=10.0)
    wanted = Wanted(url=lambda base: base, target=tmp_path / "a.bin")
    with Downloader([f"{server.url}/a.bin"], patience=patience, jitter=limits) as net, pytest.raises(MissingError):
        net.fetch(wanted)
    assert limits.seen == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_pause_that_a_server_asks_for_is_kept(server, fetch, form):
    date = datetime.now(UTC) + timedelta(seconds=2)
    value = "1" if form == "seconds" else format_datetime(date, usegmt=True)
    server.script("/a.bin", Fault(status=429, headers={"Retry-After": value}))
    assert fetch() == CONTENT
    first, second = server.log
    assert 0.9 <= second.at_s - first.at_s < 4.0  # a date has whole seconds


def test_a_pause_without_end_is_capped(server, fetch):
    server.script("/a.bin", Fault(status=503, headers={"Retry-After": "86400"}))
    assert fetch(patience=Patience(max_retry_after_s=0.3, backoff_base_s=0.01)) == CONTENT
    assert server.log[1].at_s - server.log[0].at_s >= 0.3


def test_retry_after_is_read_in_both_forms_and_nonsense_is_no_pause():
    date = "Wed, 21 Oct 2026 07:28:00 GMT"
    assert retry_after_s("120", None) == 120.0
    assert retry_after_s("Wed, 21 Oct 2026 07:28:30 GMT", date) == 30.0
    assert retry_after_s("Wed, 21 Oct 2026 07:27:00 GMT", date) == 0.0
    assert [retry_after_s(value, date) for value in (None, "", "soon", "-5", "1e9")] == [0.0] * 5


def test_mirrors_are_tried_in_turn(server, other_server, fetch):
    other_server.files["/copy"] = CONTENT
    server.always["/a.bin"] = Fault(status=503)
    urls = [f"{server.url}/a.bin", f"{server.url}/absent", f"{other_server.url}/copy"]
    assert fetch(*urls) == CONTENT
    assert [request.path for request in server.log] == ["/a.bin", "/absent"]


def test_a_mirror_goes_on_where_another_broke_when_the_digest_is_known(server, other_server, fetch):
    other_server.files["/copy"] = CONTENT
    server.always["/a.bin"] = Fault(after_frac=0.5)
    assert fetch(f"{server.url}/a.bin", f"{other_server.url}/copy", sha256=SHA256) == CONTENT
    assert [request.range for request in other_server.log] == [f"bytes={HALF}-"]


def test_bytes_of_two_mirrors_are_not_joined_without_a_digest(server, other_server, fetch):
    other_server.files["/copy"] = OTHER
    server.always["/a.bin"] = Fault(after_frac=0.001)
    assert fetch(f"{server.url}/a.bin", f"{other_server.url}/copy") == OTHER
    assert [request.range for request in other_server.log] == [None]


def test_a_mirror_with_wrong_bytes_is_left_out_for_the_rest_of_the_run_and_named(server, other_server, tmp_path):
    notes, names = [], [f"{number}.bin" for number in range(4)]
    for name in names:
        server.files[f"/{name}"], other_server.files[f"/{name}"] = OTHER, CONTENT
    with Downloader([server.url, other_server.url], patience=QUICK, note=notes.append) as net:
        for name in names:
            wanted = Wanted(url=lambda base, name=name: f"{base}/{name}", target=tmp_path / name, sha256=SHA256)
            assert net.fetch(wanted).url == f"{other_server.url}/{name}"
    assert [request.path for request in server.log] == ["/0.bin"]
    assert len(notes) == 1
    assert f"{server.url} is left out" in notes[0]


def test_wrong_bytes_everywhere_are_never_at_the_target(server, other_server, tmp_path):
    server.files["/a.bin"] = other_server.files["/a.bin"] = OTHER
    urls = [f"{server.url}/a.bin", f"{other_server.url}/a.bin"]
    with pytest.raises(CorruptError, match=SHA256) as error:
        fetch_file(urls, tmp_path / "a.bin", sha256=SHA256, patience=QUICK)
    assert hashlib.sha256(OTHER).hexdigest() in error.value.message
    assert not (tmp_path / "a.bin").exists()


@pytest.mark.parametrize("spoil", [lambda c: c[: len(c) // 2], lambda c: c[:-1], lambda c: b"<html>sorry</html>"])
def test_a_file_that_its_check_refuses_is_never_at_the_target(server, tmp_path, spoil):
    """A parquet file cut in half, or a page in its place, with no digest and no size to tell."""
    pq.write_table(pa.table({"text": ["some text"] * 1000}), tmp_path / "right.parquet")
    right = (tmp_path / "right.parquet").read_bytes()
    server.files["/a.parquet"] = spoil(right)
    with pytest.raises(CorruptError, match="no whole parquet file"):
        fetch_file([f"{server.url}/a.parquet"], tmp_path / "a.parquet", check=check_parquet, patience=QUICK)
    assert not (tmp_path / "a.parquet").exists()
    server.script("/a.parquet", HONEST, Fault(change_to=right))
    fetch_file([f"{server.url}/a.parquet"], tmp_path / "a.parquet", check=check_parquet, patience=QUICK)
    assert (tmp_path / "a.parquet").read_bytes() == right


def test_a_file_that_no_disk_can_hold_is_refused_before_its_first_byte(server, tmp_path):
    server.script("/a.bin", Fault(lie_bytes=10**18))
    with pytest.raises(HardwareError, match="bytes are missing") as error:
        fetch_file([f"{server.url}/a.bin"], tmp_path / "a.bin", patience=QUICK)
    assert str(tmp_path) in error.value.message
    assert (tmp_path / "a.bin.part").stat().st_size == 0


def _has_small_disks(folder):
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    return shutil.which("unshare") is not None and subprocess.run(command, capture_output=True).returncode == 0


def test_a_disk_that_fills_up_is_named(server, tmp_path):
    """A real one, of 256 KiB; the server does not say how long the file is."""
    if not _has_small_disks(tmp_path):
        pytest.skip("this kernel lets nobody mount a small disk")
    server.always["/a.bin"] = Fault(headers={"Content-Length": None, "Connection": "close"})
    program = f"""
        from pathlib import Path
        from nanochat_core.base.errors import HardwareError
        from nanochat_core.data.download import fetch_file
        try:
            fetch_file(["{server.url}/a.bin"], Path("{tmp_path}/a.bin"))
        except HardwareError as error:
            print(error.message)
    """
    mount = f'mount -t tmpfs -o size=256k tmpfs "{tmp_path}" && exec "$0" -c "$1"'
    command = ["unshare", "-rm", "sh", "-c", mount, sys.executable, textwrap.dedent(program)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"{tmp_path}/a.bin.part is too small: it is full" in done.stdout
    assert len(server.log) == 1


def test_memory_does_not_grow_with_the_file(server, tmp_path):
    server.files["/large"] = bytes(48 << 20)
    tracemalloc.start()
    fetch_file([f"{server.url}/large"], tmp_path / "a.bin")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


def test_progress_counts_what_was_here_already(server, fetch):
    seen = []
    server.script("/a.bin", Fault(after_frac=0.5))
    fetch(progress=lambda done, total: seen.append((done, total)))
    done = [here for here, _ in seen]
    assert done == sorted(done)
    assert done[-1] == 400_000
    assert {total for _, total in seen} == {400_000}


def test_a_stop_wakes_a_fetch_that_waits_for_bytes(server, tmp_path):
    server.always["/a.bin"] = Fault(after_frac=0.5, then="stall")
    with Downloader([f"{server.url}/a.bin"]) as net:
        threading.Timer(0.3, net.stop).start()
        started = time.monotonic()
        with pytest.raises(Stopped):
            net.fetch(Wanted(url=lambda base: base, target=tmp_path / "a.bin"))
    assert time.monotonic() - started < 5.0
    notes = json.loads((tmp_path / "a.bin.part.json").read_text())
    assert (notes["total"], (tmp_path / "a.bin.part").stat().st_size) == (400_000, HALF)
