"""Files over HTTP that arrive whole, whatever the network does.

Bytes go into `<name>.part`; a later attempt, of this process or after a kill, asks only for the rest. The rest is glued
on only where it is of the same file: by If-Range with the ETag (RFC 9110, 13.1.5), or because a digest is known and
decides at the end (part.py). Where to ask next is decided in hub.py. `requests`, because httpx took 1.4 to 2 times its
CPU time per byte (2026-07, loopback, 2 cores).
"""

import contextlib
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Self, TypeVar

import requests
import urllib3

from nanochat_core.base.errors import NanochatError
from nanochat_core.base.units import size
from nanochat_core.data.hub import Failed, Listed, Page, Patience, Places, Stopped, Wrong, cause, check_status, public
from nanochat_core.data.part import BLOCK_BYTES, Fetched, Part, Wanted, require_space, sha256_of

PAGE_BYTES = 64 << 20  # the longest page of a listing that is read
PROGRESS_BYTES = 1 << 20  # an attempt that brought so many new bytes sets the count of failures back
BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError, ConnectionError, TimeoutError)
REPORT_EVERY_S = 0.5
T = TypeVar("T")
Progress = Callable[[int, int], None]  # (bytes here, bytes of the whole file, or 0 while nobody knows)
Report = Callable[[float, float, str], None]  # (bytes here, bytes in all, the same in words)


def fetch_file(
    urls: Sequence[str],
    target: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
    check: Callable[[Path], None] | None = None,
    patience: Patience | None = None,
) -> Fetched:
    """Fetch one file from the first of `urls` that gives the right bytes; a target that has the digest is left alone.

    Raises CorruptError for wrong bytes, MissingError when nobody gives the file, HardwareError for a full disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with Downloader(urls, patience=patience, note=note) as net:
        return net.fetch(Wanted(url=lambda base: base, target=target, sha256=sha256, check=check), progress)


def in_parallel(
    files: Sequence[Listed],
    fetch: Callable[[Listed, Progress], T],
    *,
    num_downloads: int,
    report: Report,
    stop: Callable[[], None],
) -> list[T]:
    """Fetch several files at once, in order; the first failure stops all. `report` runs in the calling thread."""
    done, total = dict.fromkeys((file.name for file in files), 0), {file.name: file.num_bytes or 0 for file in files}
    started = time.monotonic()

    def run(file: Listed) -> T:
        def tell(here: int, whole: int) -> None:
            done[file.name], total[file.name] = here, whole or total[file.name]

        return fetch(file, tell)

    with ThreadPoolExecutor(num_downloads) as pool:
        futures: list[Future[T]] = [pool.submit(run, file) for file in files]
        try:
            while (state := wait(futures, timeout=REPORT_EVERY_S, return_when=FIRST_EXCEPTION)).not_done:
                if any(future.exception() for future in state.done):
                    break
                _report(report, list(done.values()), list(total.values()), time.monotonic() - started)
        finally:  # an interrupted wait ends here as well
            stop()
            for future in futures:
                future.cancel()
    _report(report, list(done.values()), list(total.values()), time.monotonic() - started)
    for failure in (future.exception() for future in futures if not future.cancelled()):
        if failure is not None and not isinstance(failure, Stopped):  # the others stopped because of it
            raise failure
    return [future.result() for future in futures]


def _report(report: Report, done: Sequence[int], total: Sequence[int], seconds: float) -> None:
    known = [value for value in total if value]
    here, in_all = sum(done), sum(known) * len(total) / max(1, len(known))  # sizes not known yet: as the others'
    report(here, in_all, f"{size(here)} of {size(in_all) if known else '?'}, {size(here / max(seconds, 1e-3))}/s")


class Downloader:
    """The connections of one run to places that hold the same files. Threads share it."""

    def __init__(
        self,
        bases: Sequence[str],
        *,
        patience: Patience | None = None,
        note: Callable[[str], None] | None = None,
        jitter: random.Random | None = None,
        tokens: Mapping[str, str] | None = None,
        num_connections: int = 1,
    ) -> None:
        """`tokens`: base address -> bearer token, sent there only; a redirect to another host goes without it."""
        self.patience = patience or Patience()
        self.places = Places(bases, patience=self.patience, note=note, jitter=jitter or random.Random())
        self._tokens = tokens or {}
        self._live: set[requests.Response] = set()
        self._guard = threading.Lock()
        self._session = requests.Session()
        self._session.auth = lambda request: request  # else a .netrc would take the place of the token
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=num_connections, max_retries=0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._session.close()

    def stop(self) -> None:
        """Make every fetch raise Stopped soon, also one that waits for bytes."""
        self.places.stop.set()
        with self._guard:
            for response in self._live:
                with contextlib.suppress(OSError, ValueError, RuntimeError):  # it may be closing at this moment
                    response.raw.shutdown()

    def fetch(self, wanted: Wanted, progress: Progress | None = None) -> Fetched:
        """The file, whole and checked, at its target."""
        target, tell = wanted.target, progress or (lambda done, total: None)
        if wanted.sha256 and target.is_file() and sha256_of(target) == wanted.sha256:
            return Fetched(wanted.sha256, target.stat().st_size, "")
        part = Part(wanted)
        with part.file:

            def attempt(base: str) -> Fetched:
                before = part.most_bytes
                try:
                    return self._fetch_once(part, base, tell)
                except Failed as error:
                    error.has_progress = part.most_bytes >= before + PROGRESS_BYTES
                    raise

            def stay() -> str | None:  # without a digest nothing says that two places hold the same bytes
                return part.base if part.num_bytes and wanted.sha256 is None else None

            return self.places.persist(target.name, attempt, stay=stay)

    def read(self, name: str, parse: Callable[[str], Any]) -> Page:
        """A page of a listing; `parse` raises ValueError for one that makes no sense."""

        def attempt(base: str) -> Page:
            with self._open(f"{base}{name}", base, headers={}) as response:
                body = bytearray()
                for block in self._blocks(response):
                    body += block
                    if len(body) > PAGE_BYTES:
                        raise Failed(f"{public(response.url)} is longer than {size(PAGE_BYTES)}")
            try:
                return Page(parse(body.decode("utf-8")), response.links.get("next", {}).get("url"))
            except ValueError as error:
                raise Failed(f"{public(response.url)} makes no sense: {error}") from error

        return self.places.persist(public(f"{self.places.bases[0]}{name}"), attempt)

    def _fetch_once(self, part: Part, base: str, tell: Progress) -> Fetched:
        url = part.wanted.url(base)
        if part.num_bytes != part.wanted.num_bytes and part.digest.hexdigest() != part.wanted.sha256:
            with self._open(url, base, headers=_range_headers(part, base)) as response:
                self._receive(response, part, base, tell)
        _verify(part, public(url))
        return part.settle(url)

    def _receive(self, response: requests.Response, part: Part, base: str, tell: Progress) -> None:
        url = public(response.url)
        total = _place(response, part, base)
        require_space(part.path.parent, (total or 0) - part.num_bytes)
        for block in self._blocks(response):
            part.write(block)
            tell(part.num_bytes, total or 0)
            if total is not None and part.num_bytes > total:
                part.restart()
                raise Failed(f"{url} sent more than the {total:,} bytes that it has")
        if total is not None and part.num_bytes < total:
            raise Failed(f"{url} broke off at byte {part.num_bytes:,} of {total:,}")

    @contextlib.contextmanager
    def _open(self, url: str, base: str, *, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        """A response that brings bytes (or 416), its body not read yet."""
        token = self._tokens.get(base)
        secret = {"Authorization": f"Bearer {token}"} if token else {}
        sent = {"Accept-Encoding": "identity", "User-Agent": "nanochat", **headers, **secret}
        limits_s = (self.patience.connect_timeout_s, self.patience.stall_timeout_s)
        try:
            response = self._session.get(url, headers=sent, stream=True, timeout=limits_s)
        except BROKEN as error:
            raise Failed(f"{public(url)}: {cause(error)}") from error
        with self._guard:
            self._live.add(response)
        try:
            check_status(f"{response.status_code} {response.reason}", response.headers, url=url, token=token)
            yield response
        finally:
            with self._guard:
                self._live.discard(response)
            response.close()

    def _blocks(self, response: requests.Response) -> Iterator[bytes]:
        """The body as it comes in, not decoded; at most BLOCK_BYTES of it are in memory."""
        pace = _Pace(self.patience)
        while not self.places.stop.is_set():
            try:
                block = response.raw.read1(BLOCK_BYTES, decode_content=False)
            except BROKEN as error:
                raise Failed(f"{public(response.url)}: {cause(error)}") from error
            if not block:
                return
            pace.count(len(block), public(response.url))
            yield block
        raise Stopped


class _Pace:
    """Gives up a connection that brings next to nothing: another try, or a mirror, may bring more."""

    def __init__(self, patience: Patience) -> None:
        self.patience, self._since, self._num_bytes = patience, time.monotonic(), 0

    def count(self, num_bytes: int, url: str) -> None:
        self._num_bytes += num_bytes
        passed_s = time.monotonic() - self._since
        if passed_s < self.patience.stall_timeout_s:
            return
        if self._num_bytes < self.patience.least_bytes_per_s * passed_s:
            raise Failed(f"{url} brought {size(self._num_bytes)} in {passed_s:.0f} s")
        self._since, self._num_bytes = time.monotonic(), 0


def _range_headers(part: Part, base: str) -> dict[str, str]:
    """Ask for the rest where it can be glued on; else forget what is here."""
    rest = {"Range": f"bytes={part.num_bytes}-"}
    if not part.num_bytes:
        return {}
    if part.base == public(base) and part.validator:
        return {**rest, "If-Range": part.validator}
    if part.wanted.sha256:
        return rest
    part.restart()
    return {}


def _place(response: requests.Response, part: Part, base: str) -> int | None:
    """Where the body belongs: at the end of the part, or at the start of a new one. Returns the file's whole size."""
    url, headers, wanted = public(response.url), response.headers, part.wanted
    if headers.get("Content-Type", "").startswith("text/html") and wanted.target.suffix not in (".html", ".htm"):
        raise Failed(f"{url} is a web page (of a login, a proxy, an error?), not the file")
    etag = headers.get("ETag", "")
    validator = etag if etag.startswith('"') else headers.get("Last-Modified")  # a weak ETag may not be in If-Range
    is_whole = response.status_code == 200  # the whole file, whatever was asked
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", headers.get("Content-Range", ""))
    length = (headers.get("Content-Length") if is_whole else match and match[2]) or ""
    total = int(length) if length.isdigit() else None
    if total is not None and wanted.num_bytes not in (None, total):
        raise Failed(f"{url} is said to have {total:,} bytes, {wanted.num_bytes:,} are right")
    if is_whole:
        part.restart(public(base), validator=validator, total=total)
        return total if total is not None else wanted.num_bytes
    has_changed = part.base == public(base) and (part.validator or validator) != (validator or part.validator)
    if not match or int(match[1]) != part.num_bytes or has_changed or part.total not in (None, total):
        part.restart()
        raise Failed(f"{url} does not go on at the byte that was asked for, or is another file now")
    part.is_glued = True
    return total


def _verify(part: Part, url: str) -> None:
    """Digest, size and kind of a whole file. What is wrong is thrown away, and blamed on nobody where it was glued."""
    wanted, sha256 = part.wanted, part.digest.hexdigest()
    wrong = ""
    if wanted.sha256 is not None and sha256 != wanted.sha256:
        wrong = f"{url} has sha256 {sha256}, {wanted.sha256} is right"
    elif wanted.check is not None:
        try:
            wanted.check(part.path)
        except NanochatError as error:
            if wanted.sha256 is not None:
                raise  # these are the right bytes, and they are no good
            wrong = f"{url}: {error.message}"
    if wrong:
        kind = Failed if part.is_glued else Wrong
        part.restart()
        raise kind(wrong)
