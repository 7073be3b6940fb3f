"""Places that hold shards: the Hugging Face hub, web addresses and their mirrors, folders, other fsspec addresses.

What a dataset's name means, which shards it has (with the sizes and sha256 that the hub's API lists for LFS files),
which place to ask next, and what its answer means. Nothing here opens a connection by itself: download.py asks, and
pages come in through a function. What can heal is tried again after a random wait below a doubling limit ("full
jitter", AWS Architecture Blog 2015); what cannot (401, 403, 404) is said at once.
"""

import fnmatch
import functools
import json
import logging
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit

from nanochat_core.base.errors import ConfigError, CorruptError, MissingError, NanochatError
from nanochat_core.base.files import write_whole
from nanochat_core.base.text import read_text
from nanochat_core.config import CorpusConfig

WEB = ("https://", "http://")
BRINGS_BYTES = (200, 206)
BUSY = {408, 429, 500, 502, 503, 504}
NO_SUCH_RANGE = 416  # to a part that is longer than the file: from the start, then
WRONG_TRIES = 2  # times that the only place may serve a whole wrong file
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a download tries."""

    num_tries: int = 6
    """Failures of one file at one place; an attempt that brought a MiB or more sets the count back."""
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0
    max_retry_after_s: float = 300.0
    """A server that asks for a longer pause gets this one."""
    connect_timeout_s: float = 10.0
    stall_timeout_s: float = 60.0
    """A connection that brings no byte for so long is given up."""
    least_bytes_per_s: float = 1024.0
    """One that brings less than this, over that time, as well: it would take months."""


class Stopped(Exception):
    """The download was told to stop."""


class Failed(Exception):
    """An attempt that went wrong in a way that another one can heal."""

    def __init__(self, message: str, *, retry_after_s: float = 0.0, has_progress: bool = False) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        self.has_progress = has_progress


class Wrong(Exception):
    """One response brought a whole file, and it is another file."""


class Refused(Exception):
    """This place will not give the file; args[0] is the error that says so to people."""


class Places:
    """Addresses that hold the same files, in order of preference, and what a run has learnt about them.

    Threads share it.
    """

    def __init__(
        self, bases: Sequence[str], *, patience: Patience, note: Callable[[str], None] | None, jitter: random.Random
    ) -> None:
        self.bases, self.patience = bases, patience
        self.stop = threading.Event()
        self._note, self._jitter, self._guard = note or log.info, jitter, threading.Lock()
        self._strikes: Counter[str] = Counter()  # failures since a place's last success: others are asked first
        self._ready_at: dict[str, float] = {}  # time.monotonic() before which it asked not to be asked
        self._left_out: set[str] = set()

    def persist(self, name: str, attempt: Callable[[str], T], *, stay: Callable[[], str | None] = lambda: None) -> T:
        """Attempt at one place after the other until one works, all refuse, or patience ends.

        `stay` names the place that may not be changed for another one until it is given up.
        """
        failures: Counter[str] = Counter()
        refusals: dict[str, NanochatError] = {}
        last, num_wrong = "", 0
        while (base := self._next(failures, refusals, stay())) is not None:
            self._wait(base, failures[base])
            try:
                result = attempt(base)
            except Refused as refused:
                refusals[base] = refused.args[0]
            except Wrong as error:
                last, num_wrong = str(error), num_wrong + 1
                failures[base] += 1
                if not self._leave_out(base, last) and num_wrong >= WRONG_TRIES:
                    break
            except Failed as error:
                last = str(error)
                log.info("%s: %s", name, last)
                if error.has_progress:
                    failures.clear()
                failures[base] += 1
                self._strikes[base] += 1
                self._ready_at[base] = time.monotonic() + min(error.retry_after_s, self.patience.max_retry_after_s)
            else:
                self._strikes[base] = 0
                return result
        raise _give_up(name, last, list(refusals.values()), is_wrong=num_wrong > 0)

    def _next(self, failures: Mapping[str, int], refused: Iterable[str], stay: str | None) -> str | None:
        tired = {base for base, count in failures.items() if count >= self.patience.num_tries}
        left = [base for base in self.bases if base not in self._left_out | tired | set(refused)]
        rank = {base: (stay is not None and public(base) != stay, failures[base], self._strikes[base]) for base in left}
        return min(left, key=rank.__getitem__, default=None)

    def _wait(self, base: str, num_failures: int) -> None:
        limit_s = min(self.patience.backoff_cap_s, self.patience.backoff_base_s * 2.0 ** (num_failures - 1))
        asked_s = self._ready_at.get(base, 0.0) - time.monotonic()
        wait_s = max(0.0, asked_s) + (self._jitter.uniform(0.0, limit_s) if num_failures or asked_s > 0 else 0.0)
        if self.stop.wait(wait_s):
            raise Stopped

    def _leave_out(self, base: str, why: str) -> bool:
        """Whether the place is out of this run; the last one stays."""
        with self._guard:
            is_last = not set(self.bases) - self._left_out - {base}
            is_news = not is_last and base not in self._left_out
            if not is_last:
                self._left_out.add(base)
        if is_news:
            self._note(f"{why}; {public(base)} is left out for the rest of the run")
        return not is_last


def _give_up(name: str, last: str, refusals: Sequence[NanochatError], *, is_wrong: bool) -> NanochatError:
    if refusals and not last:
        return refusals[0]
    kind = CorruptError if is_wrong else MissingError
    last = last.removeprefix(f"{name}: ")  # an address that is its own name is said once
    reasons = "; ".join([last, *(refusal.message for refusal in refusals)])
    return kind(f"{name} could not be fetched: {reasons}", hint="run the same again: it goes on where it was")


def public(url: str) -> str:
    """The address without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def check_status(status: str, headers: Mapping[str, str], *, url: str, token: str | None) -> None:
    """Raise for an answer ("503 Service Unavailable") that brings no file: Failed for one that may change."""
    code = int(status[:3])
    if code in BUSY:
        pause_s = retry_after_s(headers.get("Retry-After"), headers.get("Date"))
        raise Failed(f"{public(url)}: {status}", retry_after_s=pause_s)
    if code not in (*BRINGS_BYTES, NO_SUCH_RANGE):
        raise Refused(refusal(url, status, headers.get("X-Error-Message", ""), token=token))


def cause(error: BaseException) -> str:
    """The innermost reason of a broken connection: what wraps it repeats the whole address, query and all."""
    while True:
        inner = getattr(error, "reason", None) or (error.args[0] if error.args else None)
        if not isinstance(inner, BaseException):
            return f"{type(error).__name__}: {error}"[:300]
        error = inner


def refusal(url: str, status: str, said: str, *, token: str | None) -> MissingError:
    """An answer that trying again does not change; `said` is the server's own explanation, if any."""
    hint = "check the address, and corpus.dataset and corpus.revision"
    if status[:3] in ("401", "403"):
        hint = "is the dataset gated or private? Accept its terms on its page and set HF_TOKEN"
    if status[:3] in ("401", "403") and token:
        hint = "HF_TOKEN was sent and does not open it: accept the dataset's terms on its page, or use another token"
    message = f"{public(url)} was refused: {status}" + (f" ({said[:200]})" if said else "")
    return MissingError(message.replace(token, "***") if token else message, hint=hint)


def retry_after_s(value: str | None, date: str | None) -> float:
    """Retry-After in seconds, from a number or from an HTTP date; `date` is the server's own clock, if it sent it."""
    if value is None:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        now = parsedate_to_datetime(date) if date else datetime.now(UTC)
        return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
    except (ValueError, TypeError):  # neither, or dates with and without a time zone
        return 0.0


@dataclass(frozen=True)
class Listed:
    """One file of a listing."""

    name: str
    """Below the dataset's root, with "/"."""
    num_bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Page:
    """One parsed page of a listing, and the address of the next one."""

    value: Any
    next_url: str | None = None


@dataclass(frozen=True)
class Place:
    """Where a dataset's shards are."""

    listed: list[Listed]
    bases: list[str]
    """Addresses below which the names are, the preferred one first."""
    tokens: Mapping[str, str]
    filesystem: Any = None


Reader = Callable[[str, str, str | None, Callable[[str], Any]], Page]
"""Reads (base address, rest of the address, token, parser)."""


def locate(config: CorpusConfig, downloads: Path, read: Reader) -> Place:
    """Find the shards that `config` names. A digests file is taken as the listing; nobody is asked for one then."""
    assert config.dataset
    given = read_digests(config.digests_file) if config.digests_file else None
    mirrors = [mirror.strip() for mirror in (config.mirrors or "").split(",") if mirror.strip()]
    for address in (config.dataset, *mirrors):
        if "@" in address.partition("://")[2].partition("/")[0] or "?" in address:
            raise ConfigError(
                "corpus.dataset or corpus.mirrors holds a user name, a password or a query; it would be stored",
                hint="give secrets through the environment (HF_TOKEN, AWS_*)",
            )
    if wrong := [mirror for mirror in mirrors if not mirror.startswith(WEB)]:
        raise ConfigError(f"corpus.mirrors has {wrong[0]}, which is no web address", hint="https://host/folder")
    if (name := hub_name(config.dataset)) is not None:
        token = hub_token()
        commit, listed = (config.revision or "main", given) if given else _pinned(name, config, downloads, read, token)
        base = f"{endpoint()}/datasets/{name}/resolve/{quote(commit, safe='')}"
        return Place(matching(listed, config.dataset_files), [base, *mirrors], {base: token} if token else {})
    if config.dataset.startswith(WEB):
        listed = given or index_listing(config.dataset, read(config.dataset.rstrip("/") + "/", "", None, str).value)
        return Place(matching(listed, config.dataset_files), [config.dataset, *mirrors], {})
    if mirrors:
        raise ConfigError("corpus.mirrors goes with a dataset on the hub or at a web address")
    filesystem, root, listed = folder_listing(config.dataset, config.dataset_files, config.revision)
    digests = {file.name: file.sha256 for file in given or []}
    return Place([replace(file, sha256=digests.get(file.name)) for file in listed], [root], {}, filesystem)


def _pinned(
    name: str, config: CorpusConfig, downloads: Path, read: Reader, token: str | None
) -> tuple[str, list[Listed]]:
    """The dataset's commit and files as they were when this download began, whatever its branch is at by now."""
    record, asked = downloads / "listing.json", {"dataset": name, "revision": config.revision}
    try:
        known = json.loads(record.read_text())
        if known["asked"] == asked:
            return known["commit"], [Listed(**file) for file in known["files"]]
    except (OSError, ValueError, TypeError, KeyError):
        pass
    if os.environ.get("HF_HUB_OFFLINE", "0").lower() not in ("", "0", "false", "no"):
        raise MissingError(f"{name} cannot be listed: HF_HUB_OFFLINE is set", hint="unset it, or use corpus.path")
    ask = functools.partial(_ask, read, token)
    commit = str(ask(f"/api/datasets/{name}/revision/{quote(config.revision or 'main', safe='')}").value["sha"])
    listed = _hub_listing(name, commit, ask)
    files = [asdict(file) for file in listed]
    write_whole(record, json.dumps({"asked": asked, "commit": commit, "files": files}).encode())
    return commit, listed


def _ask(read: Reader, token: str | None, path: str) -> Page:
    return read(endpoint(), path, token, json.loads)


def hub_token() -> str | None:
    """HF_TOKEN, or the token of a login on this machine."""
    import huggingface_hub  # only where the hub is asked

    return huggingface_hub.get_token()


def dataset_url(dataset: str, revision: str | None = None) -> str:
    """ "owner/name" -> hf://datasets/owner/name; folders and URLs stay."""
    if "://" in dataset or Path(dataset).expanduser().is_dir() or dataset.startswith((".", "/", "~")):
        return str(Path(dataset).expanduser()) if "://" not in dataset else dataset
    return f"hf://datasets/{dataset}" + (f"@{revision}" if revision else "")


def hub_name(dataset: str) -> str | None:
    """ "owner/name" of a dataset on the hub; None for what is somewhere else."""
    match = re.fullmatch(r"hf://datasets/([\w.-]+(?:/[\w.-]+)?)", dataset_url(dataset))
    return match[1] if match else None


def endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _hub_listing(name: str, commit: str, ask: Callable[[str], Page]) -> list[Listed]:
    # all files of a commit, with the digests of those in LFS
    listed: list[Listed] = []
    path: str | None = f"/api/datasets/{name}/tree/{commit}?recursive=true"
    while path is not None:
        page = ask(path)
        listed += [_hub_file(entry) for entry in page.value if entry["type"] == "file"]
        following = urlsplit(page.next_url) if page.next_url else None
        path = f"{following.path}?{following.query}" if following else None  # always at this endpoint, with our token
    return listed


def _hub_file(entry: Mapping[str, Any]) -> Listed:
    lfs = entry.get("lfs") or {}
    return Listed(entry["path"], lfs.get("size", entry.get("size")), lfs.get("oid") or lfs.get("sha256"))


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def index_listing(base: str, html: str) -> list[Listed]:
    """The files that a web server's page of a folder links to."""
    links, root = _Links(), base.rstrip("/") + "/"
    links.feed(html)
    targets = {urljoin(root, link.partition("?")[0].partition("#")[0]) for link in links.found}
    names = {unquote(target.removeprefix(root)) for target in targets if target.startswith(root)}
    return [Listed(name) for name in sorted(names) if name and not name.endswith("/")]


def folder_listing(dataset: str, pattern: str, revision: str | None) -> tuple[Any, str, list[Listed]]:
    """A folder's or another fsspec address's filesystem, its root there, and the files that match the pattern."""
    import fsspec  # slow to import, and not needed for the hub

    url = dataset_url(dataset, revision)
    try:
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        names = sorted(set(filesystem.glob(f"{root}/{pattern}")) | set(filesystem.glob(f"{root}/**/{pattern}")))
        sizes = {name: filesystem.info(name).get("size") for name in names}
        found = bool(names) or filesystem.exists(root)
    except Exception as error:  # each filesystem has exceptions of its own; all of them mean "cannot be listed"
        raise MissingError(f"{dataset} cannot be listed: {error}", hint="check the name and the network") from error
    if not found:
        raise MissingError(f"{dataset} does not exist (looked at {url})", hint="owner/name, a URL or a folder")
    return filesystem, root, [Listed(name.removeprefix(root).strip("/"), sizes[name]) for name in names]


def read_digests(path: str) -> list[Listed]:
    """A file of digests: the `shards.json` of a corpus, {"name": "sha256"}, or lines as sha256sum writes them."""
    try:
        text = read_text(Path(path).expanduser(), error=ConfigError)
        if text.lstrip().startswith("{"):
            shards = json.loads(text)["shards"]
            listed = [Listed(shard["name"], shard.get("num_bytes"), shard["sha256"].lower()) for shard in shards]
        else:
            lines = [line.split(maxsplit=1) for line in text.split("\n") if line.strip()]
            listed = [Listed(re.sub(r"^\*?(\./)?", "", name.strip()), None, hexa.lower()) for hexa, name in lines]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"corpus.digests_file = {path} cannot be read: {error}", hint="lines of <sha256>  <name>, or a shards.json"
        ) from error
    for shard in listed or [Listed("no shard")]:
        if not re.fullmatch(r"[0-9a-f]{64}", shard.sha256 or "") or ".." in PurePosixPath(shard.name).parts:
            raise ConfigError(f"corpus.digests_file = {path} has {shard.sha256!r} for {shard.name!r}")
    return listed


def matching(listed: Iterable[Listed], pattern: str) -> list[Listed]:
    """The files whose name, or the end of it, fits the glob; sorted by name, each once."""
    found = {}
    for file in listed:
        is_deep = "**" in pattern and fnmatch.fnmatchcase(file.name, pattern.replace("**/", "*"))
        if is_deep or PurePosixPath(file.name).match(pattern):
            found[file.name] = file
    return [found[name] for name in sorted(found)]
