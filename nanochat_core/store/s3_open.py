"""Opening a bucket: what must be known of a server before the first object, found out by asking.

Amazon's region, the form of its addresses and the SDK's checksums differ from those of other servers, and a wrong one
fails in words that name none of them. So a first, small listing is tried within seconds, and what the answer says is
right is used: another region, host names instead of paths. Checksums that are not required are left out everywhere but
on AWS: many servers refuse them, and our files are checked by their digests anyway.
"""

import functools
import logging
import os
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import fsspec
from fsspec import AbstractFileSystem

from nanochat_core.store.failures import explained
from nanochat_core.store.s3_failures import (
    AWS,
    BUSY,
    VIRTUAL_HOSTS,
    check_endpoint,
    endpoint,
    error_code,
    region_in,
)

if TYPE_CHECKING:
    from nanochat_core.store.filesystem import Location
    from nanochat_core.store.s3 import S3Files

log = logging.getLogger(__name__)
# Measured against servers killed in mid-upload and restarted: 8 attempts ride out an outage of about 12 s, 4 do not.
# "standard" caps a pause at 20 s, where botocore's default "legacy" has no cap. The two layers multiply for timeouts.
S3_ATTEMPTS = 8
S3FS_RETRIES = 2
PROBE_ATTEMPTS = 1  # opening a store that is not there has to fail in seconds
PROBE_TIMEOUT_S = 4
MAX_CORRECTIONS = 3
# botocore's setting -> the variable that a person may have set
CHECKSUMS = {
    "request_checksum_calculation": "AWS_REQUEST_CHECKSUM_CALCULATION",
    "response_checksum_validation": "AWS_RESPONSE_CHECKSUM_VALIDATION",
}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How a server wants to be spoken to."""

    region: str
    addressing: str
    """path, virtual or auto."""


def open_s3(location: "Location") -> "S3Files":
    """The objects below a prefix of a bucket, which is there and may be listed."""
    import aiohttp
    from botocore.exceptions import BotoCoreError, ClientError

    from nanochat_core.store.s3 import S3Files

    check_endpoint()
    failures = (OSError, BotoCoreError, ClientError, aiohttp.ClientError, RecursionError)
    with explained((*failures, ValueError), url=location.url, doing="listing it"):
        dialect = _dialect(location, failures)
    filesystem = _filesystem(dialect, attempts=S3_ATTEMPTS, retries=S3FS_RETRIES, connect_s=5, read_s=30)
    return S3Files(location, filesystem, failures=failures)


def _dialect(location: "Location", failures: tuple[type[BaseException], ...]) -> Dialect:
    """The dialect in which a listing succeeds; a busy server is taken at its first word."""
    dialect = Dialect(region=_region(), addressing="auto" if endpoint() == AWS else "path")
    for left in reversed(range(MAX_CORRECTIONS)):
        try:
            return replace(dialect, region=_list_once(dialect, location) or dialect.region)
        except failures as error:
            corrected = _corrected(dialect, error)
            if corrected == dialect and error_code(error) in BUSY:
                break
            if corrected == dialect or not left:
                raise
            dialect = corrected
    return dialect


def _corrected(dialect: Dialect, error: BaseException) -> Dialect:
    region = region_in(error)
    if region is not None and region != dialect.region:
        log.info("the bucket is in the region %s, not in %s", region, dialect.region)
        return replace(dialect, region=region)
    if error_code(error) in VIRTUAL_HOSTS and dialect.addressing == "path":
        return replace(dialect, addressing="virtual")
    return dialect


def _list_once(dialect: Dialect, location: "Location") -> str | None:
    """List, and say for which region the request that succeeded was signed.

    botocore follows a listing's answer to another region by itself, and keeps that to itself; a HEAD, whose answer
    names no region, it cannot follow.
    """
    bucket, _, prefix = location.path.partition("/")
    probe = _filesystem(dialect, attempts=PROBE_ATTEMPTS, retries=1, connect_s=2, read_s=PROBE_TIMEOUT_S)
    regions: list[str] = []

    def note(request: Any, **_: Any) -> None:
        signed = request.headers.get("Authorization") or b""
        text = signed.decode() if isinstance(signed, bytes) else signed
        regions.extend(re.findall(r"Credential=[^/]+/\d+/([^/]+)/", text))

    probe.s3.meta.events.register("before-send.s3.ListObjectsV2", note)
    probe.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, MaxKeys=1)
    return regions[-1] if regions else None


def _region() -> str:
    import botocore.session

    found = os.environ.get("AWS_REGION") or botocore.session.Session().get_config_variable("region")
    return str(found or "us-east-1")


@functools.cache
def _service_models() -> Any:
    """botocore's descriptions of AWS, parsed once: without sharing them each new client takes 50 ms longer."""
    import botocore.loaders

    return botocore.loaders.create_loader()


def _filesystem(dialect: Dialect, *, attempts: int, retries: int, connect_s: int, read_s: int) -> AbstractFileSystem:
    from aiobotocore.session import AioSession

    address = endpoint()
    session = AioSession()  # one for each client: a session remembers its credentials, and renews those that it can
    session.register_component("data_loader", _service_models())
    unset = [option for option, variable in CHECKSUMS.items() if variable not in os.environ]
    filesystem = fsspec.filesystem(
        "s3",
        session=session,
        use_listings_cache=False,  # several writers: a listing is stale as soon as it is kept
        skip_instance_cache=True,
        client_kwargs={
            "region_name": dialect.region,
            **({} if address == AWS else {"endpoint_url": address}),
        },
        config_kwargs={
            "s3": {"addressing_style": dialect.addressing},
            "connect_timeout": connect_s,
            "read_timeout": read_s,
            "retries": {"mode": "standard", "max_attempts": attempts},
            "max_pool_connections": 32,
            **({} if address == AWS else dict.fromkeys(unset, "when_required")),
        },
    )
    filesystem.retries = retries
    return filesystem
