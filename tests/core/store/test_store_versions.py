"""Which versions of a bucket may go. The test server keeps none, so the answers are written out here."""

from datetime import UTC, datetime, timedelta
from typing import Any

from nanochat_core.store.filesystem import Location
from nanochat_core.store.s3 import S3Files

START = datetime(2026, 1, 1, tzinfo=UTC)


def entry(key: str, version: str, day: int, *, latest: bool = False) -> dict[str, Any]:
    return {
        "Key": key, "VersionId": version, "Size": 10, "IsLatest": latest, "LastModified": START + timedelta(days=day)
    }  # fmt: skip


PAGES = [
    {
        "IsTruncated": True,
        "NextKeyMarker": "p/replaced",
        "NextVersionIdMarker": "r2",
        "Versions": [entry("p/kept", "k1", 0, latest=True), entry("p/replaced", "r2", 5, latest=True)],
    },
    {
        "IsTruncated": False,
        "Versions": [entry("p/replaced", "r1", 0), entry("p/deleted", "d1", 0)],
        "DeleteMarkers": [entry("p/deleted", "mark", 7, latest=True)],
    },
]


class Bucket:
    """Answers like a server; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def call_s3(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self.asked.append((operation, arguments))
        return PAGES["KeyMarker" in arguments] if operation == "list_object_versions" else {}


def test_old_versions_are_as_old_as_what_replaced_them_and_marks_go_last():
    bucket = Bucket()
    files = S3Files(Location(url="s3://b/p", protocol="s3", path="b/p"), bucket)  # type: ignore[arg-type]
    found = files.old_versions()
    days = {hidden.identifier: (hidden.modified - START.timestamp()) / 86_400 for hidden in found}
    assert days == {"r1": 5, "d1": 7, "mark": 7}, "never one that is the latest of its object"
    assert [hidden.identifier for hidden in found][-1] == "mark"
    assert {hidden.key for hidden in found} == {"replaced", "deleted"}
    files.remove_version(found[0])
    assert bucket.asked[0] == ("list_object_versions", {"Bucket": "b", "Prefix": "p/"})
    assert bucket.asked[1][1] | {"KeyMarker": "p/replaced", "VersionIdMarker": "r2"} == bucket.asked[1][1]
    operation, arguments = bucket.asked[-1]
    assert operation == "delete_object"
    assert arguments["Key"].startswith("p/")
    assert arguments["VersionId"] == found[0].identifier
