"""Whether a configured Prefect server answers, and is one: asked before a run, so that what is wrong is said at once.

Prefect's client waits up to two minutes for a server that is gone, and a page in its place ends in a traceback.
A server that is just being restarted is waited for. Asked with `requests`, by the core, which does not know Prefect.
"""

import base64
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from nanochat_core.base.errors import ConfigError, HardwareError, NanochatError
from nanochat_core.base.proxies import LOOPBACK
from nanochat_core.base.redaction import redact

if TYPE_CHECKING:
    import requests  # at run time where a server is asked: a twentieth of a second that other verbs need not wait

WAIT_S = 8.0  # for a server that is restarting: 4 s here
POLL_S = 0.5
MIN_TIMEOUT_S = 2.0
RESTARTING = (408, 429, 500, 502, 503, 504)
CLOUD = ".prefect.cloud"


@dataclass(frozen=True, kw_only=True)
class Configured:
    """A server that somebody has named."""

    url: str
    source: str = "PREFECT_API_URL"
    """Who names it: the variable, a profile, a file."""
    major: str = ""
    """First number of the installed Prefect's version; empty: any will do."""
    headers: Mapping[str, str] = field(default_factory=dict)
    verify: bool | str = True
    """Of its certificate: whether, or by which file."""

    @property
    def name(self) -> str:
        """As people know it, without a password."""
        start, separator, host = self.url.rpartition("@")
        shown = f"{start.partition('//')[0]}//***@{host}" if separator else self.url
        return f"{self.source} = {redact(shown)}"

    @property
    def cure(self) -> str:
        if self.source == "PREFECT_API_URL":
            return "start that server, or unset PREFECT_API_URL"
        return "start that server, or take its address out there"


def from_environment(url: str) -> Configured:
    """The server of PREFECT_API_URL, as Prefect's variables say how to ask it."""
    user, key = os.environ.get("PREFECT_API_AUTH_STRING"), os.environ.get("PREFECT_API_KEY")
    is_lax = os.environ.get("PREFECT_API_TLS_INSECURE_SKIP_VERIFY", "").lower() in ("1", "true", "yes", "on")
    verify = not is_lax and (os.environ.get("PREFECT_API_SSL_CERT_FILE") or True)
    return Configured(url=url, headers=authorization(user, key), verify=verify)


def authorization(user: str | None, key: str | None) -> dict[str, str]:
    """The header of `user:password`, or of a key."""
    if user:
        return {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"}
    return {"Authorization": f"Bearer {key}"} if key else {}


def check(server: Configured, *, wait_s: float = WAIT_S) -> None:
    """Raise what is wrong with the server; one that does not answer yet is asked again for `wait_s`."""
    import requests

    _check_address(server)
    deadline = time.monotonic() + wait_s
    while True:
        try:
            answer = _ask(server, "admin/version", max(MIN_TIMEOUT_S, deadline - time.monotonic()))
            if answer.status_code not in RESTARTING:
                return _check_answer(server, answer)
            said = f"answers with {answer.status_code} {answer.reason}"
        except requests.exceptions.SSLError as error:
            raise _untrusted(server, error) from error
        except requests.RequestException as error:
            said = f"does not answer ({_reason(error)})"
        except ValueError as error:  # urllib3's and idna's, of an address that only looks like one
            raise ConfigError(f"{server.name} is no address of a server: {error}", hint=server.cure) from error
        if time.monotonic() + POLL_S > deadline:
            raise HardwareError(f"{server.name} {said}", hint=server.cure)
        time.sleep(POLL_S)


def finding(server: Configured) -> NanochatError | None:
    """What `check` raises, for a list of findings."""
    try:
        check(server, wait_s=0)
    except NanochatError as error:
        return error
    return None


def _check_address(server: Configured) -> None:
    try:
        parts = urlsplit(server.url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return
    except ValueError:
        pass
    raise ConfigError(
        f"{server.name} is no address of a server",
        hint=f"such as http://127.0.0.1:4200/api; or {server.cure.partition(', or ')[2]}",
    )


def _ask(server: Configured, path: str, timeout_s: float) -> "requests.Response":
    import requests

    with requests.Session() as session:
        session.trust_env = urlsplit(server.url).hostname not in LOOPBACK  # no proxy stands before this machine
        return session.get(
            f"{server.url.rstrip('/')}/{path}",
            headers={**server.headers},
            timeout=timeout_s,
            verify=server.verify,
            auth=lambda request: request,  # ours, not what ~/.netrc has for that host
        )


def _check_answer(server: Configured, answer: "requests.Response") -> None:
    if answer.status_code in (401, 403):
        raise ConfigError(
            f"{server.name} wants a key ({answer.status_code} {answer.reason})",
            hint="export PREFECT_API_AUTH_STRING=user:password, or PREFECT_API_KEY for Prefect Cloud",
        )
    if (urlsplit(server.url).hostname or "").endswith(CLOUD):
        return
    version = _version(answer)
    if version is None:
        raise ConfigError(
            f"{server.name} is answered by something that is no Prefect server ({answer.status_code} {answer.reason})",
            hint=_meant(server) or f"its address ends in /api; {server.cure}",
        )
    if server.major and version.split(".")[0] != server.major:
        raise ConfigError(
            f"{server.name} is a server of Prefect {version}, and here is Prefect {server.major}",
            hint=f"use a server of Prefect {server.major}: {server.cure}",
        )


def _version(answer: "requests.Response") -> str | None:
    """The version that a Prefect server answers with; None from anything else."""
    try:
        said = answer.json() if answer.ok else None
    except ValueError:
        return None
    return said if isinstance(said, str) and said[:1].isdigit() else None


def _meant(server: Configured) -> str | None:
    """The usual slip is to leave out /api."""
    import requests

    parts = urlsplit(server.url)
    other = Configured(url=urlunsplit((parts.scheme, parts.netloc, "/api", "", "")), headers=server.headers)
    try:
        is_there = _version(_ask(other, "admin/version", MIN_TIMEOUT_S)) is not None
    except (requests.RequestException, ValueError):
        return None
    return f"did you mean {other.name.partition(' = ')[2]}" if is_there else None


def _untrusted(server: Configured, error: Exception) -> NanochatError:
    if "WRONG_VERSION" in str(error) or "RECORD_LAYER" in str(error):
        return ConfigError(f"{server.name} does not speak TLS", hint="http:// instead of https://")
    return ConfigError(
        f"{server.name} has a certificate that is not trusted here",
        hint="export PREFECT_API_SSL_CERT_FILE=/its/ca.pem, or PREFECT_API_TLS_INSECURE_SKIP_VERIFY=true",
    )


def _reason(error: "requests.RequestException") -> str:
    """The end of a chain of wrapped errors, in words."""
    text = str(error)
    for sign, words in (
        ("refused", "connection refused"),
        ("resolve", "there is no such host"),
        ("ProxyError", "the proxy in the way does not"),
        ("timed out", "no answer in time"),
        ("unreachable", "unreachable"),
    ):
        if sign in text or sign in type(error).__name__:
            return words
    return type(error).__name__
