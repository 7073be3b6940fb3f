"""What an S3 server refuses, by cause and cure: Amazon's codes, and those of the many servers that speak like it.

s3fs turns codes into errors about files ("Bad Request", "device busy") and hides the server's own word in what caused
them; connections fail in the words of four libraries. Here each becomes one line that names what to change.
"""

import functools
import os
import re
import socket
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from nanochat_core.base.errors import ConfigError, HardwareError, MissingError, NanochatError
from nanochat_core.base.limits import GOES_ON, chain, limit_error

AWS = "AWS"
BARE_CODES = {"400", "403", "301"}  # the answer to a HEAD has no body that could say more
KEYS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "NoAuthTokenError"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "TokenExpired"}
EXPIRED_TYPES = {"UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError"}
REFUSED = {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidSecurity", "AuthFailure", "403",
           "AccountProblem", "NotSignedUp", "InvalidClientTokenId", "UnrecognizedClientException"}  # fmt: skip
DENIED = {"AccessDenied", "AllAccessDisabled", "AccessForbidden", "Forbidden"}
SKEWED = {"RequestTimeTooSkewed", "RequestInTheFuture"}
MISSING = {"NoSuchBucket", "InvalidBucketName", "404"}
ELSEWHERE = {"AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "InvalidLocationConstraint",
             "PermanentRedirect", "TemporaryRedirect", "301", "307", "IncorrectEndpoint"}  # fmt: skip
BUSY = {"SlowDown", "ServiceUnavailable", "503", "RequestLimitExceeded", "TooManyRequests", "429", "Throttling",
        "ThrottlingException", "XMinioServerNotInitialized"}  # fmt: skip
FULL = {"QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "507", "XMinioAdminBucketQuotaExceeded",
        "EntityTooLarge"}  # fmt: skip
NOT_OFFERED = {"NotImplemented", "501", "MethodNotAllowed", "405", "UnsupportedOperation"}
CHECKSUM_CODES = {"MissingContentLength", "XAmzContentSHA256Mismatch", "411", "XAmzContentChecksumMismatch"}
CHECKSUM_WORDS = ("checksum", "x-amz-sdk", "aws-chunked", "trailer", "content-sha256", "streaming-unsigned")
VIRTUAL_HOSTS = {"SecondLevelDomainForbidden", "VirtualHostStyleRequired", "PathStyleNotSupported"}
CHECKSUM_CURE = "export AWS_REQUEST_CHECKSUM_CALCULATION=when_required AWS_RESPONSE_CHECKSUM_VALIDATION=when_required"
RIGHTS = "s3:ListBucket on the bucket, s3:GetObject, s3:PutObject and s3:DeleteObject on what is in it"


class UnreachableError(MissingError):
    """The storage did not answer, or was too busy to; trying again later can help."""


def s3_error(error: BaseException, url: str, doing: str) -> NanochatError:
    """What an exception of s3fs, botocore or aiohttp means."""
    if limit := limit_error(error, doing=doing):
        return limit
    at = f"{url} at {shown_endpoint()}"
    code, kinds = error_code(error), {type(each).__name__ for each in chain(error)}
    if kinds & NO_CREDENTIALS:
        return MissingError(f"there is no key for {url}", hint=f"set {KEYS}")
    if "ProfileNotFound" in kinds:
        return MissingError(one_line(error), hint="set AWS_PROFILE to a profile of ~/.aws/config, or unset it")
    if "ConfigParseError" in kinds:
        hint = "mend the file, or unset AWS_CONFIG_FILE and AWS_SHARED_CREDENTIALS_FILE"
        return MissingError(f"AWS's settings are no such file: {one_line(error)}", hint=hint)
    if "RecursionError" in kinds:  # botocore follows a redirect that names no region for ever
        return _elsewhere(at, error, "PermanentRedirect")
    if code in EXPIRED or kinds & EXPIRED_TYPES:
        hint = f"renew it (aws sso login, or a new AWS_SESSION_TOKEN with its key), {GOES_ON}"
        return MissingError(f"{at}: the session token has expired ({code or 'sign-on'})", hint=hint)
    told = _of_code(code, error, at, doing) if code else _of_connection(error, at)
    if told is not None:
        return told
    if isinstance(error, PermissionError):
        return _denied(at, doing, code or one_line(error))
    if isinstance(error, FileNotFoundError):
        return _missing(at, one_line(error))
    return UnreachableError(
        f"{at} did not answer while {doing}: {one_line(error)}",
        hint="check that the server runs, AWS_ENDPOINT_URL and the network; what is finished is kept",
    )


def _of_code(code: str, error: BaseException, at: str, doing: str) -> NanochatError | None:
    if code in DENIED:
        return _denied(at, doing, code)
    if code in REFUSED:
        hint = f"check {KEYS}: they belong together"
        token = ", and AWS_SESSION_TOKEN belongs to both (unset it for a lasting key)"
        return MissingError(f"{at} refuses the key ({code})", hint=hint + (token if _has_token() else ""))
    if code in SKEWED:
        hint = "set the clock: timedatectl set-ntp true, or chronyc makestep"
        return MissingError(f"{at} refuses the key: this machine's clock is wrong ({code})", hint=hint)
    if code in MISSING:
        return _missing(at, code)
    if code in ELSEWHERE:
        return _elsewhere(at, error, code)
    if code in FULL:
        return HardwareError(f"{at} has no room left ({code})", hint=f"free some space there, {GOES_ON}")
    if code in BUSY:
        hint = f"wait until it is less busy, {GOES_ON}"
        return UnreachableError(f"{at} is too busy ({code}): it refused again and again while {doing}", hint=hint)
    if is_about_checksums(error):
        return MissingError(f"{at} does not take this SDK's checksums ({code})", hint=CHECKSUM_CURE)
    if code in NOT_OFFERED:
        hint = "a store needs put, get, head, list and delete of objects; use another server or a folder"
        return MissingError(f"{at} does not offer what is needed for {doing} ({code})", hint=hint)
    return None


def _of_connection(error: BaseException, at: str) -> NanochatError | None:
    """What stands between us and a server that never answered."""
    text = " ".join(str(each) for each in chain(error)).lower()
    kinds = {type(each) for each in chain(error)}
    if ssl.SSLCertVerificationError in kinds or "certificate_verify_failed" in text or "certificate verify" in text:
        hint = "export AWS_CA_BUNDLE=/path/to/its/ca.pem, or use http:// where the network is your own"
        return MissingError(f"{at}: nobody here vouches for the server's certificate", hint=hint)
    if "wrong_version_number" in text or "record layer failure" in text or "wrong version number" in text:
        return MissingError(f"{at} speaks http, not https", hint="write http:// in AWS_ENDPOINT_URL")
    if speaks_tls(endpoint()):
        return MissingError(f"{at} speaks https, not http", hint="write https:// in AWS_ENDPOINT_URL")
    if any(issubclass(kind, socket.gaierror) for kind in kinds) or "name or service not known" in text:
        hint = "check the host's name in AWS_ENDPOINT_URL and the network"
        return UnreachableError(f"{at} did not answer: there is no host of that name", hint=hint)
    if any(issubclass(kind, ConnectionRefusedError) for kind in kinds) or "connect call failed" in text:
        hint = "check that the server runs, and the port in AWS_ENDPOINT_URL"
        return UnreachableError(f"{at} did not answer: nothing listens there", hint=hint)
    return None


def _elsewhere(at: str, error: BaseException, code: str) -> NanochatError:
    region = region_in(error)
    hint = f"export AWS_REGION={region or 'REGION, the one that the bucket is in'}"
    return MissingError(f"{at} is in another region{f', {region}' if region else ''} ({code})", hint=hint)


def _denied(at: str, doing: str, code: str) -> NanochatError:
    return MissingError(
        f"{at} refuses the key ({code}) while {doing}",
        hint=f"check {KEYS} and what the key may do: {RIGHTS}",
    )


def _missing(at: str, code: str) -> NanochatError:
    return MissingError(
        f"{at} does not exist ({code})", hint="create the bucket, or correct NANOCHAT_STORE and AWS_ENDPOINT_URL"
    )


def error_code(error: BaseException | None) -> str | None:
    """The server's own code; s3fs hides it in what its OSError was caused by or met with."""
    response = _response(error)
    code = response.get("Error", {}).get("Code") if response else None
    return str(code) if code else None


def region_in(error: BaseException) -> str | None:
    """The region that the server says is right."""
    response = _response(error) or {}
    said = response.get("Error", {})
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    found = re.search(r"expecting '([a-z0-9-]+)'", str(said.get("Message", "")))
    region = said.get("Region") or headers.get("x-amz-bucket-region") or (found and found[1])
    return str(region) if region else None


def is_about_checksums(error: BaseException) -> bool:
    """Whether a server stumbled over the checksums that newer SDKs send by themselves."""
    if error_code(error) in CHECKSUM_CODES:
        return True
    message = str((_response(error) or {}).get("Error", {}).get("Message", "")).lower()
    return any(words in message for words in CHECKSUM_WORDS)


def _response(error: BaseException | None) -> Mapping[str, Any] | None:
    for each in chain(error) if error is not None else ():
        response = getattr(each, "response", None)
        if isinstance(response, dict) and response.get("Error"):
            return response
    return None


def endpoint() -> str:
    """The S3 server that the environment or the profile names; "AWS" for Amazon's."""
    names = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_PROFILE", "AWS_CONFIG_FILE")
    found = _endpoint(*(os.environ.get(name) or "" for name in names))
    host = urlsplit(found).hostname or ""
    return AWS if not found or host.endswith((".amazonaws.com", ".amazonaws.com.cn")) else found


@functools.lru_cache(maxsize=8)
def _endpoint(own: str, general: str, profile: str, config: str) -> str:
    if own or general:
        return own or general
    import botocore.session
    from botocore.configprovider import ConfiguredEndpointProvider
    from botocore.exceptions import BotoCoreError

    session = botocore.session.Session()
    try:
        scoped = session.get_scoped_config()
        provider = ConfiguredEndpointProvider(full_config=session.full_config, scoped_config=scoped, client_name="s3")
        return str(provider.provide() or "")
    except BotoCoreError:
        return ""  # a profile that is not there: the first request says so


def check_endpoint() -> None:
    """Refuse an address that no request can be sent to."""
    found = endpoint()
    if found != AWS and not re.fullmatch(r"https?://[^/\s]+(/.*)?", found):
        raise ConfigError(
            f"AWS_ENDPOINT_URL is {shown_endpoint()!r}, which is no address",
            hint="write http://host:port or https://host",
        )


def shown_endpoint() -> str:
    """The server for people: without a name and a password that somebody wrote into its address."""
    return re.sub(r"//[^/@]*@", "//", endpoint())


def speaks_tls(url: str, timeout_s: float = 2.0) -> bool:
    """Whether a server that is addressed by http:// shakes hands by TLS."""
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        return False
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection((parts.hostname, parts.port or 80), timeout=timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname),
        ):
            return True
    except (OSError, ValueError):
        return False


def _has_token() -> bool:
    return bool(os.environ.get("AWS_SESSION_TOKEN"))


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
