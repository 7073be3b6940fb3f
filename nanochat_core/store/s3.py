"""What an S3 server can do besides plain objects: create exclusively, and show what lies hidden in a bucket.

`PUT If-None-Match: *` is atomic on AWS and Ceph; others refuse most of a race and let a few through (Swift: 1 to 7
winners of 32, measured; a probe of a few writers would often pass), so AWS is taken at its word, SeaweedFS because the
tests race it, and all others are read back (lease.py). Never for more than one part: Ceph's multipart upload ignores
the condition. A bucket also holds what no listing of objects shows, and bills
for it: uploads that were never completed, and where versions are kept, all that was ever deleted.
"""

import contextlib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from nanochat_core.base.errors import NanochatError
from nanochat_core.store.failures import explained
from nanochat_core.store.filesystem import PART_BYTES, PART_CONCURRENCY, Files
from nanochat_core.store.s3_failures import AWS, BARE_CODES, NOT_OFFERED, endpoint, error_code

EXISTS_CODES = {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
NO_CONDITION_CODES = NOT_OFFERED | {"InvalidArgument", "InvalidRequest", "UnsupportedArgument"}
NO_PARTS_CODES = NO_CONDITION_CODES | {"EntityTooSmall", "InvalidPart"}
MAX_WHOLE_BYTES = 5 << 30  # of one PUT, everywhere
RACED = "SeaweedFS"  # by test_of_many_that_create_one_object_one_does


@dataclass(frozen=True, kw_only=True)
class Hidden:
    """An incomplete upload or an old version of an object."""

    key: str
    identifier: str
    num_bytes: int
    modified: float


class S3Files(Files):
    """Objects below a prefix of a bucket."""

    @functools.cached_property
    def has_atomic_create(self) -> bool:  # type: ignore[override]
        return endpoint() == AWS or self._server.startswith(RACED)

    @property
    def _server(self) -> str:
        """What it calls itself in the head of an answer; empty where it says nothing."""
        with self.explained("asking for its name"):
            answer = self._call("list_objects_v2", MaxKeys=1)
        return str(answer["ResponseMetadata"]["HTTPHeaders"].get("server", ""))

    @contextlib.contextmanager
    def explained(self, doing: str) -> Iterator[None]:
        """As for any store; where the answer had no body, a listing is asked what is wrong."""
        with explained(self.failures, url=self.location.url, doing=doing):
            try:
                yield
            except self.failures as error:
                if error_code(error) in BARE_CODES and (said := self._said()):
                    raise said from said.__cause__ or error  # its cause holds the code
                raise

    def _said(self) -> BaseException | None:
        """What the server answers to a request whose refusal has a body."""
        try:
            self._call("list_objects_v2", MaxKeys=1)
        except self.failures as error:
            return error
        return None

    def num_bytes(self, key: str) -> int | None:
        """One HEAD; s3fs's own look asks for a listing as well where there is nothing."""
        with self.explained(f"looking for {key}"):
            try:
                return int(self._call("head_object", Key=self._full(key))["ContentLength"])
            except FileNotFoundError:
                return None

    def put(self, local: Path, key: str) -> None:
        kinds: tuple[type[BaseException], ...] = (*self.failures, KeyError)  # a part was taken, and no ETag came for it
        with self.explained(f"uploading {key}"):
            try:
                self.fs.put_file(str(local), self.path(key), chunksize=PART_BYTES, max_concurrency=PART_CONCURRENCY)
            except kinds as error:
                size = local.stat().st_size
                is_refused = isinstance(error, KeyError) or error_code(error) in NO_PARTS_CODES
                if not is_refused or not 2 * PART_BYTES <= size <= MAX_WHOLE_BYTES:
                    raise
                with local.open("rb") as file:  # a server without multipart uploads
                    self._call("put_object", Key=self._full(key), Body=file)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object that is not there yet; False when it is, also when it is our own and the reply was lost."""
        with self.explained(f"writing {key}"):
            try:
                self.fs.pipe_file(self.path(key), content, mode="create")
            except FileExistsError:
                return False
            except self.failures as error:
                code = error_code(error)
                if code in EXISTS_CODES:
                    return False
                if code in NO_CONDITION_CODES:
                    return super().create(key, content)
                raise
        return True

    def now(self) -> float:
        """The server's clock, from the head of an answer: nothing has to be written for it."""
        with self.explained("asking for the time"):
            answer = self._call("list_objects_v2", MaxKeys=1)
        with contextlib.suppress(KeyError, ValueError):
            return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
        return datetime.now(UTC).timestamp()

    def uploads(self) -> list[Hidden]:
        """Uploads that were begun and never completed, also those that are under way now."""
        found = []
        for page in self._pages("list_multipart_uploads", ("KeyMarker", "UploadIdMarker")):
            for upload in page.get("Uploads", ()):
                begun = upload["Initiated"].timestamp()
                found.append(
                    Hidden(key=self._own(upload["Key"]), identifier=upload["UploadId"], num_bytes=0, modified=begun)
                )
        return found

    def old_versions(self) -> list[Hidden]:
        """Versions that are not the latest of their object, and marks that only say "deleted".

        Their age counts from when something newer took their place. Marks come last: taken away while a version is
        left below it, a mark would bring that version back.
        """
        entries: dict[str, list[tuple[float, bool, dict[str, Any]]]] = {}
        for page in self._pages("list_object_versions", ("KeyMarker", "VersionIdMarker")):
            for is_mark, name in ((False, "Versions"), (True, "DeleteMarkers")):
                for entry in page.get(name, ()):
                    entries.setdefault(entry["Key"], []).append((entry["LastModified"].timestamp(), is_mark, entry))
        found: list[tuple[bool, Hidden]] = []
        for key, versions in entries.items():
            since = 0.0
            for modified, is_mark, entry in sorted(versions, key=lambda v: (v[2]["IsLatest"], v[0]), reverse=True):
                since = modified if entry["IsLatest"] else since
                if is_mark or not entry["IsLatest"]:
                    size = int(entry.get("Size", 0))
                    hidden = Hidden(
                        key=self._own(key), identifier=entry["VersionId"], num_bytes=size, modified=since or modified
                    )
                    found.append((is_mark, hidden))
                since = modified
        return [hidden for _, hidden in sorted(found, key=lambda each: each[0])]

    def abort_upload(self, upload: Hidden) -> None:
        with self.explained(f"removing an upload of {upload.key}"), contextlib.suppress(FileNotFoundError):
            self._call("abort_multipart_upload", Key=self._full(upload.key), UploadId=upload.identifier)

    def remove_version(self, version: Hidden) -> None:
        with self.explained(f"removing a version of {version.key}"), contextlib.suppress(FileNotFoundError):
            self._call("delete_object", Key=self._full(version.key), VersionId=version.identifier)

    def _pages(self, operation: str, markers: tuple[str, str]) -> Iterator[dict[str, Any]]:
        """All pages of a listing; none where the server does not know the operation."""
        position: dict[str, str] = {}
        while True:
            try:
                with self.explained(f"asking for {operation}"):
                    page = self._call(operation, Prefix=self._full(""), **position)
            except NanochatError as error:
                if error_code(error) in NO_CONDITION_CODES | {"MethodNotAllowed", "405"}:
                    return
                raise
            yield page
            if not page.get("IsTruncated"):
                return
            position = {marker: page[f"Next{marker}"] for marker in markers if page.get(f"Next{marker}")}

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.fs.call_s3(operation, Bucket=self._bucket, **arguments)
        return answer

    @property
    def _bucket(self) -> str:
        return self.location.path.partition("/")[0]

    def _full(self, key: str) -> str:
        prefix = self.location.path.partition("/")[2]
        return f"{prefix}/{key}" if prefix else key

    def _own(self, full: str) -> str:
        return full[len(self._full("")) :]
