"""What the storage says when it fails, in words that name the cure.

Four families of exceptions meet here (OSError, botocore's, its ClientError, aiohttp's), and some of them mislead: a
503 arrives as "device busy", a wrong key and a missing bucket as errors about a file. `UnreachableError` is apart from
the rest because waiting can heal it; a retry of the others is wasted time.
"""

import contextlib
import errno
import os
from collections.abc import Iterator

from nanochat_core.base.errors import MissingError, NanochatError
from nanochat_core.base.limits import limit_error

NO_PERMISSION = {errno.EACCES, errno.EPERM, errno.EROFS}
NOT_A_FOLDER = {errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG}
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError"}
REFUSED_CODES = {"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "403"}
MISSING_CODES = {"NoSuchBucket", "InvalidBucketName", "404"}


class UnreachableError(MissingError):
    """The storage did not answer, or was too busy to; trying again later can help."""


@contextlib.contextmanager
def explained(kinds: tuple[type[BaseException], ...], *, url: str, doing: str) -> Iterator[None]:
    """Turn the storage's exceptions (`kinds`) into errors meant for people."""
    try:
        yield
    except NanochatError:
        raise
    except kinds as error:
        is_remote = "://" in url
        raise (_remote_error if is_remote else local_error)(error, url, doing) from error


def local_error(error: BaseException, url: str, doing: str) -> NanochatError:
    """For a folder store, and for this machine's side of a remote one (cache, files to publish)."""
    number = getattr(error, "errno", None)
    where = getattr(error, "filename", None) or url
    if limit := limit_error(error, doing=doing, where=where):
        return limit
    if number in NO_PERMISSION:
        return MissingError(
            f"no permission while {doing}: {where}",
            hint="make the folder writable, or set NANOCHAT_STORE to another one",
        )
    if number in NOT_A_FOLDER:
        return MissingError(
            f"{where} cannot be used as a path while {doing}: {os.strerror(number or 0)}",
            hint="set NANOCHAT_STORE to a folder, or to an empty path where one can be made",
        )
    return MissingError(f"failed {doing} in {url}: {_one_line(error)}", hint="check the disk, then run again")


def _remote_error(error: BaseException, url: str, doing: str) -> NanochatError:
    if getattr(error, "filename", None) and isinstance(error, OSError):
        return local_error(error, url, doing)  # s3fs does not set filename: this is the local end of a transfer
    code = error_code(error)
    at = f"{url} at {endpoint()}" if url.startswith("s3://") else url
    if type(error).__name__ in NO_CREDENTIALS:
        return MissingError(f"there is no key for {url}", hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
    if code in REFUSED_CODES or isinstance(error, PermissionError):
        return MissingError(
            f"{at} refuses the key ({code or _one_line(error)})",
            hint="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and what the key may do with this bucket",
        )
    if code in MISSING_CODES or isinstance(error, FileNotFoundError):
        return MissingError(
            f"{at} does not exist ({code or _one_line(error)})",
            hint="create the bucket, or correct NANOCHAT_STORE and AWS_ENDPOINT_URL",
        )
    if limit := limit_error(error, doing=doing):
        return limit
    return UnreachableError(
        f"{at} did not answer while {doing}: {_one_line(error)}",
        hint="check that the server runs, AWS_ENDPOINT_URL and the network; what is finished is kept",
    )


def endpoint() -> str:
    """The S3 server that the environment names."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "AWS"


def error_code(error: BaseException | None) -> str | None:
    """The server's own code; s3fs hides it in the cause of an OSError."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            code: str | None = response.get("Error", {}).get("Code")
            return code
        error = error.__cause__
    return None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
